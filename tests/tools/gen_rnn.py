#!/usr/bin/env python3
# gen_rnn.py - golden values of LSTM and GRU, two layers in both directions, from PyTorch in double precision.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_rnn.py > tests/golden/golden_rnn.h
import torch
from golden_numbers import numbers, probe, table

BATCH, STEPS, IN, HIDDEN = 3, 5, 4, 7


def values(v):
    return v.detach().contiguous().numpy().reshape(-1)


print("/* golden_rnn.h - made by tests/tools/gen_rnn.py: PyTorch in double precision.\n"
      " * SPDX-License-Identifier: MIT */\n#include \"probe.h\"")
print(f"enum {{ BATCH = {BATCH}, STEPS = {STEPS}, IN = {IN}, HIDDEN = {HIDDEN} }};")
for kind, cell in ("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU):
    rnn = cell(IN, HIDDEN, 2, batch_first=True, bidirectional=True).double()
    for s, p in enumerate(rnn.parameters()):
        v = torch.from_numpy(numbers(s, p.numel()) * 1.5)
        p.data = v.reshape(p.shape[1], p.shape[0]).t().contiguous() if p.dim() == 2 else v
    x = torch.from_numpy(numbers(1000, BATCH * STEPS * IN) * 4).reshape(BATCH, STEPS, IN).requires_grad_()
    y, _ = rnn(x)
    (y * torch.from_numpy(numbers(1001, y.numel())).reshape(y.shape)).sum().backward()
    table("double", kind + "_states", [f"{v:.17g}" for v in values(y)], 5)
    grads = [probe(3000 + i, n, values(p.grad.t() if p.dim() == 2 else p.grad)) for i, (n, p) in enumerate(rnn.named_parameters())]
    table("probe", kind + "_grads", grads + [probe(3100, "x", values(x.grad))])
