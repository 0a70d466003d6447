# methods_torch.py - what the PyTorch texts of the distillation methods share: inputs that both sides compute, and golden lines.
# SPDX-License-Identifier: MIT
"""Golden vectors hold no inputs.  Number i of stream s under a seed is a hash that C computes too (tests/methods/golden_lines.h):

    h(seed, s, i) = splitmix64's finish of seed * A + s * B + (i + 1) * C, modulo 2^64
    uniform: top 24 bits of h, k / 2^23 - 1: in [-1, 1), exactly a float; times a scale that is a power of two
    integer below n: (top 24 bits of h) % n

A golden line is words:

    METHOD key=value key=value .. value=V~S grad.NAME=N~S,D~S ..

The keys say the case; V is the value, N the 2-norm of the gradient of the input NAME, D its dot product with the stream
PROBE + (number of the input), in the order of its elements.  %.17g, from float64.  S says how far the number moves when every input is
moved by about one rounding of float32, u (|x| + unit) with random signs: the largest of DRAWS.  `unit` is the size at which the method
reads the input: the temperature for logits, since z / T is rounded, exponentiated and normalised with an error of u in its exponent; 0 for
inputs that are only multiplied.  So S is u times the condition of the number, and a text in float32 that is stable in the backward sense is
within a small multiple of it.
"""
import numpy as np
import torch

A, B, C = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7
PROBE = 1000     # streams of the vectors that gradients are multiplied with
DRAWS = 8
U = 2.0 ** -24

torch.set_default_dtype(torch.float64)


def bits(seed, stream, n):
    """The top 24 bits of n hashes."""
    start = np.uint64((seed * A + stream * B) & 0xFFFFFFFFFFFFFFFF)
    with np.errstate(over="ignore"):
        z = start + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(C)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z >> np.uint64(40)


def uniform(seed, stream, shape, scale=1.0):
    """A tensor of numbers in [-scale, scale); scale is a power of two."""
    n = int(np.prod(shape))
    v = bits(seed, stream, n).astype(np.float64) * 2.0 ** -23 - 1.0
    return torch.from_numpy(v * scale).reshape(tuple(shape))


def integers(seed, stream, n, below):
    return torch.from_numpy((bits(seed, stream, n) % np.uint64(below)).astype(np.int64))


def evaluate(function, inputs, wanted):
    """The value, and the gradients of the inputs named in `wanted`."""
    given = {k: v.detach().clone().requires_grad_(k in wanted) for k, v in inputs.items()}
    value = function(given)
    grads = torch.autograd.grad(value, [given[k] for k in wanted], allow_unused=True) if wanted and value.requires_grad else \
        [None] * len(wanted)
    return float(value.detach()), [torch.zeros_like(given[k]) if g is None else g for k, g in zip(wanted, grads)]


def numbers(function, inputs, wanted, seed):
    """[value, norm, dot, norm, dot ..]"""
    value, grads = evaluate(function, inputs, wanted)
    out = [value]
    for i, g in enumerate(grads):
        out += [float(g.norm()), float((g * uniform(seed, PROBE + i, g.shape)).sum())]
    return out


def golden(method, keys, function, inputs, wanted, unit, floor=0.0):
    """One line.  function(inputs) -> scalar; `wanted`: names of the inputs with gradients, in the order of the probes; unit: of each
    input, or one for all; `floor`: the size of the terms that the value is the sum of, where they may cancel."""
    seed = keys["seed"]
    exact = numbers(function, inputs, wanted, seed)
    moved = [0.0] * len(exact)
    noise = torch.Generator().manual_seed(1)
    for _ in range(DRAWS):
        near = {}
        for k, v in inputs.items():
            one = unit[k] if isinstance(unit, dict) else unit
            sign = torch.randint(0, 2, v.shape, generator=noise).to(v.dtype) * 2 - 1
            near[k] = v + U * (v.abs() + one) * sign
        for i, (a, b) in enumerate(zip(numbers(function, near, wanted, seed), exact)):
            moved[i] = max(moved[i], abs(a - b))
    moved[0] += U * floor
    for v in exact + moved:
        assert np.isfinite(v), (method, keys, exact, moved)
    words = [method] + [f"{k}={v:.9g}" if isinstance(v, float) else f"{k}={v}" for k, v in keys.items()]
    number = [f"{v:.17g}~{s:.2g}" for v, s in zip(exact, moved)]
    words.append("value=" + number[0])
    words += [f"grad.{k}={number[2 * i + 1]},{number[2 * i + 2]}" for i, k in enumerate(wanted)]
    return " ".join(words)


def write(path, title, lines):
    with open(path, "w") as f:
        f.write(f"# {title}\n# SPDX-License-Identifier: MIT\n# Format: tests/tools/methods_torch.py\n")
        f.write("".join(line + "\n" for line in lines))
