#!/usr/bin/env python3
# gen_resnet8.py - golden values of a small residual network, from PyTorch in double precision.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_resnet8.py > tests/golden/golden_resnet8.h
#
# Weights, images and probes come from one integer hash, so that no file has to carry them.  Gradients and statistics are
# kept as probes: the dot product with hashed numbers, and the sum of absolute terms that bounds its rounding error.
import numpy as np
import torch
import torch.nn.functional as F
from golden_numbers import numbers, probe, table

CLASSES, BATCH, SIDE = 5, 4, 12


# (name, shape in libkd's layout, scale, shift) in libkd's order: parameters, then buffers
params, buffers = [], []


def conv(name, i, o, k):
    params.append((name + ".weight", (k, k, i, o), 0.25, 0.0))


def bn(name, c):
    params.append((name + ".weight", (c,), 1.0, 1.0))
    params.append((name + ".bias", (c,), 0.5, 0.0))
    buffers.append((name + ".running_mean", (c,), 0.5, 0.0))
    buffers.append((name + ".running_var", (c,), 1.0, 1.0))


conv("conv1", 3, 16, 3)
bn("bn1", 16)
channels = 16
for g, width in enumerate((16, 32, 64), 1):
    p = f"layer{g}.0."
    conv(p + "conv1", channels, width, 3)
    bn(p + "bn1", width)
    conv(p + "conv2", width, width, 3)
    bn(p + "bn2", width)
    if width != channels:
        conv(p + "downsample.0", channels, width, 1)
        bn(p + "downsample.1", width)
    channels = width
params.append(("fc.weight", (64, CLASSES), 0.5, 0.0))
params.append(("fc.bias", (CLASSES,), 0.5, 0.0))

state = {}
for s, (name, shape, scale, shift) in enumerate(params + buffers):
    v = torch.from_numpy((numbers(s, int(np.prod(shape))) * scale + shift).reshape(shape))
    if len(shape) == 4:
        v = v.permute(3, 2, 0, 1).contiguous()
    elif name == "fc.weight":
        v = v.t().contiguous()
    v.requires_grad_(s < len(params))
    state[name] = v


def norm(x, name, train):
    return F.batch_norm(x, state[name + ".running_mean"], state[name + ".running_var"], state[name + ".weight"],
                        state[name + ".bias"], training=train, momentum=0.1, eps=1e-5)


def forward(x, train):
    taps = {}
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1", train))
    for g in (1, 2, 3):
        p = f"layer{g}.0."
        stride = 1 if g == 1 else 2
        h = F.relu(norm(F.conv2d(x, state[p + "conv1.weight"], padding=1, stride=stride), p + "bn1", train))
        h = norm(F.conv2d(h, state[p + "conv2.weight"], padding=1), p + "bn2", train)
        if g > 1:
            x = norm(F.conv2d(x, state[p + "downsample.0.weight"], stride=stride), p + "downsample.1", train)
        taps[f"layer{g}:pre"] = h + x
        x = F.relu(h + x)
        taps[f"layer{g}"] = x
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]), taps


def libkd_layout(name, v):
    v = v.detach()
    if v.dim() == 4 and name.endswith("weight"):
        v = v.permute(2, 3, 1, 0)
    elif v.dim() == 4:
        v = v.permute(0, 2, 3, 1)
    elif name == "fc.weight":
        v = v.t()
    return v.contiguous().numpy().reshape(-1)


images = torch.from_numpy((numbers(1000, BATCH * SIDE * SIDE * 3) * 4).reshape(BATCH, SIDE, SIDE, 3)).permute(0, 3, 1, 2)
labels = torch.arange(BATCH) * 3 % CLASSES

print("/* golden_resnet8.h - made by tests/tools/gen_resnet8.py: PyTorch in double precision.\n"
      " * SPDX-License-Identifier: MIT */\n#include \"probe.h\"")
print(f"enum {{ CLASSES = {CLASSES}, BATCH = {BATCH}, SIDE = {SIDE} }};")

with torch.no_grad():
    logits, taps = forward(images, False)
table("double", "eval_logits", [f"{v:.17g}" for v in logits.reshape(-1)], 5)
table("probe", "eval_taps", [probe(2000 + i, n, libkd_layout(n, v)) for i, (n, v) in enumerate(taps.items())])

logits, _ = forward(images, True)
loss = F.cross_entropy(logits, labels)
loss.backward()
table("double", "train_logits", [f"{v:.17g}" for v in logits.detach().reshape(-1)], 5)
print(f"\nstatic const double train_loss = {loss.item():.17g};")
table("probe", "train_grads", [probe(3000 + i, p[0], libkd_layout(p[0], state[p[0]].grad)) for i, p in enumerate(params)])
table("probe", "train_buffers", [probe(4000 + i, b[0], libkd_layout(b[0], state[b[0]])) for i, b in enumerate(buffers)])
