#!/usr/bin/env python3
# gen_methods_golden.py - golden lines of the methods on outputs, from the PyTorch texts in double precision.
# SPDX-License-Identifier: MIT
"""python3 tests/tools/gen_methods_golden.py     writes tests/golden/methods_outputs.txt

First the texts must give the known values of a small example (three rows of four classes, worked out apart from PyTorch) to 1e-9."""
import math
import os

import torch

import methods_torch as m
import methods_torch_outputs as out

S = torch.tensor([[1, 2, .5, -1], [.2, -.3, 1.5, .7], [-.5, .4, .1, 1.1]])
T = torch.tensor([[2, 1, .1, -.5], [-.4, .3, 2.2, .9], [.3, -.2, .6, 1.4]])
Y = torch.tensor([1, 2, 3])


def close(what, have, want):
    have = float(have)
    assert abs(have - want) <= 1e-9, f"{what}: {have:.12g}, known is {want:.10f}"


def known():
    """The published example; T^2, means over rows."""
    def one(method, form=0, **o):
        T_, _, _, alpha, beta, gamma, _ = out.DEFAULTS[method]
        o = {"T": T_, "alpha": alpha, "beta": beta, "gamma": gamma, "form": form, **o}
        return out.soft(method, {"s": S, "t": T, "w": S, "v": T, "y": Y, **o.pop("inputs", {})}, o)

    close("KD 4", one("kd", T=4.0), 0.1933596254)
    close("KD 4 / K", one("deit_soft", T=4.0), 0.0483399063)
    close("KD 1", one("kd", T=1.0), 0.1845268917)
    close("mutual", one("mutual"), 0.1845268917)
    close("born again", one("born_again", T=4.0), 0.1933596254)
    close("DeiT soft", one("deit_soft", T=3.0), 0.0485014493)
    close("DeiT soft, paper", one("deit_soft", form=1, T=3.0), 4 * 0.04850144925)
    close("DeiT hard", one("deit_hard"), 0.9520146600)
    close("hard", one("hard"), 0.9520146600)
    close("TCKD", one("dkd", T=4.0, alpha=1.0, beta=0.0), 0.0841958306)
    close("NCKD", one("dkd", T=4.0, alpha=0.0, beta=1.0), 0.1563032840)
    close("DKD", one("dkd"), 1.3346221022)
    close("DIST inter", one("dist", T=1.0, gamma=0.0), 0.3166887978)
    close("DIST intra", one("dist", T=1.0, beta=0.0), 0.0554145521)
    close("DIST", one("dist", T=4.0), 6.1207024895)
    close("NKD", one("nkd"), 1.8068817178)
    close("LSKD", one("lskd"), 0.1820906522)
    close("KD standardised", one("kd", T=2.0, standardize=1), 0.1820906522)
    close("WSLD", one("wsld"), 3.0806147436)
    close("MLKD classes", out.mlkd_parts(S, T, 4.0)[1], 0.0021597893)
    close("MLKD rows", out.mlkd_parts(S, T, 4.0)[2], 0.0000407158)
    close("JS .5", one("js"), 0.0453046202)
    close("JS .1", one("js", js_beta=0.1), 0.0164433409)
    close("KD, direction JS", one("kd", T=1.0, direction="js", js_beta=0.1), 0.0164433409)
    close("reverse KL", one("reverse_kl"), 0.1912418927)
    close("KD, direction reverse", one("kd", T=1.0, direction="reverse"), 0.1912418927)
    close("skew KL", one("skew_kl"), 1.2061695207)
    close("skew KL, paper", one("skew_kl", form=1), 0.1467913317)
    close("skew reverse KL", one("skew_reverse_kl"), 0.1499139419)
    close("TAID", one("taid"), 1.1785815381)
    close("TVD", one("tvd"), 0.2370862510)
    close("ULD", one("uld"), 0.1366552283)
    p, classes = torch.softmax(T, 1).topk(2, 1)
    close("top 2", one("top_k", inputs={"t": p, "classes": classes}, teacher_form="probs"), 0.4492376418)
    close("top 2, rest", one("top_k", form=1, inputs={"t": p, "classes": classes}, teacher_form="probs"), 0.1504866443)
    close("one teacher", one("multi_teacher", T=4.0, teachers="mean_probs", teacher_count=1), 0.1933596254)
    # those without a known value, by what they are
    ce = -torch.log_softmax(S, 1)[torch.arange(3), Y].mean()
    close("cross-entropy", ce, 0.6186813267)
    close("PSKD of nothing", one("pskd", alpha=0.0), float(ce))
    uniform = -torch.log_softmax(S, 1).mean()
    close("label smoothing", 0.9 * ce + 0.1 * one("label_smoothing"), float(torch.nn.functional.cross_entropy(S, Y, label_smoothing=0.1)))
    close("PSKD of a uniform teacher", one("pskd", inputs={"t": T * 0}), float(0.2 * ce + 0.8 * uniform))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    yes = torch.sigmoid(T)
    close("binary", one("binary"), float(4 * (bce(S, yes) - bce(T, yes))))
    close("cosine", one("cosine_logits"), float((1 - torch.nn.functional.cosine_similarity(S, T)).mean()))
    close("MSE", one("mse_logits"), float(torch.nn.functional.mse_loss(S, T)))
    close("AKL: all of it head", one("akl", alpha=1.0), 0.1845268917)
    both = one("multi_teacher", T=1.0, teachers="mean_logits", teacher_count=2, inputs={"t1": T * 3})
    close("mean of logits", both, float(out.kl(out.L(2 * T), out.L(S)).mean()))


