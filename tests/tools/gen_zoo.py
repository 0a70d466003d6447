#!/usr/bin/env python3
# gen_zoo.py - golden values of the zoo's architectures, from PyTorch in double precision.
# SPDX-License-Identifier: MIT
#
#   python3 tests/tools/gen_zoo.py > tests/golden/golden_zoo.h      # with timm: ResNets are compared with timm's as well
#
# Each architecture stands here once more, as its paper says, with the names of the weights that are published for it.  Weights
# come from a stream that the name of the parameter says, so no file carries them.  Kept are logits, the loss of a training step, and
# of taps, gradients and running statistics the norm and the dot product with hashed numbers; gradients by the first part of
# their names.
import sys

import numpy as np
import torch
import torch.nn.functional as F
from golden_numbers import numbers

CLASSES = 5


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


class Net:
    """Parameters are made when they are first read."""

    def __init__(self, dtype):
        self.dtype, self.state, self.buffers, self.taps, self.train = dtype, {}, {}, {}, False
        self.margin = 1.0

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
        return self.relu(x) if relu else x

    def relu(self, x):
        """Notes how near its inputs come to the kink, in standard deviations; sums of zeros are zeros in any precision."""
        v = x.detach()
        self.margin = min(self.margin, float(v[v != 0].abs().min() / v.std()))
        return F.relu(x)

    def tap(self, name, x):
        self.taps[name] = x
        return x

    def classify(self, x, name):
        x = x.mean((2, 3))
        weight = self.get(name + ".weight", (x.shape[1], CLASSES), np.sqrt(12 / x.shape[1]))
        return F.linear(x, weight, self.get(name + ".bias", (CLASSES,), 0.5))


