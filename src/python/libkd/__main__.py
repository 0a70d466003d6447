"""python -m libkd: what is installed, and whether it works.  python -m libkd demo: a teacher teaches a student to read digits.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
from typing import Callable

import libkd
from libkd import loss, zoo


def logits(rows: int, classes: int, seed: int) -> libkd.Tensor:
    rng = libkd.Rng(seed)
    return libkd.Tensor([[3 * rng.normal() for _ in range(classes)] for _ in range(rows)], dtype="f32")


def need(condition: bool, found: object = "") -> None:
    """An assert that `python -O` keeps."""
    if not condition:
        raise AssertionError(found)


def check_loss() -> None:
    """kd() against its formula in Python's double precision."""
    s, t = logits(64, 10, 1), logits(64, 10, 2)

    def softmax(row: list, temperature: float) -> list:
        e = [math.exp((v - max(row)) / temperature) for v in row]
        return [v / sum(e) for v in e]

    want = 0.0
    for i, (a, b) in enumerate(zip(s.tolist(), t.tolist())):
        p, q = softmax(b, 4.0), softmax(a, 4.0)
        want += 0.9 * 16 * sum(u * math.log(u / v) for u, v in zip(p, q)) - 0.1 * math.log(softmax(a, 1.0)[i % 10])
    got = loss.kd(s, t, [i % 10 for i in range(64)])
    need(abs(got.loss - want / 64) < 1e-5 * want / 64, (got.loss, want / 64))


def check_gradient() -> None:
    """The gradient against differences of the loss."""
    s, t, y = logits(4, 5, 3), logits(4, 5, 4), [0, 1, 2, 3]
    grad = loss.kd(s, t, y, grad=True).grad
    for i in range(4):
        for c in range(5):
            v = s.get(i, c)
            s.set(i, c, v + 0.01)
            up = loss.kd(s, t, y).loss
            s.set(i, c, v - 0.01)
            down = loss.kd(s, t, y).loss
            s.set(i, c, v)
            need(abs((up - down) / 0.02 - grad[i, c]) < 1e-3, (i, c))


def check_bits() -> None:
    """One thread and all, and the instruction sets of this CPU that keep the promise of equal bits."""
    s, t = logits(200, 33, 5), logits(200, 33, 6)
    results = []
    for options in (dict(), dict(threads=1), dict(isa="avx2")):
        with libkd.Context(**options) as context:
            if options.get("isa") not in (None, context.isa):
                continue
            r = loss.kd(s, t, grad=True, context=context)
            results.append((r.loss, r.grad.tolist()))
    need(all(r == results[0] for r in results))


def check_training() -> None:
    """A student that imitates a teacher comes nearer to it."""
    teacher, student = zoo.mlp([8, 32, 4], seed=1), zoo.mlp([8, 32, 4], seed=2)
    teacher.freeze()
    opt, how = libkd.Optimizer("adam", student, lr=1e-2), libkd.LossDistill(hard_weight=0.0, soft_weight=1.0)
    look, learn = libkd.Tape("infer"), libkd.Tape()
    x = logits(64, 8, 7)
    values = []
    for _ in range(60):
        with look, learn:
            value = how(learn, student(learn, x), teacher(look, x))
            value.backward()
            values.append(value.item())
        opt.step()
    need(values[-1] < values[0] / 5, values)


def check_files() -> None:
    """A model and a checkpoint come back as they went."""
    with tempfile.TemporaryDirectory() as folder:
        a, b = zoo.mlp([8, 4], seed=1), zoo.mlp([8, 4], seed=2)
        a.save(os.path.join(folder, "m.safetensors"))
        b.load(os.path.join(folder, "m.safetensors"))
        need(a.weights.tolist() == b.weights.tolist())
        c = zoo.mlp([8, 4], seed=3)
        libkd.Checkpoint(m=a).save(os.path.join(folder, "c.kd"))
        libkd.Checkpoint(m=c).load(os.path.join(folder, "c.kd"))
        need(a.weights.tolist() == c.weights.tolist())


def check_errors() -> None:
    """A mistake is an exception with a text, and nothing worse."""
    try:
        libkd.Tape().matmul(logits(2, 3, 1), logits(2, 3, 1))
    except libkd.KdArgumentError as error:
        need("kd_matmul" in str(error))
    else:
        raise AssertionError("no error")


CHECKS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("the loss is its formula", check_loss), ("its gradient is its slope", check_gradient),
    ("the same bits on every thread", check_bits),
    ("a student learns", check_training), ("files come back", check_files), ("errors are told", check_errors))


def info() -> int:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"libkd     {libkd.version()}  (package {libkd.__version__}, {python})")
    print(f"library   {libkd.library_path()}")
    print(f"build     {libkd.build_info()}")
    print(f"CPU       {libkd.isa()}, {libkd.threads()} thread{'s' if libkd.threads() != 1 else ''}")
    print("self-test")
    failed = 0
    for name, check in CHECKS:
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"  FAILED  {name}: {type(error).__name__}: {error}")
        else:
            print(f"  ok      {name}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m libkd", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="a teacher teaches a student to read handwritten digits; in some seconds")
    demo.add_argument("--seeds", type=int, default=5, help="repeat over so many splits and initial weights (default 5)")
    demo.add_argument("--labels", type=int, default=100, help="so many images have a label for the student (default 100)")
    demo.add_argument("--out", default=None, help="save the distilled student here (safetensors)")
    options = parser.parse_args()
    if options.command == "demo":
        from libkd.demo import run

        return run(options.seeds, options.labels, options.out)
    return info()


if __name__ == "__main__":
    sys.exit(main())
