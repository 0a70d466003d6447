#!/usr/bin/env python3
# parity.py - every model of the zoo beside PyTorch: outputs, taps, a training step's gradients, and weights there and back.
# SPDX-License-Identifier: MIT
#
#   make parity PEERS_PYTHON=python3        # one that has torch, timm and safetensors; MODELS="globs" for some of them
#
# The PyTorch side is timm's where timm has the network, else the text in zoo_torch.py.
import argparse
import copy
import datetime
import fnmatch
import math
import os
import sys
import tempfile

import numpy
import torch
import torch.nn.functional as F
from zoo_torch import NETS, AwayFromKinks, Margin, Module
import timm
from timm.layers import resample_abs_pos_embed
from timm.models.resnet import ResNet
from safetensors.torch import load_file, save_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "python"))
import libkd  # noqa: E402

CLASSES, T, HARD, SOFT = 10, 4.0, 0.1, 0.9
LIMIT, POOL = 1e-4, 3e-6
TRANSFORMERS = [f"{model}_patch16_224" for size in ("tiny", "small", "base")
                for model in (f"vit_{size}", f"deit_{size}", f"deit_{size}_distilled")]
FULL = ["deit_tiny_distilled_patch16_224", "deit_small_patch16_224", "vit_tiny_patch16_224", "resnet18", "resnet50"]
FULL += [f"regnety_00{i}" for i in (2, 4, 6, 8)]
# Special tokens, side of the grid in the file, of the model's.
POSITIONS = [(1, 14, 24), (2, 14, 24), (2, 24, 14), (1, 7, 8), (2, 8, 7), (2, 14, 12)]
TRANSFORMERS += ["vit_tiny_patch4_32", "deit_tiny_distilled_patch4_32", "deit_small_distilled_patch8_48"]


def by_timm(name):
    return name not in NETS or name.startswith("regnety") or name in [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]


def image_of(name):
    """Side and batch."""
    if name in TRANSFORMERS:
        side = int(name.split("_")[-1])
        return side, 1 if "base" in name else 2 if side == 224 else 4
    return (128, 8) if by_timm(name) else (32, 8 if "vgg" in name else 16)


def make(name):
    if name in TRANSFORMERS:
        head, patch, side = name.rsplit("_", 2)
        return timm.create_model(head + "_patch16_224", num_classes=CLASSES, img_size=int(side), patch_size=int(patch[5:]))
    return timm.create_model(name, num_classes=CLASSES) if by_timm(name) else Module(name, CLASSES)


def tapped(model, name, store):
    """Let a model of timm store what libkd taps under the same names."""
    def out(key):
        return lambda m, args, y: store.__setitem__(key, y)

    def into(key):   # before a ReLU that works in place
        return lambda m, args: store.__setitem__(key, args[0].clone())
    if name in TRANSFORMERS:
        for i, block in enumerate(model.blocks):
            block.register_forward_hook(out(f"blocks.{i}"))
        model.norm.register_forward_hook(out("norm"))
        return
    stages = (1, 2, 3, 4)
    for i in stages:
        stage = getattr(model, f"s{i}" if "regnety" in name else f"layer{i}")
        key, last = f"s{i}" if "regnety" in name else f"layer{i}", list(stage.children())[-1]
        stage.register_forward_hook(out(key))
        (last.act3 if hasattr(last, "act3") else last.act2).register_forward_pre_hook(into(key + ":pre"))
    if "regnety" in name:
        model.stem.register_forward_hook(out("stem"))
        model.head.global_pool.register_forward_hook(out("head.global_pool"))
    else:
        model.global_pool.register_forward_hook(out("avgpool"))


def randomize(model, x):
    """Random weights; running statistics near those of the data, as a trained network has them, and at random around them.  The
    gains that close a bottleneck are small, as trained ones are (they begin as 0): at 1 each of up to 50 blocks adds as much as
    it is given."""
    for name, p in model.named_parameters():
        if p.dim() > 1 and "token" not in name and "embed" not in name[:9]:
            p.data.normal_(0, (2 / p[0].numel()) ** 0.5)
        elif p.dim() > 1:
            p.data.normal_(0, 0.5 if "proj" not in name else p[0].numel() ** -0.5)
        elif name.endswith("weight"):
            p.data.uniform_(*((0, 0.5) if name.endswith("bn3.weight") and isinstance(model, ResNet) else (0.5, 1.5)))
        else:
            p.data.uniform_(-0.5, 0.5)
    buffers = dict(model.named_buffers())
    model.train()
    with torch.no_grad():
        for _ in range(20 if buffers else 0):
            model(x)
        for name, b in buffers.items():
            if name.endswith("running_var"):
                b *= torch.empty_like(b).uniform_(0.7, 1.4)
            elif name.endswith("running_mean"):
                b += torch.empty_like(b).normal_(0, 0.1) * buffers[name[:-4] + "var"].sqrt()


