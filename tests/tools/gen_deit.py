#!/usr/bin/env python3
# gen_deit.py - golden values of DeiT's training step: batches mixed by mix-up and by CutMix, both heads, soft and hard labels of
# a teacher that sees the same batch; timm's transformers in double precision.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_deit.py > tests/golden/golden_deit.h
import numpy as np
import torch
import torch.nn.functional as F
from golden_numbers import numbers, probe, table
import no_torchvision  # noqa: F401
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

SIZES = {"COUNT": 24, "BATCH": 6, "IMAGE": 12, "CLASSES": 5, "WIDTH": 24, "DEPTH": 2, "HEADS": 3, "TEACHER_WIDTH": 16}
COUNT, B, IMAGE, CLASSES, WIDTH, DEPTH, HEADS, TEACHER_WIDTH = SIZES.values()
SMOOTHING, TEMPERATURE, HARD, SOFT = 0.1, 3.0, 0.5, 0.5
MEAN, STD = np.float32([0.5, 0.45, 0.4]).astype(np.float64), np.float32([0.25, 0.3, 0.2]).astype(np.float64)

# What the loader draws with seed 2: (item, partner, what stays of the item), and (item, partner, box of the partner's pixels).
MIXUP = [(9, 15, 0.820284963), (7, 11, 0.748325408), (14, 6, 0.803381681), (11, 7, 0.748325408), (15, 9, 0.820284963),
         (6, 14, 0.803381681)]
CUTMIX = [(21, 18, (2, 12, 6, 12)), (22, 10, (2, 10, 2, 10)), (4, 20, (7, 12, 2, 11)), (18, 21, (2, 12, 6, 12)),
          (20, 4, (7, 12, 2, 11)), (10, 22, (2, 10, 2, 10))]


def ours(v):
    """The order of libkd: linear [in, out], convolution [kh, kw, in, out]."""
    return v.permute(2, 3, 1, 0) if v.dim() == 4 else v.t() if v.dim() == 2 else v


def fill(model, stream):
    for s, (name, p) in enumerate(model.named_parameters()):
        v = torch.from_numpy(numbers(stream + s, p.numel()) * 0.5 + ("norm" in name and name.endswith("weight")))
        v = v.reshape(ours(p.data).shape)
        p.data = (v.permute(3, 2, 0, 1) if p.dim() == 4 else v.t() if p.dim() == 2 else v).contiguous()
    return model


student = fill(VisionTransformerDistilled(img_size=IMAGE, patch_size=4, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
                                          num_classes=CLASSES).double(), 0)
teacher = fill(VisionTransformer(img_size=IMAGE, patch_size=6, embed_dim=TEACHER_WIDTH, depth=1, num_heads=2,
                                 num_classes=CLASSES).double(), 500).eval()
items = np.stack([np.floor((numbers(2000 + i, IMAGE * IMAGE * 3) + 0.5) * 256) for i in range(COUNT)])
items = (items.reshape(COUNT, IMAGE, IMAGE, 3) / 255 - MEAN) / STD


def batch(rows):
    x, y = np.zeros((B, IMAGE, IMAGE, 3)), np.zeros((B, CLASSES))
    for r, (a, b, how) in enumerate(rows):
        x[r] = items[a]
        if isinstance(how, tuple):
            top, bottom, left, right = how
            x[r, top:bottom, left:right] = items[b, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / IMAGE**2
        else:
            share = round(how * 2**24) / 2**24
            x[r] = share * items[a] + (1 - share) * items[b]
        y[r, a % CLASSES] += share
        y[r, b % CLASSES] += 1 - share
    y = (1 - SMOOTHING) * y + SMOOTHING / CLASSES
    return torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)


def case(x, y, hard):
    student.train()
    student.set_distilled_training(True)
    student.zero_grad()
    head, second = student(x)
    with torch.no_grad():
        t = teacher(x)
    best = t.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-3   # no rounding decides the class
    base = -(y * F.log_softmax(head, 1)).sum(1).mean()
    if hard:
        soft = F.cross_entropy(second, t.argmax(1))
    else:
        p = F.softmax(t / TEMPERATURE, 1)
        soft = F.kl_div(F.log_softmax(second / TEMPERATURE, 1), p, reduction="sum") * TEMPERATURE**2 / second.numel()
    (HARD * base + SOFT * soft).backward()
    with torch.no_grad():
        student.eval()
        mean = student(x)
    return base.item(), soft.item(), mean


print("/* golden_deit.h - made by tests/tools/gen_deit.py: DeiT's step with timm's transformers in double precision.\n"
      " * SPDX-License-Identifier: MIT */\n#include \"probe.h\"")
print("enum { " + ", ".join(f"{k} = {v}" for k, v in SIZES.items()) + " };")
print("""
/* A step: its terms before their weights, the mean of both heads, the gradients. */
typedef struct deit_step {
    const char *method;
    double      hard, soft;
    double      mean[BATCH * CLASSES];
    probe       grads[40];
} deit_step;""")
rows = []
for name, hard in ("deit_soft", False), ("deit_hard", True):
    for mixed in MIXUP, CUTMIX:
        base, soft, mean = case(*batch(mixed), hard)
        grads = [probe(3000 + i, n, ours(p.grad).contiguous().numpy().reshape(-1))
                 for i, (n, p) in enumerate(student.named_parameters())]
        values = [f"{v:.17g}" for v in mean.numpy().reshape(-1)]
        lines = ",\n        ".join(", ".join(values[i:i + 5]) for i in range(0, len(values), 5))
        rows.append(f'{{ "{name}", {base:.17g}, {soft:.17g}, {{\n        {lines} }}, {{\n        '
                    + ",\n        ".join(grads) + " } }")
table("deit_step", "deit_steps", rows)
