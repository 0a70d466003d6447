#!/usr/bin/env python3
# gen_vit.py - golden values of a small ViT, and of a DeiT with a distillation token, from timm's models in double precision.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_vit.py > tests/golden/golden_vit.h
import numpy as np
import torch
from golden_numbers import numbers, probe, table
import no_torchvision  # noqa: F401
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

SIZES = {"BATCH": 3, "IMAGE": 12, "PATCH": 4, "WIDTH": 24, "DEPTH": 3, "HEADS": 3, "CLASSES": 5}
B, IMAGE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = SIZES.values()


def ours(v):
    """The order of libkd: linear [in, out], convolution [kh, kw, in, out]."""
    return v.permute(2, 3, 1, 0) if v.dim() == 4 else v.t() if v.dim() == 2 else v


def make(kind):
    model = kind(img_size=IMAGE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=CLASSES).double()
    # the order of libkd's parameters is timm's
    for s, (name, p) in enumerate(model.named_parameters()):
        scale, shift = (0.5, 1.0) if "norm" in name and name.endswith("weight") else (0.5, 0.0)
        v = torch.from_numpy(numbers(s, p.numel()) * scale + shift)
        v = v.reshape(ours(p.data).shape)
        p.data = (v.permute(3, 2, 0, 1) if p.dim() == 4 else v.t() if p.dim() == 2 else v).contiguous()
    return model


def images():
    return torch.from_numpy(numbers(1000, B * IMAGE * IMAGE * 3) * 4).reshape(B, IMAGE, IMAGE, 3).requires_grad_()


def values(v):
    return [f"{e:.17g}" for e in v.detach().numpy().reshape(-1)]


def gradients(name, model, x):
    named = list(model.named_parameters())
    rows = [probe(3000 + i, n, ours(p.grad).contiguous().numpy().reshape(-1)) for i, (n, p) in enumerate(named)]
    table("probe", name + "_grads", rows + [probe(3100, "x", np.ascontiguousarray(x.grad.numpy()).reshape(-1))])
    norms = [f"{np.linalg.norm(p.grad.numpy()):.17g}" for _, p in named]
    table("double", name + "_norms", norms + [f"{x.grad.norm().item():.17g}"], 5)


w = [torch.from_numpy(numbers(1001 + i, B * CLASSES)).reshape(B, CLASSES) for i in range(2)]
print("/* golden_vit.h - made by tests/tools/gen_vit.py: timm's VisionTransformerDistilled and VisionTransformer in double "
      "precision.\n"
      " * SPDX-License-Identifier: MIT */\n#include \"probe.h\"")
print("enum { " + ", ".join(f"{k} = {v}" for k, v in SIZES.items()) + " };")

model, x = make(VisionTransformerDistilled), images()
model.eval()
mean = model(x.permute(0, 3, 1, 2))
model.train()
model.set_distilled_training(True)
head, head_dist = model(x.permute(0, 3, 1, 2))
((head * w[0]).sum() + (head_dist * w[1]).sum()).backward()
for name, v in ("mean", mean), ("head", head), ("dist", head_dist):
    table("double", name + "_logits", values(v), 5)
gradients("vit", model, x)

model, x = make(VisionTransformer), images()
y = model(x.permute(0, 3, 1, 2))
(y * w[0]).sum().backward()
table("double", "plain_logits", values(y), 5)
gradients("plain", model, x)