def losses(y, labels, teacher):
    """Of the logits, or of a distilled transformer's two heads: labels for the first, the teacher for the second."""
    first, second = y if isinstance(y, tuple) else (y, y)
    soft = F.kl_div(F.log_softmax(second / T, 1), F.log_softmax(teacher / T, 1), reduction="batchmean", log_target=True)
    return HARD * F.cross_entropy(first, labels) + SOFT * T * T * soft


def pytorch(model, name, x, labels, teacher):
    """What is compared, in float64, images NHWC."""
    taps, here = {}, {}
    model = copy.deepcopy(model)
    if by_timm(name):
        tapped(model, name, taps)
    model.eval()
    with torch.no_grad():
        here["forward"] = {"eval": model(x)}
        here["taps"] = dict(taps) if by_timm(name) else dict(model.taps)
    model.train()
    if hasattr(model, "set_distilled_training"):
        model.set_distilled_training(True)
    y = model(x)
    loss = losses(y, labels, teacher)
    loss.backward()
    for i, head in enumerate(y if isinstance(y, tuple) else (y,)):
        here["forward"][f"train {i}"] = head.detach()
    here["forward"]["loss"] = loss.detach()
    here["gradients"] = {k: p.grad for k, p in model.named_parameters()}
    here["statistics"] = {k: b for k, b in model.named_buffers() if "running" in k}
    here["taps"] = {k: v.permute(0, 2, 3, 1) if v.dim() == 4 else v for k, v in here["taps"].items()}
    return here


def array(x):
    """A copy of what libkd holds."""
    return torch.from_numpy(numpy.array(x))


def ours(model, path, x, labels, teacher, taps):
    model.load(path)
    x = x.permute(0, 2, 3, 1).contiguous().numpy()
    here = {"forward": {"eval": array(model.predict(x))}, "taps": {}}
    for tap in taps:
        model.tap(tap)
    tape = libkd.Tape("infer")
    y = array(model(tape, x))
    assert torch.equal(y, here["forward"]["eval"]), "taps change the bits of the result"
    here["taps"] = {tap: array(model.tapped(tape, tap)) for tap in taps}
    tape = libkd.Tape("train")
    y = model(tape, x)
    here["forward"]["train 0"] = array(y)
    hard = libkd.LossDistill(hard_weight=HARD, soft_weight=0.0)
    both = libkd.LossDistill(temperature=T, hard_weight=HARD, soft_weight=SOFT)
    soft = libkd.LossDistill(temperature=T, hard_weight=0.0, soft_weight=SOFT)
    if "head_dist.weight" in model.parameters():
        second = model.tapped(tape, "head_dist")
        here["forward"]["train 1"] = array(second)
        loss = tape.add(hard.apply(tape, y, None, labels), soft.apply(tape, second, teacher))
    else:
        loss = both.apply(tape, y, teacher, labels)
    here["forward"]["loss"] = array(loss)
    tape.backward(loss)
    infos = model.parameter_infos()
    here["gradients"] = {p.name: array(p.grad).permute(*p.file_axes) for p in infos if not p.is_buffer}
    here["statistics"] = {p.name: array(p.tensor) for p in infos if p.is_buffer}
    return here


def difference(a, b, floor=0.0):
    """max |a - b| / max |b|"""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / max(float(b.abs().max()), floor))


def furthest(a, b, exact):
    """The largest relative difference of tensors, and whose.  What is zero but for rounding (exact: in float64 less than 1e-9 of
    the largest of all) is measured by the largest of all."""
    assert set(a) == set(b), set(a) ^ set(b)
    largest = max([float(v.abs().max()) for v in exact.values()], default=0.0)
    zero = {k for k, v in exact.items() if float(v.abs().max()) < 1e-9 * largest}
    return max([(difference(a[k], b[k], largest if k in zero else 0.0), k) for k in b], default=(0.0, ""))


