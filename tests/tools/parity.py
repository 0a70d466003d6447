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
import os
import sys
import tempfile

import numpy
import torch
import torch.nn.functional as F
from zoo_torch import NETS, Margin, Module
import timm
from safetensors.torch import load_file, save_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "python"))
import libkd  # noqa: E402

CLASSES, T, HARD, SOFT = 10, 4.0, 0.1, 0.9
LIMIT, MARGIN = 1e-4, 2e-5
TRANSFORMERS = [f"{model}_patch16_224" for size in ("tiny", "small", "base")
                for model in (f"vit_{size}", f"deit_{size}", f"deit_{size}_distilled")]
TRANSFORMERS += ["vit_tiny_patch4_32", "deit_tiny_distilled_patch4_32", "deit_small_distilled_patch8_48"]


def by_timm(name):
    return name not in NETS or name.startswith("regnety") or name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def image_of(name):
    """Side and batch."""
    if name in TRANSFORMERS:
        side = int(name.split("_")[-1])
        return side, 1 if "base" in name else 2 if side == 224 else 4
    return (64, 2) if by_timm(name) else (16, 4)


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
    """Random weights; running statistics near those of the data, as a trained network has them, and at random around them."""
    for name, p in model.named_parameters():
        if p.dim() > 1 and "token" not in name and "embed" not in name[:9]:
            p.data.normal_(0, (2 / p[0].numel()) ** 0.5)
        elif p.dim() > 1:
            p.data.normal_(0, 0.5 if "proj" not in name else p[0].numel() ** -0.5)
        elif name.endswith("weight"):
            p.data.uniform_(0.5, 1.5)
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
    """The largest relative difference of tensors, and whose.  What is zero but for rounding (exact: in float64 less than 1e-9 of the
    largest of all) is measured by the largest of all."""
    assert set(a) == set(b), set(a) ^ set(b)
    largest = max([float(v.abs().max()) for v in exact.values()], default=0.0)
    zero = {k for k, v in exact.items() if float(v.abs().max()) < 1e-9 * largest}
    return max([(difference(a[k], b[k], largest if k in zero else 0.0), k) for k in b], default=(0.0, ""))


def find_images(model, name, side, batch, tries):
    """Images for which no input of a ReLU is so near 0 that rounding in float32 could decide its sign: there gradients jump."""
    double, best = copy.deepcopy(model).double().train(), (-1.0, None)
    for seed in range(tries):
        torch.manual_seed(1000 + seed)
        x = torch.randn(batch, 3, side, side)
        with torch.no_grad(), Margin() as kinks:
            double(x.double())
        if kinks.margin > best[0]:
            best = (kinks.margin, x)
        if kinks.margin > MARGIN:
            break
    return best


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
    margin, x = find_images(model, name, side, batch, tries if name in NETS else 1)
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
    row = {"model": name, "parameters": mine.size, "side": side, "batch": batch, "margin": margin, "exact": same}
    for part in ("forward", "taps", "gradients", "statistics"):
        row[part] = [furthest(a[part], b[part], double[part]) for a, b in ((here, single), (here, double), (single, double))]
    return row


def cpu():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform
        return platform.processor() or platform.machine()


HEAD = """# Parity with PyTorch

Made by `make parity`; {date}; {cpu}, libkd {libkd} ({isa}), PyTorch {torch}, timm {timm}.

Random weights and batch-norm statistics, saved by PyTorch as safetensors, loaded by name with `kd_model_load`; the same images, float32.
PyTorch's side is timm's model where timm has it (ResNet-18 and deeper, RegNetY, ViT, DeiT), else the text in
`tests/tools/zoo_torch.py`; {classes} classes. The difference of two tensors a and b is max |a - b| / max |b|; a cell is the worst of
all tensors of its kind:

- forward: logits in inference and in training (both heads of a distilled model), and the loss;
- taps: the output of every stage (of every block in transformers), and of residual stages the sum before the last ReLU;
- gradients: of every parameter after one training step, {hard} CE + {soft} T^2 KL at T = {t:g} with random teacher logits (distilled
  models: CE on the class head, KL on the distillation head). A gradient that is zero but for rounding (convolution biases before a
  batch norm: in float64 below 1e-9 of the model's largest) is measured by the largest gradient of the model;
- statistics: running means and variances after that step.

Three numbers a cell: libkd to PyTorch in float32 / libkd to PyTorch in float64 / PyTorch in float32 to PyTorch in float64. "Back" is
the file that libkd writes of the weights it read, loaded into a new PyTorch model with `strict=True`: every tensor equal to the bit,
or not.

Gradients jump where an input of a ReLU is so near 0 that rounding decides its sign. Images are therefore sought, of up to {tries}
seeds, whose nearest such input in float64 is far from 0; "margin" is how far, in standard deviations of that ReLU's inputs.

"""


CELLS = "forward", "taps", "gradients", "statistics"


def write(path, rows, tries):
    with open(path, "w") as f:
        f.write(HEAD.format(date=datetime.date.today(), cpu=cpu(), libkd=libkd.__version__, isa=libkd.Context().isa,
                            torch=torch.__version__, timm=timm.__version__, classes=CLASSES, hard=HARD, soft=SOFT, t=T, tries=tries))
        f.write("| model | parameters | image, batch | forward | taps | gradients | statistics | margin | back |\n"
                "|---|--:|--|--|--|--|--|--:|--|\n")
        for row in rows:
            f.write(f"| {row['model']} | {row['parameters']:,} | {row['side']}, {row['batch']} | "
                    + " | ".join(" / ".join(f"{v:.1e}" for v, _ in row[part]) if row[part][1][1] else "-" for part in CELLS)
                    + f" | {row['margin']:.0e} | {'exact' if row['exact'] else 'differs'} |\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["*"], help="names or globs")
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="write the table as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = [n for n in libkd.zoo.names() + TRANSFORMERS if any(fnmatch.fnmatch(n, p) for p in args.models)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows.append(row := compare(name, folder, args.tries))
            for file in os.listdir(folder):
                os.unlink(os.path.join(folder, file))
            far = [f"{part} {row[part][0][0]:.1e} / {row[part][1][0]:.1e} / {row[part][2][0]:.1e}" for part in CELLS]
            print(f"{name:32} {row['parameters']:9} " + "  ".join(far) + f"  margin {row['margin']:.0e}  "
                  + ("exact" if row["exact"] else "NOT EXACT"), flush=True)
            if args.out:
                write(args.out, rows, args.tries)
            for part in CELLS:
                if row[part][0][0] > LIMIT:
                    print(f"    {part}: {row[part][0][1]}; libkd to float64 {row[part][1]}, PyTorch to float64 {row[part][2]}", flush=True)
    return any(not row["exact"] or row["forward"][0][0] > LIMIT or row["taps"][0][0] > LIMIT for row in rows)


if __name__ == "__main__":
    sys.exit(main())
