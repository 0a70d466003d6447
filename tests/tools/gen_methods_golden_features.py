#!/usr/bin/env python3
# gen_methods_golden_features.py - golden lines of the methods between features, from the PyTorch texts in double precision.
# SPDX-License-Identifier: MIT
"""python3 tests/tools/gen_methods_golden_features.py     writes tests/golden/methods_features.txt

First the texts must give the known values of a small example (worked out apart from PyTorch) to 1e-9.

Keys of a line, beside those of methods_torch.py: n rows; s, t: the taps' shapes, "8x8x4/4x4x6"; form, alpha, beta, gamma, T, width,
samples: the descriptor's; logits=K: with logits of K classes; classes=K head=1: with the teacher's classifier; bn=1: with the
teacher's batch
norms; mask=prefix|bits|weights; indices=1; floats: of the adapters' parameters together.
Streams: taps 1 + i and 101 + i, logits 200 and 201, head 203 and 204, mask 205, parameters 206 (one stream through all, scale 1/2;
batch norm
uses the batch), 207 CRD's memories (scale 1, the student's first), indices 209 (+ row, modulo samples), teacher's batch norms 210
+ i and 230 + i.
Gradients: s0, s1 .., logits, adapters (all parameters in a row)."""
import math
import os

import torch

import methods_torch as m
import methods_torch_features as f

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "methods_features.txt")


def run(method, s, t, parameters=None, extra=None, **given):
    return float(f.METHODS[method][0](s, t, f.Adapters(parameters or {}), f.options(method, **given), extra or {}))


def close(what, have, want):
    assert abs(float(have) - want) <= 1e-9, f"{what}: {float(have):.12g}, known is {want:.10f}"


def known():
    s = torch.tensor([[1.0, 0.5, -0.5], [0.2, 1.0, 0.3], [-0.7, 0.1, 0.9]])
    t = torch.tensor([[0.9, -0.2], [0.1, 0.8], [-1.0, 0.4]])
    wide = torch.tensor([[0.8, 0.2, -0.1], [0.0, 0.9, 0.4], [-0.5, 0.3, 1.1]])
    close("SP", run("sp", [s], [t]), 0.0520933985)
    close("RKD distance", run("rkd", [s], [t], alpha=1.0, beta=0.0), 0.0019304871)
    close("RKD angle", run("rkd", [s], [t], alpha=0.0, beta=1.0), 0.0006558955)
    close("PKT", run("pkt", [s], [t]), 0.0154157696)
    same = {k: v for side in "st" for k, v in ((f"{side}0.linear.weight", torch.eye(3)), (f"{side}0.linear.bias", torch.zeros(3)))}
    close("CC", run("cc", [s], [wide], same), 0.095)
    edges = (f.irg_edges(s) - f.irg_edges(t)).pow(2).mean()
    close("IRG", edges, 0.0031363086)
    one = torch.zeros(3, 4)
    close("IRG", run("irg", [s], [t], None, {"logits_s": one, "logits_t": one}, beta=1.0), 0.0031363086)
    u = torch.tensor([[0.5, 1.0, -0.2, 0.3], [1.2, -0.4, 0.6, 0.1]]).T.reshape(1, 2, 2, 2)   # [n, h, w, c]
    v = torch.tensor([[0.7, 0.9, 0.0, -0.1], [1.0, -0.6, 0.8, 0.3]]).T.reshape(1, 2, 2, 2)
    close("AT", run("at", [u], [v]), 0.0053646397)
    close("FT", f.ft_difference(u, v, 0), 0.0560306923)
    close("NST", run("nst", [u], [v]), 0.0840715514)
    close("CWD 4", run("cwd", [u], [v]), 0.0245640905)
    close("CWD 1", run("cwd", [u], [v], temperature=1.0), 0.0217590533)
    close("AB", run("ab", [u], [v]) * 1000 / 3, 3.91)
    close("OFD", f.ofd_term(u, v, torch.tensor([-0.3])), 0.33)
    close("VID", f.vid_term(u, v, torch.tensor(math.log(math.exp(5 - 1e-5) - 1))), 0.8098439562)
    close("FSP", run("fsp", [u[..., :1], u[..., 1:]], [v[..., :1], v[..., 1:]]), 0.000025)
    ls, lt = torch.tensor([[0.3, 0.8, 0.5, -0.1, 0.2]]), torch.tensor([[0.1, 1.2, 0.4, -0.3, 0.0]])
    close("LD", run("ld", [ls], [lt], form=2), 0.0057280774)
    # what they are known to be otherwise
    margin = f.ofd_margin(torch.tensor([1.0, -0.5, 2.0, 0.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, -0.5, 3.0]))
    x = torch.linspace(-60, 0, 600001)[:-1]
    for k, (sd, mean) in enumerate([(1.0, 0.0), (0.5, 0.3), (2.0, -1.0)]):   # the mean of a normal's negative part
        w = torch.exp(-((x - mean) / sd) ** 2 / 2)
        assert abs(margin[k] - (w * x).sum() / w.sum()) < 1e-3, (k, margin[k], (w * x).sum() / w.sum())
    close("OFD, no spread", margin[3], -0.5)
    close("OFD, tail", margin[4], -0.3)