# ---- cases -----------------------------------------------------------------------------------------------------------------------
# rows, classes, T (None: the method's own), scale
ORDINARY = [(8, 10, None, 4), (5, 100, 4.0, 4), (3, 2, 1.0, 2), (1, 7, 20.0, 8), (4, 20, 0.05, 1), (4, 33, 1.0, 32), (6, 1000, 4.0, 8)]
NO_T = ("hard", "deit_hard", "uskd", "ctkd", "pskd", "label_smoothing", "mse_logits", "cosine_logits")
MANY = (150, 20, 2.0, 4)   # rows: more than one block of them, and a part of one
SMALL, WIDE = (6, 12, 2.0, 4), (4, 50, 4.0, 8)


def options(method):
    """(sizes, options) beside the ordinary ones."""
    more = {
        "kd": [dict(direction="reverse"), dict(direction="js", js_beta=0.5), dict(direction="js", js_beta=0.125),
               dict(temperature_squared=0), dict(standardize=1)],
        "deit_soft": [dict(form=1), dict(temperature_squared=0)],
        "dkd": [dict(alpha=0.5, beta=2.0), dict(alpha=1.0, beta=0.5), dict(alpha=0.0, beta=1.0), dict(standardize=1),
                dict(temperature_squared=0)],
        "dist": [dict(form=1), dict(beta=2.0, gamma=0.5), dict(temperature_squared=0)],
        "nkd": [dict(gamma=3.5), dict(temperature_squared=0)],
        "uskd": [dict(form=1), dict(alpha=0.1, beta=0.1, gamma=0.1), dict(form=1, alpha=0.5, beta=1.0, gamma=0.25)],
        "wsld": [dict(temperature_squared=0)],
        "mlkd": [dict(form=2), dict(form=1), dict(form=2, temperature_squared=0), dict(temperature_squared=0)],
        "ctkd": [dict(advances=4), dict(advances=9), dict(advances=30, beta=20.0), dict(temperature_squared=0, advances=5),
                 dict(alpha=0.5, gamma=8.0, advances=9), dict(theta=-2.0, advances=9)],
        "tfkd": [dict(form=1), dict(alpha=0.9), dict(form=1, alpha=0.9)],
        "pskd": [dict(alpha=0.25), dict(beta=8, advances=2), dict(beta=8, advances=20)],
        "label_smoothing": [dict(form=1)],
        "reverse_kl": [dict(temperature_squared=0)],
        "js": [dict(js_beta=0.125), dict(js_beta=0.875), dict(temperature_squared=0)],
        "skew_kl": [dict(form=1), dict(alpha=0.5), dict(form=1, alpha=0.75), dict(temperature_squared=0)],
        "skew_reverse_kl": [dict(alpha=0.5), dict(temperature_squared=0)],
        "taid": [dict(form=1), dict(alpha=0.75), dict(form=1, alpha=1.0), dict(alpha=0.125)],
        "tvd": [dict(temperature_squared=0)],
        "akl": [dict(alpha=0.25), dict(alpha=0.9), dict(temperature_squared=0)],
        "uld": [dict(teacher_width=31), dict(teacher_width=5), dict(temperature_squared=0)],
        "binary": [dict(temperature_squared=0)],
        "mse_logits": [dict(form=1)],
        "top_k": [dict(k=1), dict(k=12), dict(form=1, teacher_form="probs", k=5), dict(form=1, teacher_form="probs", k=12),
                  dict(teacher_form="probs", k=6), dict(temperature_squared=0)],
        "multi_teacher": [dict(teachers="mean_logits"), dict(teachers="best"), dict(teachers="mean_probs", weights=[1.0, 2.0, 5.0]),
                          dict(teachers="mean_logits", weights=[0.5, 0.25, 0.25]), dict(teachers="best", teacher_count=4),
                          dict(direction="reverse"), dict(teachers="mean_probs", teacher_count=1)],
        "mutual": [dict(direction="reverse")],
    }.get(method, [])
    for i, o in enumerate(more):
        yield (SMALL, WIDE)[i % 2] if not ("k" in o or "teacher_width" in o) else SMALL, o
    if "form" in str(more):   # each further form at the extremes too
        for form in sorted({o["form"] for o in more if "form" in o}):
            extra = dict(form=form, **(dict(teacher_form="probs") if method == "top_k" else {}))
            for sizes in (3, 2, 1.0, 2), (4, 20, 0.05, 1), (4, 33, 1.0, 32), (1, 7, 20.0, 8):
                yield sizes, extra


