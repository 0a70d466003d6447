"""Writes tests/golden/optim_golden.h: what PyTorch's optimizers, schedules and clipping give for fixed inputs.

    python tests/tools/gen_optim.py > tests/golden/optim_golden.h

Needs torch (2.13 made the file that is kept).  The build and the tests need only the file.
SPDX-License-Identifier: MIT
"""
import warnings

import numpy as np
import torch

SIZES = [30, 6, 18, 3]          # fc1.weight, fc1.bias, fc2.weight, fc2.bias
STEPS = [1, 2, 10, 100]
SHOWN = [(0, 0), (0, 29), (1, 5), (2, 7), (3, 2)]
f32 = lambda x: float(np.float32(x))


def start():
    return [torch.tensor([(((p * 37 + i * 11) % 23) - 11) / 16 for i in range(n)], dtype=torch.float32)
            for p, n in enumerate(SIZES)]


def gradient(p, w, t):
    """Of a quadratic with noise: curvature (w - centre) + noise, each step rounded to float."""
    i = torch.arange(len(w), dtype=torch.int64)
    curvature = ((p * 5 + i * 7) % 13 + 1).float() / 8
    centre = ((p * 3 + i * 5) % 17 - 8).float() / 8
    noise = ((t * 7919 + p * 613 + i * 104729) % 1009 - 504).float() / 1024
    return curvature * (w - centre) + noise


# name, method, lr, momentum, dampening, nesterov, beta1, beta2, eps, decay, max norm, groups
RUNS = [
    ("sgd_plain", "SGD", 0.05, 0, 0, 0, .9, .999, 1e-8, 0, 0, 0),
    ("sgd_momentum", "SGD", 0.05, 0.9, 0, 0, .9, .999, 1e-8, 0, 0, 0),
    ("sgd_decay", "SGD", 0.05, 0.9, 0, 0, .9, .999, 1e-8, 5e-4, 0, 0),
    ("sgd_dampening", "SGD", 0.05, 0.9, 0.3, 0, .9, .999, 1e-8, 1e-2, 0, 0),
    ("sgd_nesterov", "SGD", 0.05, 0.9, 0, 1, .9, .999, 1e-8, 5e-4, 0, 0),
    ("sgd_clip", "SGD", 0.05, 0.9, 0, 0, .9, .999, 1e-8, 5e-4, 1.5, 0),
    ("sgd_groups", "SGD", 0.05, 0.9, 0, 0, .9, .999, 1e-8, 5e-2, 0, 1),
    ("adam", "ADAM", 0.01, 0, 0, 0, .9, .999, 1e-8, 0, 0, 0),
    ("adam_decay", "ADAM", 0.01, 0, 0, 0, .9, .99, 1e-6, 1e-2, 0, 0),
    ("adamw", "ADAMW", 0.01, 0, 0, 0, .9, .999, 1e-8, 1e-1, 0, 0),
    ("adamw_clip", "ADAMW", 0.01, 0, 0, 0, .8, .95, 1e-8, 1e-1, 2.0, 0),
    ("adamw_groups", "ADAMW", 0.01, 0, 0, 0, .9, .999, 1e-8, 1e-1, 0, 1),
]


def run(method, lr, momentum, dampening, nesterov, b1, b2, eps, decay, max_norm, groups):
    params = [torch.nn.Parameter(w) for w in start()]
    lr, momentum, dampening, b1, b2, eps, decay = map(f32, (lr, momentum, dampening, b1, b2, eps, decay))
    sets = [{"params": params}]
    if groups:   # no decay for biases; fc2.weight at half the rate with its own decay
        sets = [{"params": [params[0]]}, {"params": [params[1], params[3]], "weight_decay": 0.0},
                {"params": [params[2]], "lr": lr * 0.5, "weight_decay": f32(0.02)}]
    if method == "SGD":
        opt = torch.optim.SGD(sets, lr=lr, momentum=momentum, dampening=dampening, nesterov=bool(nesterov), weight_decay=decay)
    else:
        opt = {"ADAM": torch.optim.Adam, "ADAMW": torch.optim.AdamW}[method](sets, lr=lr, betas=(b1, b2), eps=eps,
                                                                         weight_decay=decay)
    seen = []
    for t in range(1, max(STEPS) + 1):
        for p, w in enumerate(params):
            w.grad = gradient(p, w.detach(), t)
        if max_norm:
            torch.nn.utils.clip_grad_norm_(params, max_norm)
        opt.step()
        if t in STEPS:
            seen.append([params[p][i].item() for p, i in SHOWN])
    return seen


