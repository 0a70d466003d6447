# zoo_torch.py - the zoo's architectures in PyTorch, for the generators of golden values and for parity.py.
# SPDX-License-Identifier: MIT
#
# Each stands here once more, as its paper says, with the names of the weights that are published for it; vision transformers are
# timm's.
import math

import no_torchvision  # noqa: F401
import numpy as np
import torch
import torch.nn.functional as F
from golden_numbers import numbers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def fnv(text, bits):
    h, prime = (0x811C9DC5, 0x01000193) if bits == 32 else (0xCBF29CE484222325, 0x100000001B3)
    for c in text.encode():
        h = (h ^ c) * prime % 2 ** bits
    return h


def file_layout(v):
    """libkd's order of elements into PyTorch's."""
    return v.permute(3, 2, 0, 1) if v.dim() == 4 else v.t() if v.dim() == 2 else v


def libkd_order(v):
    v = v.detach()
    v = v.permute(2, 3, 1, 0) if v.dim() == 4 else v.t() if v.dim() == 2 else v
    return v.contiguous().double().numpy().reshape(-1)


class Margin(TorchDispatchMode):
    """How near the inputs of ReLUs come to the kink, and the largest two of a maximum's window to each other, in standard
    deviations; sums of zeros are zeros in any precision."""

    def __init__(self):
        super().__init__()
        self.margin = self.pool = math.inf

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        if function in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            v = args[0].detach()
            self.margin = min(self.margin, float(v[v != 0].abs().min() / v.std()))
        elif function is torch.ops.aten.max_pool2d_with_indices.default:
            self.pool = min(self.pool, nearest_maxima(*args))
        return function(*args, **(kwargs or {}))


def nearest_maxima(x, kernel, stride=(), padding=(0,)):
    outside = F.pad(x.detach().flatten(0, 1).unsqueeze(1), 4 * [padding[0]], value=-1e9)
    two = F.unfold(outside, kernel[0], stride=(stride or kernel)[0]).topk(2, 1).values
    apart = two[:, 0] - two[:, 1]
    return float(apart[apart > 0].min() / x.std())


class AwayFromKinks(TorchFunctionMode):
    """A forward pass in float64 that moves the bias in front of every ReLU, channel by channel, by at most a quarter of the
    standard deviation of what comes in: 0 then lies in the middle of the widest gap between the values there.  Biases stay
    floats."""

    def __init__(self):
        super().__init__()
        self.bias = None   # of the last batch norm or convolution: the one to move

    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.relu and self.bias is not None:
            self.move(args[0][:, :len(self.bias)], self.bias)   # ShuffleNetV1: channels behind it are of an average, >= 0
            self.bias = None
        y = function(*args, **kwargs)
        if function is F.batch_norm:
            self.bias = kwargs["bias"]
        elif function is F.conv2d:
            self.bias = args[2] if len(args) > 2 else None
        return y

    @staticmethod
    def move(x, bias):
        v = x.transpose(0, 1).flatten(1).sort(1).values
        middle, gap = (v[:, 1:] + v[:, :-1]) / 2, v[:, 1:] - v[:, :-1]
        gap = torch.where(middle.abs() <= v.std(1, keepdim=True) / 4, gap, 0)
        best = gap.argmax(1, keepdim=True)
        shift = torch.where(gap.gather(1, best) > 0, middle.gather(1, best), 0).squeeze(1)
        moved = (bias - shift).float().double()
        x += (moved - bias).view(-1, *[1] * (x.dim() - 2))
        bias.copy_(moved)


