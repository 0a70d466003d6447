# golden_numbers.py - the numbers that generators of golden values and their C tests both make.
# SPDX-License-Identifier: MIT
import numpy as np


def numbers(stream, n):
    """In [-0.5, 0.5), multiples of 2^-24: the same as number() in tests/golden/probe.h."""
    x = np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(stream) * np.uint64(40503) + np.uint64(12345)
    x &= np.uint64(0xffffffff)
    for shift in (16, 15):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(0x45d9f3b)) & np.uint64(0xffffffff)
    x ^= x >> np.uint64(16)
    return (x >> np.uint64(8)).astype(np.float64) * 2.0**-24 - 0.5


def probe(stream, name, v):
    """A row of a table of probes, of numbers in libkd's layout: the dot product with numbers, and what bounds its rounding."""
    h = numbers(stream, v.size)
    return f'{{ "{name}", {np.dot(v, h):.17g}, {np.abs(v * h).sum():.9g} }}'


def table(ctype, name, rows, per_line=1):
    print(f"\nstatic const {ctype} {name}[] = {{")
    for i in range(0, len(rows), per_line):
        print("    " + ", ".join(rows[i:i + per_line]) + ",")
    print("};")