def schedules():
    S = torch.optim.lr_scheduler
    warm = lambda opt, main, start, n: S.SequentialLR(opt, [S.LinearLR(opt, start, 1.0, n), main], [n])
    # kind, gamma, period, total, final, warmup start, warmup steps, milestones
    table = [
        ("STEP", .5, 7, 0, 0, 0, 0, [], lambda o: S.StepLR(o, 7, .5)),
        ("MULTI_STEP", .25, 0, 0, 0, 0, 0, [5, 9, 9, 30], lambda o: S.MultiStepLR(o, [5, 9, 9, 30], .25)),
        ("COSINE", .5, 0, 49, 0, 0, 0, [], lambda o: S.CosineAnnealingLR(o, 49)),
        ("COSINE", .5, 0, 49, .125, 0, 0, [], lambda o: S.CosineAnnealingLR(o, 49, .125)),
        ("LINEAR", .5, 0, 30, .125, 0, 0, [], lambda o: S.LinearLR(o, 1.0, .125, 30)),
        ("CONSTANT", .5, 0, 0, 0, .25, 12, [], lambda o: S.LinearLR(o, .25, 1.0, 12)),
        ("COSINE", .5, 0, 40, .0625, .125, 10, [], lambda o: warm(o, S.CosineAnnealingLR(o, 40, .0625), .125, 10)),
        ("STEP", .5, 6, 0, 0, .5, 8, [], lambda o: warm(o, S.StepLR(o, 6, .5), .5, 8)),
    ]
    for kind, gamma, period, total, final, begin, warmup, milestones, make in table:
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        sched = make(opt)
        values = []
        for _ in range(50):
            values.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
        yield kind, gamma, period, total, final, begin, warmup, milestones, values


def main():
    warnings.simplefilter("ignore")
    out = ["/* optim_golden.h - what PyTorch %s gives; made by tests/tools/gen_optim.py, never edited." % torch.__version__.split("+")[0],
           " * SPDX-License-Identifier: MIT */",
           "enum { GOLDEN_STEPS = %d, GOLDEN_SHOWN = %d, GOLDEN_FACTORS = 50 };" % (len(STEPS), len(SHOWN)),
           "static const uint64_t golden_steps[] = { %s };" % ", ".join(map(str, STEPS)),
           "static const struct { int param, element; } golden_shown[] = { %s };" % ", ".join("{ %d, %d }" % s for s in SHOWN),
           "static const struct golden_run {",
           "    const char *name;",
           "    uint32_t method;",
           "    float lr, momentum, dampening;",
           "    uint32_t nesterov;",
           "    float beta1, beta2, eps, weight_decay, max_grad_norm;",
           "    int groups;",
           "    float w[GOLDEN_STEPS][GOLDEN_SHOWN];",
           "} golden_runs[] = {"]
    num = lambda x: repr(float(x)) + "f"
    for name, method, *args in RUNS:
        lr, mom, damp, nest, b1, b2, eps, decay, max_norm, groups = args
        out.append('    { "%s", KD_OPT_%s, %s, %s, %s, %d, %s, %s, %s, %s, %s, %d,' % (
            name, method, num(lr), num(mom), num(damp), nest, num(b1), num(b2), num(eps), num(decay), num(max_norm), groups))
        rows = ["        { %s }," % ", ".join("%.9gf" % v if v != int(v) else "%.1ff" % v for v in row) for row in run(method, *args)]
        rows[0] = "      {" + rows[0][8 - 1:]
        rows[-1] = rows[-1][:-1] + " } },"
        out += rows
    out += ["};", "static const struct golden_schedule {",
            "    uint32_t kind;", "    float gamma;", "    uint64_t period, total;", "    float final, warmup_start;",
            "    uint64_t warmup_steps, milestones[4];", "    size_t milestone_count;", "    double factor[GOLDEN_FACTORS];",
            "} golden_schedules[] = {"]
    for kind, gamma, period, total, final, begin, warmup, milestones, values in schedules():
        out.append("    { KD_SCHEDULE_%s, %s, %d, %d, %s, %s, %d, { %s }, %d," % (
            kind, num(gamma), period, total, num(final), num(begin), warmup, ", ".join(map(str, milestones or [0])), len(milestones)))
        for i in range(0, 50, 5):
            out.append("      %s%s%s" % ("{ " if i == 0 else "  ", ", ".join("%.17g" % v for v in values[i:i + 5]),
                                         "," if i < 45 else " } },"))
    out.append("};")
    grads = [gradient(p, w, 3) for p, w in enumerate(start())]
    for max_norm in (2.5, 1e4):
        params = [torch.nn.Parameter(w) for w in start()]
        for p, g in zip(params, grads):
            p.grad = g.clone()
        norm = torch.nn.utils.clip_grad_norm_(params, max_norm).item()
        out.append("static const double golden_clip_%s[] = { %.9g, %s };" % (
            "tight" if max_norm < 10 else "loose", norm, ", ".join("%.9g" % params[p].grad[i].item() for p, i in SHOWN)))
    print("\n".join(out))


main()
