#!/usr/bin/env python3
"""Writes tests/golden/st_*.safetensors and npy_*.npy with the packages that define the formats.

SPDX-License-Identifier: MIT
Needs numpy, torch and safetensors; the tests need only what it wrote.
"""
import os
import numpy as np
import torch
from safetensors.torch import save_file

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")


def path(name):
    return os.path.join(here, name)


def ramp(shape, dtype):
    n = int(np.prod(shape))
    return (torch.arange(n, dtype=torch.float64) * 0.25 - 1).to(dtype).reshape(shape)


# What kd_safetensors_save must write byte for byte.
save_file(
    {
        "layer.weight": ramp((2, 3), torch.float32),
        "layer.bias": ramp((3,), torch.float32),
        "a \"quoted\" \\ name\n\u00e9": ramp((2,), torch.float32),
        "wide": ramp((2, 2), torch.float64),
        "steps": torch.tensor(7, dtype=torch.int64),
        "index": torch.tensor([-1, 2147483647], dtype=torch.int32),
        "image": torch.arange(5, dtype=torch.uint8),
        "none": torch.zeros((0, 4), dtype=torch.float32),
    },
    path("st_plain.safetensors"),
    metadata={"format": "pt"},
)
# Types that are read, converted, or refused one by one.
half = torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 2.0**-24, 2.0**-14, float("inf"), float("-inf"), 1 / 3])
save_file(
    {
        "f16": half.to(torch.float16),
        "bf16": torch.cat([half, torch.tensor([3.0e38, 1e-40])]).to(torch.bfloat16),
        "bool": torch.tensor([True, False, True]),
        "i8": torch.tensor([-1, 1], dtype=torch.int8),
        "i16": torch.tensor([-1, 1], dtype=torch.int16),
        "f8": torch.tensor([1.0, 2.0, 3.0]).to(torch.float8_e4m3fn),
        "c64": torch.tensor([1 + 2j]),
        "scalar": torch.tensor(3.5),
    },
    path("st_types.safetensors"),
)

i = np.arange(24).reshape(2, 3, 4)
np.save(path("npy_f4.npy"), (i / 8 - 1).astype("<f4"))
np.save(path("npy_f8_big.npy"), (i * 0.125 - 1).astype(">f8"))
np.save(path("npy_i8.npy"), (i * 10**9 - 7 * 10**9).astype("<i8"))
with open(path("npy_u1_v2.npy"), "wb") as f:
    np.lib.format.write_array(f, (i * 10).astype("u1"), version=(2, 0))
with open(path("npy_b1_v3.npy"), "wb") as f:
    np.lib.format.write_array(f, i % 3 == 0, version=(3, 0))