def make(method, seed, sizes, given):
    rows, classes, temperature, scale = sizes
    T_, _, _, alpha, beta, gamma, _ = out.DEFAULTS[method]
    o = {"alpha": float(alpha), "beta": float(beta), "gamma": float(gamma), "form": 0, **given}
    o["T"] = 1.0 if method in NO_T else float(temperature or T_)
    if method == "top_k":
        o["k"] = min(o.get("k", max(1, classes // 2)), classes)
    if method == "multi_teacher":
        o = {"teachers": "mean_probs", "teacher_count": 3, **o}
    if method == "ctkd":
        o = {"theta": 1.0, "advances": 9, **o}
    o = {k: float(torch.tensor(v, dtype=torch.float32)) if isinstance(v, float) else v for k, v in o.items()}   # as a descriptor holds it
    keys = {"rows": rows, "classes": classes, "seed": seed, "scale": scale}
    keys.update({k: v for k, v in o.items() if k != "weights"})
    if method in out.LABELS or o.get("teachers") == "best":
        keys["labels"] = 1
    if method in out.NO_TEACHER:
        keys["teacher"] = 0
    if method in out.SECOND:
        keys["second"] = 1
    if method == "mlkd":
        keys["teacher_second"] = 1
    if "weights" in o:
        keys["weights"] = ",".join(f"{w:g}" for w in o["weights"])
    draw = lambda stream, width=classes: m.uniform(seed, stream, (rows, width), scale)
    inputs, unit = {"s": draw(0)}, {"s": o["T"]}
    fixed = {"y": m.integers(seed, 4, rows, classes)}
    if method in out.SECOND:
        inputs["w"] = draw(1)
    if method not in out.NO_TEACHER:
        inputs["t"] = draw(2, o.get("teacher_width", classes))
    if method == "mlkd":
        inputs["v"] = draw(3)
    if method == "ctkd":
        inputs["theta"] = torch.tensor([o["theta"]])
    if method == "top_k":
        k = o["k"]
        fixed["classes"] = (m.integers(seed, 20, rows, classes)[:, None] + torch.arange(k)) % classes
        inputs["t"] = draw(2, k)
        if o.get("teacher_form") == "probs":   # k of them below 1 together; positive, and exactly floats
            inputs["t"] = (m.uniform(seed, 2, (rows, k)) + 1 + 2.0 ** -23) * 0.5 ** (1 + math.ceil(math.log2(k)))
            unit["t"] = 0.0
    for j in range(1, o.get("teacher_count", 1)):
        inputs[f"t{j}"] = draw(10 + j)
    mixed = method in ("nkd", "wsld", "mlkd", "multi_teacher")   # read at temperature 1 too
    at = max(1.0, o["T"]) if mixed else 1 + o["gamma"] / (1 + math.exp(-o["theta"])) if method == "ctkd" else o["T"]
    unit = {k: unit[k] if unit.get(k) == 0.0 else 0.0 if k == "theta" or method in ("mse_logits", "cosine_logits") else at for k in inputs}
    wanted = [k for k in ("s", "w", "theta") if k in inputs and not (k == "s" and method in ("deit_soft", "deit_hard"))]
    temperatures = [o["T"], 2, 3, 5, 6] * 2 if method == "mlkd" else [at]
    size = 1.0 if method == "cosine_logits" else 0.0 if method == "mse_logits" else sum(
        (T ** 2 if o.get("temperature_squared", 1) and method not in ("tfkd",) else 1) *
        (1.0 if method in ("tvd", "uld", "dist") else 1 + math.log(classes) + 2 * scale / T) for T in temperatures)
    if method == "tfkd" and o["form"] == 0:
        size /= classes
    if method == "deit_soft" and o["form"] == 0:
        size /= classes
    if method == "dkd":
        size *= o["alpha"] + o["beta"]
    if method == "binary":
        size *= classes
    return m.golden(method, keys, lambda i: out.soft(method, {**i, **fixed}, o), inputs, wanted, unit, size)


def lines():
    for number, method in enumerate(out.METHODS):
        T_, hard, soft, alpha, beta, gamma, warmup = out.DEFAULTS[method]
        yield (f"default {method}" + ("" if T_ is None else f" T={T_:g}") + f" hard={hard:g} soft={soft:g} alpha={alpha:g} "
               f"beta={beta:g} gamma={gamma:g} warmup={warmup} form=0")
        seed = 1000 * (number + 1)
        for sizes in ORDINARY:
            seed += 1
            if method == "lskd" and sizes[1] == 2:   # two standardised classes are +-1/sqrt(2), whatever they were: no gradient
                sizes = (3, 3, 1.0, 2)
            yield make(method, seed, sizes, {})
        for sizes, given in options(method):
            seed += 1
            yield make(method, seed, sizes, given)
        yield make(method, seed + 1, MANY, {})


if __name__ == "__main__":
    known()
    all_lines = list(lines())
    path = os.path.join(os.path.dirname(__file__), "..", "golden", "methods_outputs.txt")
    m.write(path, "methods_outputs.txt - golden lines of the methods on outputs, made by tests/tools/gen_methods_golden.py", all_lines)
    print(f"{len(all_lines)} lines")
    import gen_methods_golden_features
    gen_methods_golden_features.main()
