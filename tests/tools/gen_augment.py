#!/usr/bin/env python3
# gen_augment.py - golden images of RandAugment's ops, from timm's list with Pillow's arithmetic; and of Pillow's resizing.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_augment.py > tests/golden/golden_augment.h
import no_torchvision  # noqa: F401
import numpy as np
import torch
from golden_numbers import numbers
from PIL import Image, __version__
from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS as NAMES, AugmentOp

FILL = (124, 116, 104)


def picture(height, width, stream):
    """Waves and noise, each channel in a range of its own, some of it cut off: the same as picture() in test_randaugment.c."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 9 + y * 5, 230 - x * 4 + y * 3, (x * y) % 97 + 60], axis=-1)
    noise = numbers(stream, height * width * 3).reshape(height, width, 3) * (60, 90, 40)
    return np.clip(np.floor(base + noise), 0, 255).astype(np.uint8)


def show(name, pixels):
    text = bytes(pixels.reshape(-1)).hex()
    print(f"static const char {name}[] =")
    for i in range(0, len(text), 120):
        print(f'    "{text[i:i + 120]}"' + (";" if i + 120 >= len(text) else ""))


class Sign:
    """In place of timm's random module: all ops are done, in the direction wanted."""

    def __init__(self, negative):
        self.negative = negative

    def random(self):
        return 0.75 if self.negative else 0.25

    def gauss(self, mean, deviation):
        return mean


print(f"/* golden_augment.h - made by tests/tools/gen_augment.py: timm's RandAugment ops by Pillow {__version__}, and its resizing.")
print(" * SPDX-License-Identifier: MIT */\n#include \"probe.h\"\n")
import timm.data.auto_augment as timm_ops  # noqa: E402

rows = []
for op, name in enumerate(NAMES):
    histogram = name in ("AutoContrast", "Equalize")
    signs = (False, True) if name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel") or "Color" in name or \
        "Contrast" in name and name != "AutoContrast" or "Brightness" in name or "Sharpness" in name else (False,)
    levels = (9.0,) if histogram or name == "Invert" else (0.0, 3.7, 9.0, 10.0) if len(signs) == 1 else (3.7, 9.4)
    for level in levels:
        for negative in signs:
            height, width = (24, 20) if histogram else (9, 11)
            if name == "PosterizeIncreasing" and level == 10.0:
                continue   # no bits: Pillow of today refuses, that of DeiT's time gave black
            timm_ops.random = Sign(negative)
            apply = AugmentOp(name, prob=1.0, magnitude=level,
                              hparams=dict(img_mean=FILL, interpolation=Image.Resampling.BICUBIC))
            result = np.asarray(apply(Image.fromarray(picture(height, width, op + 1))))
            label = f"op_{op}_{len(rows)}"
            show(label, result)
            rows.append(f'    {{ "{name}", {op}, {level}, {int(negative)}, {height}, {width}, {label} }},')
print("\nstatic const struct { const char *name; uint32_t op; double level; int negative; size_t height, width; const char *hex; } "
      "op_cases[] = {")
print("\n".join(rows))
print("};\n")

rows = []
for i, (height, width, to_height, to_width) in enumerate(((20, 30, 8, 8), (31, 17, 8, 8), (9, 7, 12, 12), (16, 16, 8, 8), (12, 40, 8, 12),
                                                          (5, 5, 7, 4), (8, 20, 8, 8))):
    if height * to_width < width * to_height:
        whole = (to_height, max(width * to_height // height, to_width))
    else:
        whole = (max(height * to_width // width, to_height), to_width)
    image = Image.fromarray(picture(height, width, 50 + i)).resize((whole[1], whole[0]), Image.Resampling.BILINEAR)
    top, left = (whole[0] - to_height) // 2, (whole[1] - to_width) // 2
    result = np.asarray(image.crop((left, top, left + to_width, top + to_height)))
    show(f"size_{i}", result)
    rows.append(f"    {{ {height}, {width}, {to_height}, {to_width}, size_{i} }},")
print("\nstatic const struct { size_t height, width, to_height, to_width; const char *hex; } size_cases[] = {")
print("\n".join(rows))
print("};")

rows = []
for i, (height, width, top, left, rows_kept, columns_kept) in enumerate(((12, 12, 0, 0, 12, 12), (12, 12, 3, 2, 5, 6), (16, 10, 1, 4, 9, 6),
                                                                         (9, 9, 8, 0, 1, 9), (8, 14, 2, 3, 4, 3), (7, 7, 0, 6, 7, 1))):
    image = Image.fromarray(picture(height, width, 70 + i)).crop((left, top, left + columns_kept, top + rows_kept))
    show(f"crop_{i}", np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    rows.append(f"    {{ {height}, {width}, {top}, {left}, {rows_kept}, {columns_kept}, crop_{i} }},")
print("\nstatic const struct { size_t height, width, top, left, rows, columns; const char *hex; } crop_cases[] = {")
print("\n".join(rows))
print("};")