def find_images(model, side, batch, tries):
    """Images for which no input of a ReLU is so near 0 that rounding in float32 could decide its sign, and no two of a maximum's
    window so near each other that it could decide which is larger: there gradients jump.  For ReLUs the model's biases are moved;
    for maxima seeds are tried, in ResNets at the one that stands behind the stem."""
    best = (-1.0, 0)
    for seed in range(tries):
        torch.manual_seed(1000 + seed)
        x = torch.randn(batch, 3, side, side)
        double = copy.deepcopy(model).double().train()
        part = (lambda v: double.maxpool(double.act1(double.bn1(double.conv1(v))))) if hasattr(double, "maxpool") else double
        with torch.no_grad(), AwayFromKinks():
            part(x.double())
        with torch.no_grad(), Margin() as kinks:
            part(x.double())
        best = max(best, (kinks.pool, seed))
        if kinks.pool > POOL:
            break
    torch.manual_seed(1000 + best[1])
    x = torch.randn(batch, 3, side, side)
    double = copy.deepcopy(model).double().train()
    with torch.no_grad(), AwayFromKinks():
        double(x.double())
    with torch.no_grad():
        for single, moved in zip(model.parameters(), double.parameters()):
            single.copy_(moved)
    double = copy.deepcopy(model).double().train()
    with torch.no_grad(), Margin() as kinks:
        double(x.double())
    return kinks, x


def exact_round_trip(model, name, path, state):
    """PyTorch's weights through libkd into a new model of PyTorch: true if every tensor came back as it was."""
    model.load(path)
    model.save(path + ".back")
    back = load_file(path + ".back")
    new = make(name)
    new.load_state_dict(back, strict=True)
    want = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert set(back) == set(want), set(back) ^ set(want)
    return all(torch.equal(new.state_dict()[k], v) for k, v in want.items())


def compare(name, folder, tries):
    torch.manual_seed(sum(map(ord, name)))
    side, batch = image_of(name)
    model = make(name)
    randomize(model, torch.randn(max(batch, 8 if side < 224 else 1), 3, side, side))
    kinks, x = find_images(model, side, batch, tries)
    torch.manual_seed(7)
    labels, teacher = torch.randint(CLASSES, (batch,)), torch.randn(batch, CLASSES) * 3
    path = os.path.join(folder, name + ".safetensors")
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    save_file(state, path)
    single = pytorch(model, name, x, labels, teacher)
    double = pytorch(model.double(), name, x.double(), labels, teacher.double())
    mine = libkd.zoo.create(name, CLASSES, 1)
    same = exact_round_trip(mine, name, path, state)
    here = ours(mine, path, x, labels.numpy(), teacher.numpy(), list(single["taps"]))
    row = {"model": name, "parameters": mine.size, "side": side, "batch": batch, "margin": kinks.margin, "pool": kinks.pool}
    row["exact"] = same
    for part in ("forward", "taps", "gradients", "statistics"):
        row[part] = [furthest(a[part], b[part], double[part]) for a, b in ((here, single), (here, double), (single, double))]
    return row


def full_size(name, folder):
    """A network of 1000 classes as timm begins it, through files both ways: by name, and by the loader of timm's users."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=1000).eval()
    state = {k: v for k, v in model.state_dict().items()}
    path = os.path.join(folder, "full.safetensors")
    save_file(state, path)
    mine = libkd.zoo.create(name, 1000, 1)
    mine.load(path)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        single, double = model(x), copy.deepcopy(model).double()(x.double())
    here = array(mine.predict(x.permute(0, 2, 3, 1).contiguous().numpy()))
    mine.save(path)
    tensors = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    back = timm.create_model(name, num_classes=1000, checkpoint_path=path).state_dict()   # strict
    exact = len(load_file(path)) == len(tensors) and set(back) == set(state)
    exact = exact and all(torch.equal(back[k], state[k]) for k in state)
    for kind in (torch.float16, torch.bfloat16):
        save_file({k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}, path)
        mine.load(path)
        mine.save(path)
        back = load_file(path)
        exact = exact and all(torch.equal(back[k], v.to(kind).float()) for k, v in tensors.items())
    row = {"model": name, "parameters": mine.size, "tensors": len(tensors), "counters": len(state) - len(tensors)}
    return {**row, "exact": exact, "forward": [difference(here, single), difference(here, double), difference(single, double)]}


def positions(special, old, new, folder):
    """Positions of one grid in a file, loaded into a model of another, beside timm's."""
    name = "deit_tiny_distilled_patch4_" if special == 2 else "deit_tiny_patch4_"
    path = os.path.join(folder, "positions.safetensors")
    torch.manual_seed(5)
    libkd.zoo.create(f"{name}{4 * old}", CLASSES, 1).save(path)
    state = load_file(path)
    state["pos_embed"] = torch.randn(1, special + old * old, 192)
    save_file(state, path)
    mine = libkd.zoo.create(f"{name}{4 * new}", CLASSES, 2)
    mine.load(path, resize_positions=True)
    want = resample_abs_pos_embed(state["pos_embed"], [new, new], num_prefix_tokens=special)
    return difference(array(mine.parameters()["pos_embed"]), want)


