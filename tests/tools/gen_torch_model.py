#!/usr/bin/env python3
"""Writes tests/golden/torch_model.safetensors: a small PyTorch network's state_dict, an input and what it gives.

SPDX-License-Identifier: MIT
The output is computed in double precision.  `bound` is the same network run on absolute values: the error of a float
network is at most a few hundred times 2^-24 of it.
"""
import copy
import os
import torch
from torch import nn
from safetensors.torch import save_file

torch.manual_seed(20)
net = nn.Sequential()
net.add_module("stem", nn.Conv2d(3, 8, (3, 5), stride=(1, 2), padding=(1, 2)))
net.add_module("bn", nn.BatchNorm2d(8))
net.add_module("act", nn.ReLU())
net.add_module("deep", nn.Sequential(nn.Conv2d(8, 16, 3, groups=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()))
net.add_module("pool", nn.AdaptiveAvgPool2d(1))
net.add_module("flat", nn.Flatten())
net.add_module("fc", nn.Linear(16, 5))
for m in net.modules():
    if isinstance(m, nn.BatchNorm2d):
        m.running_mean.normal_(0, 0.5)
        m.running_var.uniform_(0.5, 2)
        m.weight.data.uniform_(0.5, 2)
        m.bias.data.normal_()
        m.num_batches_tracked.fill_(123)
net.eval()
x = torch.randn(2, 3, 9, 8)
y = copy.deepcopy(net).double()(x.double()).detach()

absolute = copy.deepcopy(net).double()
for m in absolute.modules():
    if isinstance(m, nn.BatchNorm2d):
        m.running_mean.abs_().neg_()
for p in absolute.parameters():
    p.data.abs_()
bound = absolute(x.double().abs()).detach()

tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
assert "deep.0.weight" in tensors and tensors["stem.weight"].shape == (8, 3, 3, 5)
tensors["stem.weight"] = tensors["stem.weight"].double()  # every float type is converted; the doubles are floats here
tensors["x"] = x.permute(0, 2, 3, 1).contiguous()
tensors["y"] = y
tensors["bound"] = bound
here = os.path.dirname(os.path.abspath(__file__))
save_file(tensors, os.path.join(here, "..", "golden", "torch_model.safetensors"), metadata={"format": "pt"})