class Net:
    """Parameters are made when they are first read."""

    def __init__(self, dtype, classes):
        self.dtype, self.classes = dtype, classes
        self.state, self.buffers, self.taps, self.train = {}, {}, {}, False

    def get(self, name, shape, scale, shift=0.0, buffer=False):
        table = self.buffers if buffer else self.state
        if name not in table:
            v = (numbers(fnv(name, 32), int(np.prod(shape))) * scale + shift).astype(np.float32)
            v = file_layout(torch.from_numpy(v.reshape(shape))).contiguous().to(self.dtype)
            table[name] = v.requires_grad_(not buffer)
        return table[name]

    def conv(self, x, name, out, k, stride=1, groups=1, bias=False):
        fan = k * k * x.shape[1] // groups
        w = self.get(name + ".weight", (k, k, x.shape[1] // groups, out), np.sqrt(24 / fan))
        b = self.get(name + ".bias", (out,), 0.5) if bias else None
        return F.conv2d(x, w, b, stride, k // 2, 1, groups)

    def bn(self, x, name):
        c = (x.shape[1],)
        mean, var = self.get(name + ".running_mean", c, 0.5, 0.0, True), self.get(name + ".running_var", c, 1.0, 1.0, True)
        weight, bias = self.get(name + ".weight", c, 0.5, 0.875), self.get(name + ".bias", c, 0.5)
        return F.batch_norm(x, mean, var, weight, bias, self.train, 0.1, 1e-5)

    def unit(self, x, conv, bn, out, k, stride=1, groups=1, relu=True):
        x = self.bn(self.conv(x, conv, out, k, stride, groups), bn)
        return F.relu(x) if relu else x

    def join(self, x, branch):
        self.sum = branch + x
        return F.relu(self.sum)

    def tap(self, name, x):
        self.taps[name] = x
        return x

    def stage(self, name, x):
        """A tap behind residuals, and the sum before the last ReLU."""
        self.tap(name + ":pre", self.sum)
        return self.tap(name, x)

    def classify(self, x, name, pool="avgpool"):
        x = self.tap(pool, x.mean((2, 3)))
        weight = self.get(name + ".weight", (x.shape[1], self.classes), np.sqrt(12 / x.shape[1]))
        return F.linear(x, weight, self.get(name + ".bias", (self.classes,), 0.5))


def basic_block(n, x, p, width, stride, option):
    h = n.unit(x, p + "conv1", p + "bn1", width, 3, stride)
    h = n.unit(h, p + "conv2", p + "bn2", width, 3, relu=False)
    if stride != 1 or x.shape[1] != width:
        if option == "A":
            more = (width - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        else:
            x = n.unit(x, p + "downsample.0", p + "downsample.1", width, 1, stride, relu=False)
    return n.join(x, h)


def bottleneck(n, x, p, width, stride, option):
    h = n.unit(x, p + "conv1", p + "bn1", width, 1)
    h = n.unit(h, p + "conv2", p + "bn2", width, 3, stride)
    h = n.unit(h, p + "conv3", p + "bn3", 4 * width, 1, relu=False)
    if stride != 1 or x.shape[1] != 4 * width:
        x = n.unit(x, p + "downsample.0", p + "downsample.1", 4 * width, 1, stride, relu=False)
    return n.join(x, h)


def resnet_cifar(depth, widths, option="B"):
    def forward(n, x):
        x = n.unit(x, "conv1", "bn1", widths[0], 3)
        for g in (1, 2, 3):
            for i in range((depth - 2) // 6):
                x = basic_block(n, x, f"layer{g}.{i}.", widths[g], 2 if g > 1 and i == 0 else 1, option)
            n.stage(f"layer{g}", x)
        return n.classify(x, "fc" if option == "B" else "linear")
    return forward


def resnet(blocks, block):
    def forward(n, x):
        x = F.max_pool2d(n.unit(x, "conv1", "bn1", 64, 7, 2), 3, 2, 1)
        for g, count in enumerate(blocks, 1):
            for i in range(count):
                x = block(n, x, f"layer{g}.{i}.", 32 << g, 2 if g > 1 and i == 0 else 1, "B")
            n.stage(f"layer{g}", x)
        return n.classify(x, "fc")
    return forward


def wrn(depth, k):
    def forward(n, x):
        x = n.conv(x, "conv1", 16, 3)
        for g in (1, 2, 3):
            width = (8 << g) * k
            for i in range((depth - 4) // 6):
                p, stride = f"block{g}.layer.{i}.", 2 if g > 1 and i == 0 else 1
                h = F.relu(n.bn(x, p + "bn1"))
                y = n.conv(F.relu(n.bn(n.conv(h, p + "conv1", width, 3, stride), p + "bn2")), p + "conv2", width, 3)
                x = y + (x if x.shape[1] == width else n.conv(h, p + "convShortcut", width, 1, stride))
            n.tap(f"block{g}", x)
        return n.classify(F.relu(n.bn(x, "bn1")), "fc")
    return forward


def vgg(counts):
    def forward(n, x):
        large = x.shape[2] == 64
        for b, count in enumerate(counts):
            width = min(64 << b, 512)
            for i in range(count):
                x = F.relu(n.bn(n.conv(x, f"block{b}.{3 * i}", width, 3, bias=True), f"block{b}.{3 * i + 1}"))
            n.tap(f"relu{b}", x)
            if b < 3 or (b == 3 and large):
                x = F.max_pool2d(x, 2)
        return n.classify(x, "classifier", "pool4")
    return forward


def mobilenetv2(mult):
    def forward(n, x):
        x = n.tap("conv1", n.unit(x, "conv1.0", "conv1.1", int(32 * mult), 3, 2))
        stages = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
        for g, (t, c, count, s) in enumerate(stages):
            for i in range(count):
                p, stride, out, inner = f"blocks.{g}.{i}.conv.", s if i == 0 else 1, int(c * mult), t * x.shape[1]
                h = n.unit(x, p + "0", p + "1", inner, 1)
                h = n.unit(h, p + "3", p + "4", inner, 3, stride, inner)
                h = n.unit(h, p + "6", p + "7", out, 1, relu=False)
                x = x + h if stride == 1 and x.shape[1] == out else h
            n.tap(f"blocks.{g}", x)
        return n.classify(n.unit(x, "conv2.0", "conv2.1", 1280, 1), "classifier.0")
    return forward


def shuffle(x, g):
    b, c, h, w = x.shape
    return x.view(b, g, c // g, h, w).transpose(1, 2).reshape(b, c, h, w)


def shufflenetv1(n, x):
    x = n.unit(x, "conv1", "bn1", 24, 1)
    for g, (width, count) in enumerate([(240, 4), (480, 8), (960, 4)], 1):
        for i in range(count):
            p, groups, out = f"layer{g}.{i}.", 1 if x.shape[1] == 24 else 3, width if i else width - x.shape[1]
            h = shuffle(n.unit(x, p + "conv1", p + "bn1", out // 4, 1, 1, groups), groups)
            h = n.unit(h, p + "conv2", p + "bn2", out // 4, 3, 1 if i else 2, out // 4)
            h = n.unit(h, p + "conv3", p + "bn3", out, 1, 1, 3, relu=False)
            x = n.join(x, h) if i else F.relu(torch.cat([h, F.avg_pool2d(x, 3, 2, 1)], 1))
        n.stage(f"layer{g}", x)
    return n.classify(x, "linear")


def shufflenetv2(n, x):
    x = n.unit(x, "conv1", "bn1", 24, 1)
    for g, (width, count) in enumerate([(116, 4), (232, 8), (464, 4)], 1):
        for i in range(count):
            p, half = f"layer{g}.{i}.", width // 2
            if i == 0:
                c = x.shape[1]
                a = n.unit(x, p + "conv1", p + "bn1", c, 3, 2, c, relu=False)
                a = n.unit(a, p + "conv2", p + "bn2", half, 1)
                h = n.unit(x, p + "conv3", p + "bn3", half, 1)
                h = n.unit(h, p + "conv4", p + "bn4", half, 3, 2, half, relu=False)
                h = n.unit(h, p + "conv5", p + "bn5", half, 1)
            else:
                a, h = x[:, :half], x[:, half:]
                h = n.unit(h, p + "conv1", p + "bn1", half, 1)
                h = n.unit(h, p + "conv2", p + "bn2", half, 3, 1, half, relu=False)
                h = n.unit(h, p + "conv3", p + "bn3", half, 1)
            x = shuffle(torch.cat([a, h], 1), 2)
        n.tap(f"layer{g}", x)
    return n.classify(n.unit(x, "conv2", "bn2", 1024, 1), "linear")


def regnety(stages, group):
    def forward(n, x):
        x = n.tap("stem", n.unit(x, "stem.conv", "stem.bn", 32, 3, 2))
        for s, (count, width) in enumerate(stages, 1):
            for b in range(count):
                p, narrow = f"s{s}.b{b + 1}.", x.shape[1] // 4
                h = n.unit(x, p + "conv1.conv", p + "conv1.bn", width, 1)
                h = n.unit(h, p + "conv2.conv", p + "conv2.bn", width, 3, 1 if b else 2, width // group)
                gate = F.relu(n.conv(h.mean((2, 3), keepdim=True), p + "se.fc1", narrow, 1, bias=True))
                h = h * torch.sigmoid(n.conv(gate, p + "se.fc2", width, 1, bias=True))
                h = n.unit(h, p + "conv3.conv", p + "conv3.bn", width, 1, relu=False)
                x = n.join(x if b else n.unit(x, p + "downsample.conv", p + "downsample.bn", width, 1, 2, relu=False), h)
            n.stage(f"s{s}", x)
        return n.classify(x, "head.fc", "head.global_pool")
    return forward


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
NETS = {f"resnet{d}": resnet_cifar(d, NARROW) for d in (8, 14, 20, 32, 44, 56, 110)}
NETS |= {"resnet8x4": resnet_cifar(8, WIDE), "resnet32x4": resnet_cifar(32, WIDE)}
NETS |= {f"resnet{d}_a": resnet_cifar(d, NARROW, "A") for d in (20, 32, 44, 56, 110)}
NETS |= {f"wrn_{d}_{k}": wrn(d, k) for d in (16, 40) for k in (1, 2)}
NETS |= {"vgg8": vgg((1, 1, 1, 1, 1)), "vgg11": vgg((1, 1, 2, 2, 2)), "vgg13": vgg((2, 2, 2, 2, 2)),
         "vgg16": vgg((2, 2, 3, 3, 3)), "vgg19": vgg((2, 2, 4, 4, 4)),
         "mobilenetv2_half": mobilenetv2(0.5), "mobilenetv2": mobilenetv2(1),
         "shufflenetv1": shufflenetv1, "shufflenetv2": shufflenetv2,
         "resnet18": resnet((2, 2, 2, 2), basic_block), "resnet34": resnet((3, 4, 6, 3), basic_block),
         "resnet50": resnet((3, 4, 6, 3), bottleneck), "resnet101": resnet((3, 4, 23, 3), bottleneck),
         "resnet152": resnet((3, 8, 36, 3), bottleneck),
         "regnety_002": regnety(((1, 24), (1, 56), (4, 152), (7, 368)), 8),
         "regnety_004": regnety(((1, 48), (3, 104), (6, 208), (6, 440)), 8),
         "regnety_006": regnety(((1, 48), (3, 112), (7, 256), (4, 608)), 16),
         "regnety_008": regnety(((1, 64), (3, 128), (8, 320), (2, 768)), 16)}


class Module(torch.nn.Module):
    """One of NETS as PyTorch's users have it: parameters and buffers under their names."""

    def __init__(self, name, classes):
        super().__init__()
        self.net, self.taps, n = NETS[name], {}, Net(torch.float32, classes)
        with torch.no_grad():
            self.net(n, torch.zeros(1, 3, 32, 32))
        for key, v in {**n.state, **n.buffers}.items():
            *path, last = key.split(".")
            m = self
            for part in path:
                if part not in m._modules:
                    m.add_module(part, torch.nn.Module())
                m = m._modules[part]
            m.register_buffer(last, v) if key in n.buffers else m.register_parameter(last, torch.nn.Parameter(v.detach()))

    def forward(self, x):
        n = Net(x.dtype, 0)
        n.state, n.buffers, n.train = dict(self.named_parameters()), dict(self.named_buffers()), self.training
        n.classes = list(n.state.values())[-1].shape[0]
        y = self.net(n, x)
        self.taps = n.taps
        return y