def cpu():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform
        return platform.processor() or platform.machine()


HEAD = """# Parity with PyTorch

Made by `make parity`; {date}; {cpu}, libkd {libkd} ({isa}), PyTorch {torch}, timm {timm}.

Random weights and batch-norm statistics, saved by PyTorch as safetensors, loaded by name with `kd_model_load`; the same
images, float32. PyTorch's side is timm's model where timm has it (ResNet-18 and deeper, RegNetY, ViT, DeiT), else the text
in `tests/tools/zoo_torch.py`; {classes} classes. The difference of two tensors a and b is max |a - b| / max |b|; a cell is
the worst of all tensors of its kind:

- forward: logits in inference and in training (both heads of a distilled model), and the loss;
- taps: the output of every stage (of every block in transformers), and of residual stages the sum before the last ReLU;
- gradients: of every parameter after one training step, {hard} CE + {soft} T^2 KL at T = {t:g} with random teacher logits
  (distilled models: CE on the class head, KL on the distillation head). A gradient that is zero but for rounding
  (convolution biases before a batch norm: in float64 below 1e-9 of the model's largest) is measured by the largest gradient
  of the model;
- statistics: running means and variances after that step.

Three numbers a cell: libkd to PyTorch in float32 / libkd to PyTorch in float64 / PyTorch in float32 to PyTorch in float64.
"Back" is the file that libkd writes of the weights it read, loaded into a new PyTorch model with `strict=True`: every
tensor equal to the bit, or not. The bound for all of the first numbers is {limit:.0e}; `make parity` fails beyond it.

## What the numbers are taken at

Weights are normal with variance 2 / fan-in, gains of norms 0.5 to 1.5 (of the last norm in a bottleneck, which training
begins at 0, 0 to 0.5), biases -0.5 to 0.5; running statistics are those of random data, means moved by a tenth of the
deviation, variances by up to 1.4. Batches and images are large enough that each batch norm sees 64 values a channel or
more: of a few the variance, and with it everything behind, hangs on the rounding of single values, for PyTorch as for
libkd.

Gradients jump where the input of a ReLU crosses 0, and where another value becomes the largest in a window of max-pooling.
With random weights a deep network has inputs within rounding of such a jump. One was looked at, ResNet-110 on four images
of 16: libkd's gradients were within 5e-5 of float64 from the head down to `layer3.13`, and 2e-2 away from `layer3.12` on,
where the sum before the ReLU of one pixel is -4.2e-5 in float64 and 3e-6 in libkd, both within the rounding of that sum;
the second and last such sign in the network, in `layer3.2`, made it 1e-1. There PyTorch in float32 had no such sign; in
other networks it had, and libkd not. At such a place there is no right answer to compare with. So, in float64 and by
PyTorch alone, the bias in front of each ReLU is moved, channel by channel and by at most a quarter of the standard
deviation of what comes in, until 0 is in the middle of the widest gap between the values there; and images are taken, of up
to {tries} seeds, that keep the largest two of every max-pooling window apart. "Margin" is how near any input of a ReLU is
then to 0 / any two largest to each other, in standard deviations.

The second number stays within twice the third but for VGG-13 and 16 forward, 2.2: libkd adds the products of a sum in one
order, which is the same on every instruction set, and at up to 4608 products a sum oneDNN's order rounds less. Winograd's
transforms are not the reason: with direct convolutions libkd is further away there (VGG-13 1.8e-06, its taps 5.2e-06).

"""