# ---- cases: method, student shapes, teacher shapes, options and the rest ----
def shape(text):
    return tuple(int(v) for v in text.split("x"))


CASES = """
fitnet 8x8x4 4x4x6
fitnet 4x4x3 8x8x5 n=4
fitnet 6x6x4 4x4x5 form=1
fitnet 4x4x8 4x4x4 form=1 n=7
fitnet 8x8x4/4x4x8 8x8x6/4x4x3 n=3
fitnet 12/5x7 9/5x4
fitnet 5x6x3 4x4x2 n=2
at 8x8x4 4x4x6
at 4x4x4 8x8x3 form=1
at 8x8x4/4x4x8/2x2x16 8x8x6/4x4x12/2x2x20
at 7x5x3 3x4x8 n=3
at 4x4x16 4x4x16 form=1 n=1
sp 16 16
sp 4x4x8 2x2x24 n=7
sp 12/5x4 20/7x3 n=6
sp 64 32 n=16
sp 8 8 n=1
cc 16 24
cc 20 12 width=8 n=7
cc 16 24 form=1 width=16
cc 4x4x2 12 form=1 width=4 gamma=0.25 n=3
cc 8 8 n=2 width=5
vid 8x8x4 4x4x6
vid 4x4x4 8x8x3 width=5
vid 16 10 n=6
vid 4x4x8/5x6 4x4x4/5x8 n=4
vid 4x4x3 4x4x3 n=1
rkd 16 24
rkd 16 24 alpha=1.0 beta=0.0 n=9
rkd 16 24 alpha=0.0 beta=1.0 n=7
rkd 4x4x4 8 n=4
rkd 8/12 5/16 n=6
rkd 64 64 n=12
pkt 16 24
pkt 12 40 n=16
pkt 4x4x4 6 n=3
pkt 8/8 8/20 n=6
pkt 100 30 n=8
ab 4x4x4 4x4x4
ab 8x8x4 4x4x6
ab 8x8x4/4x4x8 8x8x4/4x4x6 n=3
ab 4x4x4 8x8x3 alpha=0.5 n=2
ab 6x6x2 4x4x5 alpha=2.0
ft 4x4x4 4x4x6 n=3
ft 8x8x3 4x4x4 form=1 n=2
ft 4x4x4 4x4x6 alpha=0.0 beta=1.0 n=3
ft 4x4x4 8x8x5 alpha=1.0 beta=0.0 n=2
ft 4x4x6 4x4x6 alpha=0.5 beta=2.0 gamma=0.75 form=1 n=2
fsp 8x8x4/4x4x6 8x8x4/4x4x6
fsp 8x8x4/8x8x6/4x4x3 16x16x4/8x8x6/8x8x3 n=3
fsp 4x4x4/4x4x6 8x8x4/8x8x6 form=1
fsp 2x2x16/2x2x16 2x2x16/2x2x16 n=2
fsp 5x7x3/4x4x2 6x6x3/5x5x2 form=1 n=3
nst 4x4x4 4x4x6
nst 8x8x3 4x4x5 n=3
nst 4x4x8/2x2x12 4x4x8/4x4x6 n=2
nst 4x4x4 7x6x4 n=3
nst 8x8x16 8x8x16 n=2
kdsvd 4x4x6/4x4x8 4x4x6/4x4x8 n=3
kdsvd 8x8x4/4x4x6/2x2x8 8x8x4/4x4x6/2x2x8 n=3
kdsvd 4x4x3/2x2x3 8x8x3/4x4x3 n=4
kdsvd 2x2x12/2x2x5 4x4x12/2x2x5 n=2
kdsvd 8x8x16/4x4x16 8x8x16/4x4x16 n=2
crd 16 24 samples=12
crd 16 24 samples=9 width=8 n=4
crd 4x4x2 10 samples=7 temperature=0.5 n=6
crd 8 8 samples=20 width=16 n=3
crd 12 6 samples=2 width=4 n=2 temperature=1.0
irg 8x8x4/4x4x8/16 8x8x4/4x4x8/20 logits=5
irg 16 24 logits=10 n=7
irg 4x4x4/4x4x4 4x4x6/4x4x6 logits=3 n=4
irg 8x8x2/4x4x4/2x2x8 8x8x3/4x4x6/4x4x6 logits=4 alpha=1.0 beta=0.5 gamma=2.0 n=4
irg 12 12 logits=4 alpha=0.0 beta=1.0 gamma=0.0 n=6
ofd 4x4x4 4x4x6 bn=1
ofd 4x4x3 8x8x5 bn=1 n=3
ofd 8x8x4/4x4x6 8x8x6/4x4x8 bn=1 n=3
ofd 4x4x4/2x2x8/2x2x4 4x4x4/2x2x8/4x4x6 bn=1 n=4
ofd 6x5x3 6x5x16 bn=1 n=2
reviewkd 8x8x4/4x4x6/2x2x8 8x8x6/4x4x8/2x2x10 n=3
reviewkd 8x8x4/4x4x6/8 8x8x6/4x4x8/12 n=4 width=5
reviewkd 4x4x6 4x4x4
reviewkd 4x4x3/2x2x4 8x8x4/4x4x5 n=3
reviewkd 8x8x3/5x5x4/2x2x5 6x6x2/5x5x4/3x3x6 n=3 width=4
simkd 4x4x4 4x4x8 n=4
simkd 8x8x4 4x4x6 n=4
simkd 4x4x3 8x8x6 n=4 width=5
simkd 5x4x6 3x4x4 n=3
simkd 2x2x8 2x2x12 n=6 width=3
catkd 4x4x10 4x4x10
catkd 8x8x10 4x4x10 form=1
catkd 4x4x5 4x4x12 classes=5 head=1
catkd 8x8x20 7x7x16 classes=20 head=1 width=4 form=1 n=3
catkd 5x5x4 3x3x4 width=3 n=3
mgd 4x4x4 4x4x6 gamma=0.0 n=3
mgd 4x4x5 4x4x5 gamma=0.0
mgd 8x8x3/4x4x4 8x8x4/4x4x4 gamma=0.0 n=2
mgd 4x4x4 4x4x6 gamma=0.0 form=1 n=2
mgd 3x6x4 3x6x8 gamma=0.0 n=2
cwd 4x4x8 4x4x8
cwd 4x4x4 4x4x6 temperature=1.0
cwd 8x8x3/4x4x5 8x8x3/4x4x4 n=3
cwd 8x8x10 8x8x10 temperature=0.5 n=2
cwd 3x5x2 3x5x7 n=2 temperature=20.0
pkd 4x4x8 4x4x8
pkd 8x8x3 8x8x3 n=2
pkd 4x4x4/2x2x6 4x4x4/2x2x6 n=3
pkd 2x3x16 2x3x16 n=6
pkd 1x1x4 1x1x4 n=3
srrl 4x4x4 4x4x6 classes=5 head=1
srrl 12 8 classes=10 head=1 n=6
srrl 8x8x3 4x4x5 classes=7 head=1 beta=5.0 n=4
srrl 4x4x6 4x4x4 classes=4 head=1 alpha=2.0 beta=0.0 n=3
srrl 2x2x4 2x2x8 classes=20 head=1 alpha=0.5 beta=1.5 n=4
ickd 4x4x6 4x4x6
ickd 4x4x4 4x4x6 n=4
ickd 2x3x4 2x3x12 n=6
ickd 4x4x4 4x4x6 form=2 n=4
ickd 8x8x4/4x4x6 8x8x4/4x4x8 n=3
ickd 8x8x16 8x8x16 n=2
srd 16 24
srd 24 12 n=8
srd 2x2x4 10 alpha=2.0 n=6
srd 8 8 alpha=3.0 n=4
srd 32 20 n=16 alpha=1.0
vitkd 16x8/16x8 16x12/16x12 mask=bits n=3
vitkd 9x6/9x6/9x8 9x6/9x6/9x8 mask=bits n=2 alpha=1.0 beta=1.0
vitkd 16x8/16x8/16x8 16x10/16x10/16x8 beta=0.0 n=3
vitkd 4x5/4x5 4x4/4x4 mask=bits gamma=0.75 alpha=0.5 beta=2.0 n=4
vitkd 25x4/25x4 25x6/25x6 mask=bits alpha=0.0 beta=1.0 n=2
semckd 4x4x4/2x2x6 4x4x5/2x2x8 n=8
semckd 8x8x3/4x4x4/2x2x4 4x4x4/4x4x6 n=4
semckd 4x4x4 4x4x3/2x2x5/2x2x4 n=6 width=3
semckd 4x4x4 4x4x6 n=3 temperature=2.0
semckd 4x4x2/4x4x3 8x8x2/2x2x3 n=5 width=4 temperature=0.5
tinybert 2x5x5/5x8 2x5x5/5x12
tinybert 2x5x5/5x8/2x5x5/5x8 2x5x5/5x12/2x5x5/5x12 n=3 mask=prefix
tinybert 5x8/5x8 5x6/5x6 n=4
tinybert 3x4x4 3x4x4 alpha=0.5
tinybert 7x4 7x4 n=2 beta=2.0 mask=prefix
tinybert 2x6x6/2x6x6 2x6x6/2x6x6 n=2 mask=prefix scale=128
minilm 2x5x5/5x8 2x5x5/5x12
minilm 4x6x6/6x8 4x6x6/6x16 n=3 mask=prefix
minilm 1x4x4/4x3 1x4x4/4x5 alpha=0.0
minilm 3x7x7/7x9 3x7x7/7x6 n=2 beta=0.5 mask=prefix
minilm 2x5x5/5x4 2x5x5/5x4 scale=8
minilm2 5x8/5x8/5x8 5x12/5x12/5x12 width=4
minilm2 6x8/6x8/6x8 6x16/6x16/6x16 width=2 n=3 mask=prefix
minilm2 4x6/4x6/4x6 4x6/4x6/4x6 width=1 n=2 alpha=0.5 beta=2.0 gamma=0.25
minilm2 5x48/5x48/5x48 5x96/5x96/5x96 n=2
minilm2 7x12/7x12/7x12 7x24/7x24/7x24 width=3 n=2 mask=prefix scale=2
cosine 16 16
cosine 5x8 5x8 n=4
cosine 6x8 6x8 n=4 mask=prefix
cosine 5x8/12 5x8/12 n=3
cosine 7x4/7x6 7x4/7x6 n=3 mask=prefix
ld 17 17
ld 4x17 4x17 n=3 mask=weights
ld 4x17 4x17 n=3 mask=weights form=1
ld 4x9 4x9 n=4 mask=weights form=2 temperature=1.0 scale=4
ld 8 8 n=6 form=1 temperature=2.0
ld 6x17 6x17 n=2 form=2 alpha=1.0 scale=8
ld 3x4x9/2x2x9 3x4x9/2x2x9 n=2 temperature=4.0
fbkd 4x4x4 4x4x4 n=3
fbkd 4x4x4 4x4x6 n=3 alpha=1.0 beta=1.0 gamma=1.0
fbkd 8x8x3 8x8x4 n=2 width=3 alpha=0.0 beta=1.0 gamma=0.5
fbkd 3x5x6 3x5x4 n=2 temperature=2.0 alpha=1.0 beta=0.0 gamma=1.0
fbkd 4x4x8 4x4x8 n=4 width=2
"""


