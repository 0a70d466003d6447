"""distill_digits.py - a teacher reads digits, and teaches a student that has only 100 labels.

Needs libkd and Python, nothing else:

    python examples/python/distill_digits.py [student.safetensors]

SPDX-License-Identifier: MIT
"""
import array
import sys

import libkd
from libkd import zoo
from libkd.demo import digits

LABELS, TEST, STEPS = 100, 360, 900


def train(student, teacher, data):
    """So many steps; with no teacher the student learns from the labels alone."""
    how = libkd.LossDistill(temperature=2.0, hard_weight=0.1 if teacher else 1.0, soft_weight=0.9 if teacher else 0.0,
                            unlabelled_index=-1)                # such a row is taught, but has no true label
    opt = libkd.Optimizer("adam", student, lr=3e-3, schedule=libkd.Schedule("cosine", total_steps=STEPS))
    look, learn = libkd.Tape("infer"), libkd.Tape("train")      # the teacher looks, the student learns
    batches = libkd.Loader(data, batch=64, seed=1, scale=1 / 16)
    while opt.steps < STEPS:
        for x, y in batches:
            with look, learn:
                how(learn, student(learn, x), teacher and teacher(look, x), y).backward()
            opt.step()
    return student


def accuracy(model, data):
    right, tape = 0, libkd.Tape("infer")
    for x, y in libkd.Loader(data, batch=256, shuffle=False, scale=1 / 16):
        with tape:
            right += sum(row.index(max(row)) == label for row, label in zip(model(tape, x).tolist(), y.tolist()))
    return f"{100 * right / len(data):.1f} %"


images = digits()
order = list(range(len(images)))
libkd.Rng(1).shuffle(order)
everything, test, few = images.subset(order[TEST:]), images.subset(order[:TEST]), images.subset(order[TEST:TEST + LABELS])
partly = images.subset(order[TEST:])
partly.labels[LABELS:] = memoryview(array.array("i", [-1] * (len(partly) - LABELS)))

teacher = train(zoo.mlp([64, 256, 10], seed=1), None, everything)
teacher.freeze()
alone = train(zoo.mlp([64, 32, 10], seed=2), None, few)
taught = train(zoo.mlp([64, 32, 10], seed=2), teacher, partly)
print(f"teacher, all labels                    {teacher.size:7,} parameters  {accuracy(teacher, test)}")
print(f"student alone, {LABELS} labels              {alone.size:7,} parameters  {accuracy(alone, test)}")
print(f"student taught, + unlabelled images    {taught.size:7,} parameters  {accuracy(taught, test)}")
if len(sys.argv) > 1:
    taught.save(sys.argv[1])