FULL_HEAD = """
## Full size

Networks with 1000 classes as timm begins them, 2 images of 224: `model.state_dict()` saved as safetensors, loaded by
`kd_model_load` with no flags, saved by `kd_model_save`, and opened by `timm.create_model(name, checkpoint_path=...)`, which
is strict. Forward as above. "Back" is exact if every tensor is equal to the bit, and if the same weights as float16 and as
bfloat16 load as what `.float()` makes of them. Batch norm's counters (`num_batches_tracked`) are passed over by libkd,
which has no use for them, and are not written; PyTorch takes a file without them, and a new model's counters stay 0.
Forward libkd is up to four times as far from float64 as PyTorch, at some 2^-21: up to the classifier they are as near
(ResNet-18), there libkd adds a logit's 368 to 768 products in one chain of roundings, PyTorch in several shorter ones.

| model | parameters | tensors + counters | forward | back |
|---|--:|--|--|--|
"""

POSITIONS_HEAD = """
## Position embeddings of another grid

Random positions of one grid, loaded with `KD_LOAD_RESIZE_POSITIONS` into a model of another, beside timm's
`resample_abs_pos_embed` (float32; libkd computes them in double).

| special tokens | grid in the file | grid of the model | difference |
|--:|--:|--:|--:|
"""

CELLS = "forward", "taps", "gradients", "statistics"


def figures(values):
    return " / ".join(f"{v:.1e}" for v in values)


def apart(row):
    return " / ".join("-" if math.isinf(row[k]) else f"{row[k]:.0e}" for k in ("margin", "pool"))


def write(path, rows, full, resized, tries):
    with open(path, "w") as f:
        f.write(HEAD.format(date=datetime.date.today(), cpu=cpu(), libkd=libkd.__version__, isa=libkd.Context().isa,
                            torch=torch.__version__, timm=timm.__version__, limit=LIMIT, classes=CLASSES, hard=HARD, soft=SOFT,
                            t=T, tries=tries))
        f.write("| model | parameters | image, batch | forward | taps | gradients | statistics | margin | back |\n"
                "|---|--:|--|--|--|--|--|--:|--|\n")
        for row in rows:
            f.write(f"| {row['model']} | {row['parameters']:,} | {row['side']}, {row['batch']} | "
                    + " | ".join(figures(v for v, _ in row[part]) if row[part][1][1] else "-" for part in CELLS)
                    + f" | {apart(row)} | {'exact' if row['exact'] else 'differs'} |\n")
        f.write(FULL_HEAD)
        for row in full:
            f.write(f"| {row['model']} | {row['parameters']:,} | {row['tensors']} + {row['counters']} | "
                    f"{figures(row['forward'])} | {'exact' if row['exact'] else 'differs'} |\n")
        f.write(POSITIONS_HEAD)
        for (special, old, new), far in resized:
            f.write(f"| {special} | {old} x {old} | {new} x {new} | {far:.1e} |\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["*"], help="names or globs")
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="write the tables as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = lambda names: [n for n in names if any(fnmatch.fnmatch(n, p) for p in args.models)]
    rows, full, resized = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen(libkd.zoo.names() + TRANSFORMERS):
            rows.append(row := compare(name, folder, args.tries))
            for file in os.listdir(folder):
                os.unlink(os.path.join(folder, file))
            print(f"{name:32} {row['parameters']:9} " + "  ".join(f"{part} {figures(v for v, _ in row[part])}" for part in CELLS)
                  + f"  margin {apart(row)}  " + ("exact" if row["exact"] else "NOT EXACT"), flush=True)
            for part in CELLS:
                if row[part][0][0] > LIMIT:
                    print(f"    {part}: {row[part][0][1]}; libkd to float64 {row[part][1]}, PyTorch {row[part][2]}", flush=True)
        for name in chosen(FULL):
            full.append(row := full_size(name, folder))
            print(f"{name:32} full size, forward {figures(row['forward'])}  " + ("exact" if row["exact"] else "NOT EXACT"),
                  flush=True)
        for case in POSITIONS if chosen(["positions"]) else ():
            resized.append((case, positions(*case, folder)))
            print(f"positions {case}: {resized[-1][1]:.1e}", flush=True)
    if args.out:
        write(args.out, rows, full, resized, args.tries)
    far = [row[part][0][0] for row in rows for part in CELLS] + [row["forward"][0] for row in full] + [d for _, d in resized]
    return not all(row["exact"] for row in rows + full) or max(far, default=0.0) > LIMIT


if __name__ == "__main__":
    sys.exit(main())