def make(number, text):
    words = text.split()
    method, s_shapes, t_shapes = words[0], [shape(w) for w in words[1].split("/")], [shape(w) for w in words[2].split("/")]
    given = dict(w.split("=") for w in words[3:])
    n, scale, seed = int(given.pop("n", 5)), float(given.pop("scale", 1)), 1000 + number
    extra_keys = {k: given.pop(k) for k in ("logits", "classes", "head", "bn", "mask") if k in given}
    own = {k: int(v) if k in ("form", "width", "samples") else float(v) for k, v in given.items()}
    if method == "semckd":
        own["samples"] = n
    o = f.options(method, **own)
    layout = f.parameters(method, s_shapes, t_shapes, o)
    floats = sum(f.size(p) for _, p in layout)

    inputs = {f"s{i}": m.uniform(seed, 1 + i, (n, *p), scale) for i, p in enumerate(s_shapes)}
    inputs |= {f"t{i}": m.uniform(seed, 101 + i, (n, *p), scale) for i, p in enumerate(t_shapes)}
    wanted = [f"s{i}" for i in range(len(s_shapes))]
    fixed = {}
    if "logits" in extra_keys:
        inputs["logits"] = m.uniform(seed, 200, (n, int(extra_keys["logits"])), scale)
        inputs["logits_t"] = m.uniform(seed, 201, (n, int(extra_keys["logits"])), scale)
        wanted.append("logits")
    if "head" in extra_keys:
        classes = int(extra_keys["classes"])
        inputs["teacher_weight"] = m.uniform(seed, 203, (t_shapes[-1][-1], classes))
        inputs["teacher_bias"] = m.uniform(seed, 204, (classes,))
    if "bn" in extra_keys:
        for i, p in enumerate(t_shapes):
            inputs[f"bn_weight{i}"], inputs[f"bn_bias{i}"] = m.uniform(seed, 210 + i, p[-1:]), m.uniform(seed, 230 + i, p[-1:])
    if "mask" in extra_keys:
        tokens = 1 if len(s_shapes[0]) == 1 else s_shapes[0][-2]
        if extra_keys["mask"] == "prefix":
            fixed["mask"] = (torch.arange(tokens)[None] < 1 + m.integers(seed, 205, n, tokens)[:, None]).double()
        elif extra_keys["mask"] == "bits":
            fixed["mask"] = m.integers(seed, 205, n * tokens, 2).double().reshape(n, tokens)
        else:
            fixed["mask"] = (m.uniform(seed, 205, (n, tokens)) + 1) / 2
    if method == "crd":
        N, w = o["samples"], o["width"]
        memory = m.uniform(seed, 207, (2 * N, w))
        fixed["memory_s"], fixed["memory_t"] = memory[:N], memory[N:]
        fixed["indices"] = (m.integers(seed, 209, 1, N) + torch.arange(n)) % N
        extra_keys["indices"] = 1
    if floats:
        inputs["adapters"] = m.uniform(seed, 206, (floats,), 0.5)
        wanted.append("adapters")
        extra_keys["floats"] = floats

    calls = [0]

    def function(x):
        f.NOISE = torch.Generator().manual_seed(calls[0]) if calls[0] else None   # the first call is the exact one
        calls[0] += 1
        parameters, at = {}, 0
        for name, p in layout:
            parameters[name] = x["adapters"][at:at + f.size(p)].reshape(p)
            at += f.size(p)
        extra = {**fixed, **{k: v for k, v in x.items() if k not in wanted}}
        extra["logits_s"] = x.get("logits")
        s, t = ([x[f"{side}{i}"] for i in range(len(shapes))] for side, shapes in (("s", s_shapes), ("t", t_shapes)))
        return f.METHODS[method][0](s, t, f.Adapters(parameters), o, extra)

    keys = {"s": words[1], "t": words[2], "n": n, "seed": seed, "scale": scale, "T": o["temperature"]}
    keys |= {k: o[k] for k in ("form", "alpha", "beta", "gamma", "width", "samples")}
    keys |= extra_keys
    try:
        return m.golden(method, keys, function, inputs, wanted, 0.0)
    finally:
        f.NOISE = None


def lines():
    for method, (_, _, o) in f.METHODS.items():
        o = f.options(method)
        yield (f"default {method} weight={f.WEIGHTS[method]:g} alpha={o['alpha']:.9g} beta={o['beta']:.9g} gamma={o['gamma']:.9g} "
               f"T={o['temperature']:.9g} warmup={f.WARMUP.get(method, 0)} form=0")
        for number, text in enumerate(CASES.strip().split("\n")):
            if text.split()[0] == method:
                yield make(number, text)


def main():
    known()
    every = list(lines())
    m.write(OUT, "methods_features.txt - golden lines of the methods between features, made by tests/tools/gen_methods_golden_features.py",
            every)
    print(f"{len(every)} lines of features")


if __name__ == "__main__":
    main()