def basic_block(n, x, p, width, stride, option):
    h = n.unit(x, p + "conv1", p + "bn1", width, 3, stride)
    h = n.unit(h, p + "conv2", p + "bn2", width, 3, relu=False)
    if stride != 1 or x.shape[1] != width:
        if option == "A":
            more = (width - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        else:
            x = n.unit(x, p + "downsample.0", p + "downsample.1", width, 1, stride, relu=False)
    return n.relu(h + x)


def bottleneck(n, x, p, width, stride, option):
    h = n.unit(x, p + "conv1", p + "bn1", width, 1)
    h = n.unit(h, p + "conv2", p + "bn2", width, 3, stride)
    h = n.unit(h, p + "conv3", p + "bn3", 4 * width, 1, relu=False)
    if stride != 1 or x.shape[1] != 4 * width:
        x = n.unit(x, p + "downsample.0", p + "downsample.1", 4 * width, 1, stride, relu=False)
    return n.relu(h + x)


def resnet_cifar(depth, widths, option="B"):
    def forward(n, x):
        x = n.unit(x, "conv1", "bn1", widths[0], 3)
        for g in (1, 2, 3):
            for i in range((depth - 2) // 6):
                x = basic_block(n, x, f"layer{g}.{i}.", widths[g], 2 if g > 1 and i == 0 else 1, option)
            n.tap(f"layer{g}", x)
        return n.classify(x, "fc" if option == "B" else "linear")
    return forward


def resnet(blocks, block):
    def forward(n, x):
        x = F.max_pool2d(n.unit(x, "conv1", "bn1", 64, 7, 2), 3, 2, 1)
        for g, count in enumerate(blocks, 1):
            for i in range(count):
                x = block(n, x, f"layer{g}.{i}.", 32 << g, 2 if g > 1 and i == 0 else 1, "B")
            n.tap(f"layer{g}", x)
        return n.classify(x, "fc")
    return forward


def wrn(depth, k):
    def forward(n, x):
        x = n.conv(x, "conv1", 16, 3)
        for g in (1, 2, 3):
            width = (8 << g) * k
            for i in range((depth - 4) // 6):
                p, stride = f"block{g}.layer.{i}.", 2 if g > 1 and i == 0 else 1
                h = n.relu(n.bn(x, p + "bn1"))
                y = n.conv(n.relu(n.bn(n.conv(h, p + "conv1", width, 3, stride), p + "bn2")), p + "conv2", width, 3)
                x = y + (x if x.shape[1] == width else n.conv(h, p + "convShortcut", width, 1, stride))
            n.tap(f"block{g}", x)
        return n.classify(n.relu(n.bn(x, "bn1")), "fc")
    return forward


def vgg(counts):
    def forward(n, x):
        large = x.shape[2] == 64
        for b, count in enumerate(counts):
            width = min(64 << b, 512)
            for i in range(count):
                x = n.relu(n.bn(n.conv(x, f"block{b}.{3 * i}", width, 3, bias=True), f"block{b}.{3 * i + 1}"))
            n.tap(f"relu{b}", x)
            if b < 3 or (b == 3 and large):
                x = F.max_pool2d(x, 2)
        return n.classify(x, "classifier")
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
            x = n.relu(h + x if i else torch.cat([h, F.avg_pool2d(x, 3, 2, 1)], 1))
        n.tap(f"layer{g}", x)
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


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
# name: (forward, side of the images, batch, 1 if in every run of the tests).  For those, images are sought for which no input of a
# ReLU is so near 0 that rounding in float32 could decide its sign, so that gradients can be compared closely.
MARGIN, TRIES = 5e-6, 60
NETS = {
    "resnet20": (resnet_cifar(20, NARROW), 16, 2, 1),
    "resnet110": (resnet_cifar(110, NARROW), 32, 3, 0),
    "resnet8x4": (resnet_cifar(8, WIDE), 16, 2, 1), "resnet32x4": (resnet_cifar(32, WIDE), 32, 3, 0),
    "resnet20_a": (resnet_cifar(20, NARROW, "A"), 16, 2, 1), "resnet56_a": (resnet_cifar(56, NARROW, "A"), 32, 3, 0),
    "wrn_16_2": (wrn(16, 2), 16, 2, 1), "wrn_40_1": (wrn(40, 1), 32, 3, 0),
    "wrn_40_2": (wrn(40, 2), 32, 3, 0), "vgg8": (vgg((1, 1, 1, 1, 1)), 16, 2, 1), "vgg11": (vgg((1, 1, 2, 2, 2)), 64, 2, 0),
    "vgg13": (vgg((2, 2, 2, 2, 2)), 32, 3, 0), "vgg19": (vgg((2, 2, 4, 4, 4)), 32, 3, 0),
    "mobilenetv2_half": (mobilenetv2(0.5), 32, 3, 1), "mobilenetv2": (mobilenetv2(1), 32, 6, 0),
    "shufflenetv1": (shufflenetv1, 16, 4, 1), "shufflenetv2": (shufflenetv2, 16, 4, 1),
    "resnet18": (resnet((2, 2, 2, 2), basic_block), 48, 3, 1), "resnet34": (resnet((3, 4, 6, 3), basic_block), 64, 3, 0),
    "resnet50": (resnet((3, 4, 6, 3), bottleneck), 64, 3, 0),
}


def images(name, stream):
    _, side, batch, _ = NETS[name]
    x = torch.from_numpy((numbers(stream, batch * side * side * 3) * 4).reshape(batch, side, side, 3))
    return x.permute(0, 3, 1, 2)


def find_stream(name):
    forward, _, _, quick = NETS[name]
    n, best = Net(torch.float64), (-1.0, 0)
    n.train = True
    for stream in range(TRIES if quick else 1):
        n.margin = 1.0
        with torch.no_grad():
            forward(n, images(name, stream))
        best = max(best, (n.margin, stream))
        if n.margin > MARGIN:
            break
    return best


def measure(name, stream, dtype):
    forward, _, batch, _ = NETS[name]
    n, out = Net(dtype), {}
    x = images(name, stream).to(dtype)
    with torch.no_grad():
        out["eval"] = forward(n, x).double().numpy().reshape(-1)
    out["taps"] = [(k, *probe(k, v.permute(0, 2, 3, 1).contiguous().double().numpy().reshape(-1))) for k, v in n.taps.items()]
    n.train = True
    logits = forward(n, x)
    loss = F.cross_entropy(logits, torch.arange(batch) * 3 % CLASSES)
    loss.backward()
    out["train"], out["loss"] = logits.detach().double().numpy().reshape(-1), loss.item()
    groups = {}
    for k, v in n.state.items():
        add(groups, k.split(".")[0], *probe(k, libkd_order(v.grad)))
    for k, v in n.buffers.items():
        add(groups, "buffers", *probe(k, libkd_order(v)))
    out["groups"] = [(k, np.sqrt(s), d) for k, (s, d) in groups.items()]
    out["taps"] = [(k, np.sqrt(s), d) for k, s, d in out["taps"]]
    out["size"] = sum(v.numel() for v in n.state.values())
    out["names"] = sum(fnv(k + " " + "x".join(map(str, v.shape)), 64) for k, v in {**n.state, **n.buffers}.items()) % 2 ** 64
    return out, n, x


def probe(name, v):
    return float((v * v).sum()), float((v * numbers(fnv(name, 32) ^ 1, len(v))).sum())


def add(groups, key, squares, dot):
    s, d = groups.get(key, (0.0, 0.0))
    groups[key] = (s + squares, d + dot)


def against_timm(name, x):
    import timm
    if name not in ("resnet18", "resnet34", "resnet50"):
        return
    n = Net(torch.float64)
    want = NETS[name][0](n, x).detach()
    model = timm.create_model(name, num_classes=CLASSES).double().eval()
    names = set(k for k in model.state_dict() if not k.endswith("num_batches_tracked"))
    assert names == set(n.state) | set(n.buffers), name
    model.load_state_dict({**n.state, **n.buffers}, strict=False)
    assert float((model(x) - want).abs().max() / want.abs().max()) < 1e-12, name
    print(f"{name}: names and logits as timm's", file=sys.stderr)


def far(a, b, keys):
    """How far the numbers b are from a, of the largest of a, or of the norm."""
    away = [np.abs(a[k] - b[k]).max() / np.abs(a[k]).max() for k in ("eval", "train")] + [abs(a["loss"] - b["loss"]) / a["loss"]]
    for k in keys:
        away += [max(abs(p[1] - q[1]), abs(p[2] - q[2])) / p[1] for p, q in zip(a[k], b[k])]
    return max(away)


def listed(values):
    return "{ " + ", ".join(f"{v:.17g}" for v in values) + " }"


HEAD = """/* golden_zoo.h - made by tests/tools/gen_zoo.py: PyTorch in double precision.
 * In float32 PyTorch itself is up to %.1e away from logits and taps.
 * SPDX-License-Identifier: MIT */
enum { CLASSES = %d, MAX_BATCH = 6, MAX_TAPS = 8, MAX_GROUPS = 12 };

/* A tensor, or several: 2-norm, and dot product with hashed numbers. */
typedef struct norm_dot { const char *name; double norm, dot; } norm_dot;

static const struct golden {
    const char *name;
    unsigned side, batch, quick, stream;
    size_t size;      /* of all parameters */
    uint64_t names;   /* sum of the hashes of "name shape" */
    double margin;    /* the smallest input of a ReLU in the training step, in standard deviations */
    double loss, eval[MAX_BATCH * CLASSES], train[MAX_BATCH * CLASSES];
    norm_dot taps[MAX_TAPS], groups[MAX_GROUPS];
} nets[] = {"""


def main():
    torch.manual_seed(1)
    entries, furthest = [], 0.0
    for name, (_, side, batch, quick) in NETS.items():
        margin, stream = find_stream(name)
        got, n, x = measure(name, stream, torch.float64)
        other = measure(name, stream, torch.float32)[0]
        forward, moved = far(got, other, ("taps",)), far(got, other, ("taps", "groups"))
        furthest = max(furthest, forward)
        print(f"{name}: {got['size']} parameters, PyTorch in float32 {forward:.1e} away, gradients {moved:.1e}; "
              f"stream {stream}, margin {margin:.1e}", file=sys.stderr)
        try:
            against_timm(name, x)
        except ImportError:
            pass
        rows = lambda k: "{ " + ",\n        ".join(f'{{ "{p}", {a:.17g}, {d:.17g} }}' for p, a, d in got[k]) + " }"
        entries.append(f'    {{ "{name}", {side}, {batch}, {quick}, {stream}, {got["size"]}, '
                       f'0x{got["names"]:x}u, {margin:.2g}, '
                       f'{got["loss"]:.17g},\n      {listed(got["eval"])},\n      {listed(got["train"])},\n'
                       f'      {rows("taps")},\n      {rows("groups")} }},')
    print(HEAD % (furthest, CLASSES))
    print("\n".join(entries) + "\n};")


if __name__ == "__main__":
    main()
