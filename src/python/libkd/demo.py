"""demo - few labels, a good teacher, plenty of unlabelled images: what distillation is worth, on handwritten digits.

A small CNN learns from every label.  A small MLP learns three times: from a few labels alone; from the teacher on
the same images; from the teacher on all images, of which a few have a label.  The same work as `make demo`, shorter.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

import libkd
from libkd import zoo

SCALE = 1 / 16          # the pixels are 0 to 16
TEST = 360


class Row(NamedTuple):
    parameters: int
    accuracy: float
    seconds: float


def folder() -> str:
    """Where the digits are: in the package, or in the source tree."""
    here = os.path.dirname(os.path.abspath(__file__))
    for path in (os.path.join(here, "_data"), os.path.join(here, "..", "..", "..", "examples", "data")):
        if os.path.exists(os.path.join(path, "digits-images.idx")):
            return path
    raise FileNotFoundError("the digits are neither in the package nor in examples/data")


def digits() -> libkd.Dataset:
    """1,797 images of 8 x 8 pixels with their labels (CC BY 4.0; examples/data/README.md says from where)."""
    path = folder()
    return libkd.Dataset.from_idx(os.path.join(path, "digits-images.idx"), os.path.join(path, "digits-labels.idx"))


def accuracy(model: libkd.Model, data: libkd.Dataset) -> float:
    """Percent of `data` the model gets right."""
    right = 0
    tape = libkd.Tape("infer")
    for x, y in libkd.Loader(data, batch=256, shuffle=False, scale=SCALE):
        with tape:
            rows = model(tape, x).tolist()
        right += sum(max(range(len(row)), key=row.__getitem__) == label for row, label in zip(rows, y.tolist()))
    return 100 * right / len(data)


def learn(model: libkd.Model, data: libkd.Dataset, teacher: libkd.Model | None, steps: int, seed: int, shift: int = 0) -> float:
    """Train, from the labels alone if there is no teacher; returns seconds."""
    start = time.perf_counter()
    if teacher is None:
        how = libkd.LossDistill(hard_weight=1.0, soft_weight=0.0, unlabelled_index=-1)
    else:
        how = libkd.LossDistill(temperature=2.0, unlabelled_index=-1)
    opt = libkd.Optimizer("adam", model, lr=3e-3, schedule=libkd.Schedule("cosine", total_steps=steps))
    look, tape = libkd.Tape("infer"), libkd.Tape("train")          # the teacher looks, the student learns
    loader = libkd.Loader(data, batch=64, seed=seed, scale=SCALE, shift=shift)
    while opt.steps < steps:
        for x, y in loader:
            with look, tape:
                how(tape, model(tape, x), teacher and teacher(look, x), y).backward()
            opt.step()
            if opt.steps == steps:
                break
    return time.perf_counter() - start


def experiment(seed: int, labels: int, say=lambda text: None) -> tuple[dict[str, Row], libkd.Model]:
    """One split of the digits: the table's rows, and the student that was distilled with unlabelled images."""
    images = digits()
    rng = libkd.Rng(1 + seed)
    order = list(range(len(images)))
    rng.split(1).shuffle(order)
    train, test, few = images.subset(order[:-TEST]), images.subset(order[-TEST:]), images.subset(order[:labels])
    partly = images.subset(order[:-TEST])
    partly.labels[labels:] = memoryview(bytearray(b"\xff" * 4 * (len(partly) - labels))).cast("i")     # -1: unlabelled

    rows: dict[str, Row] = {}

    def row(name: str, model: libkd.Model, *course) -> libkd.Model:
        say(f"seed {seed + 1}: {name}")
        seconds = learn(model, *course)
        rows[name] = Row(model.size, accuracy(model, test), seconds)
        return model

    teacher = row("teacher, all labels", zoo.cnn(rng.split(2).key, height=8, width=8, hidden=64), train, None, 500, seed, 1)
    teacher.freeze()
    course = (900, seed)
    for name, data, by in (("student alone, few labels", few, None), ("student distilled, same images", few, teacher),
                           ("student distilled, + unlabelled", partly, teacher)):
        student = row(name, zoo.mlp([64, 32, 10], seed=rng.split(3).key), data, by, *course)
    return rows, student


def run(seeds: int = 5, labels: int = 100, out: str | None = None) -> int:
    """The whole demo, ending in a table."""
    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:60}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    if not 1 <= labels <= 1797 - TEST or seeds < 1:
        print(f"demo: --labels is 1 to {1797 - TEST}, --seeds at least 1", file=sys.stderr)
        return 2
    tables = []
    for seed in range(seeds):
        rows, student = experiment(seed, labels, say)
        tables.append(rows)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"\ndigits: {seeds} seed{'s' if seeds > 1 else ''}, {labels} labels or all; CPU level {libkd.isa()}, "
          f"{libkd.threads()} threads\n")
    print(f"{'':34}{'parameters':>11}{'test accuracy':>16}{'training':>11}")
    for name, first in tables[0].items():
        scores = [table[name].accuracy for table in tables]
        seconds = sum(table[name].seconds for table in tables)
        print(f"{name:34}{first.parameters:>11,}{sum(scores) / seeds:>14.1f} %{seconds / seeds:>9.2f} s")
    alone, taught = (sum(t[name].accuracy for t in tables) / seeds for name in ("student alone, few labels",
                                                                              "student distilled, + unlabelled"))
    print(f"\nThe teacher and the unlabelled images are worth {taught - alone:+.1f} points to the student.")
    if out:
        student.save(out)
        print(f"The distilled student: {out}")
    return 0
