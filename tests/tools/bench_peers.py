#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same work in PyTorch beside libkd, in turns, with the ratio: `make bench-peers PEERS_PYTHON=python3`.

First both sides' loss and gradients must agree on the same inputs and weights; only then is anything timed.  One line a case:

    peer NAME THREADS ours theirs unit ratio

`ratio` is theirs / ours: above 1 libkd is faster.  Medians of several turns.  Needs torch; the program to talk to is argv[1].
"""
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("bench_peers: this Python has no torch; set PEERS_PYTHON to one that has")

ROUNDS, SECONDS = 5, 0.3
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32}


def load(path):
    """A safetensors file as a dict of tensors."""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), bytearray(f.read())
    header.pop("__metadata__", None)
    return {k: torch.frombuffer(data, dtype=DTYPES[v["dtype"]], offset=v["data_offsets"][0],
                                count=max(1, torch.Size(v["shape"]).numel())).reshape(v["shape"]).clone()
            for k, v in header.items()}


class Ours:
    def __init__(self, program):
        self.p = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        answer = self.p.stdout.readline().strip()
        if not answer:
            sys.exit("bench_peers: the program stopped at: " + line)
        return answer


def kd_loss(s, t, y, temperature, hard, soft):
    loss = hard * F.cross_entropy(s, y) if hard else 0
    if soft:
        kl = F.kl_div(F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1), reduction="batchmean", log_target=True)
        loss = loss + soft * temperature ** 2 * kl
    return loss


class Net:
    """MLP or CNN over libkd's weights; images NHWC in, channels last inside."""

    def __init__(self, weights, train):
        self.w = {k: v.requires_grad_(train) for k, v in weights.items()}
        self.cnn = "conv1.weight" in weights
        if self.cnn:
            for k in ("conv1.weight", "conv2.weight"):
                self.w[k] = self.w[k].detach().contiguous(memory_format=torch.channels_last).requires_grad_(train)

    def __call__(self, x):
        w = self.w
        if self.cnn:
            h = x.permute(0, 3, 1, 2)
            for k in ("conv1", "conv2"):
                h = F.max_pool2d(F.relu(F.conv2d(h, w[k + ".weight"], w[k + ".bias"], padding=1)), 2)
            h = h.permute(0, 2, 3, 1).flatten(1)
        else:
            h = x.flatten(1)
        layers = sorted(k[:-7] for k in w if k.startswith("fc") and k.endswith(".weight"))
        for k in layers:
            h = F.linear(h, w[k + ".weight"], w[k + ".bias"])
            if k != layers[-1]:
                h = F.relu(h)
        return h


class Case:
    def __init__(self, name, path):
        self.d = load(path)
        self.y = self.d["y"].long()
        self.student = None
        if "x" in self.d:
            self.student = Net(load(path + ".student"), True)
            self.teacher = Net(load(path + ".teacher"), False) if os.path.exists(path + ".teacher") else None
            self.grads = load(path + ".grads")
            self.opt = torch.optim.Adam(self.student.w.values(), lr=1e-4)
        self.temperature = 2.0 if self.student else 4.0

    def loss(self):
        if self.student is None:
            self.s = self.d["s"].requires_grad_(True)
            return kd_loss(self.s, self.d["t"], self.y, self.temperature, 0.1, 0.9)
        if self.teacher is None:
            return kd_loss(self.student(self.d["x"]), None, self.y, 1.0, 1.0, 0.0)
        with torch.no_grad():
            t = self.teacher(self.d["x"])
        return kd_loss(self.student(self.d["x"]), t, self.y, self.temperature, 0.1, 0.9)

    def step(self):
        loss = self.loss()
        if self.student is None:
            self.s.grad = None
            loss.backward()
        else:
            self.opt.zero_grad(set_to_none=True)
            loss.backward()
            self.opt.step()
        return loss

    def check(self, name):
        loss = self.loss()
        loss.backward()
        want = {"grad": self.s.grad} if self.student is None else {k: v.grad for k, v in self.student.w.items()}
        have = {"grad": self.d["grad"]} if self.student is None else self.grads
        if abs(loss.item() - self.d["loss"].item()) > 1e-5 * max(1.0, abs(loss.item())):
            sys.exit(f"bench_peers: {name}: loss {self.d['loss'].item()} and PyTorch's {loss.item()} differ")
        for k, g in want.items():
            scale = g.abs().max().item() + 1e-12
            if (g - have[k]).abs().max().item() > 2e-4 * scale:
                sys.exit(f"bench_peers: {name}: the gradients of {k} differ")

    def time(self):
        for _ in range(3):
            self.step()
        start = time.perf_counter()
        self.step()
        inner = max(1, int(2e-4 / (time.perf_counter() - start + 1e-9)))
        times, start = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < SECONDS:
            t0 = time.perf_counter()
            for _ in range(inner):
                self.step()
            times.append((time.perf_counter() - t0) / inner)
        return statistics.median(times)


def cpu():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return "unknown CPU"


def main():
    ours = Ours(sys.argv[1])
    names = sys.argv[2:] or ours.ask("list").split()
    print(f"# {cpu()}; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}; ratio = theirs / ours")
    with tempfile.TemporaryDirectory() as tmp:
        for name in names:
            path = os.path.join(tmp, name)
            ours.ask(f"dump {name} {path}")
            case = Case(name, path)
            case.check(name)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                a, b = [], []
                for _ in range(ROUNDS):
                    a.append(float(ours.ask(f"run {name} {threads} {SECONDS}")))
                    b.append(case.time())
                mine, theirs = 1e6 * statistics.median(a), 1e6 * statistics.median(b)
                print(f"peer {name} {threads} {mine:.2f} {theirs:.2f} us {theirs / mine:.2f}", flush=True)


main()
