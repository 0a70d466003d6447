#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same work in other libraries beside libkd, in turns, with the ratio: `make bench-peers PEERS_PYTHON=python3`.

First both sides' results (loss and gradients, product, convolution, logits) must agree on the same inputs and weights; only
then is anything timed.  One line a case and peer, also as FOLDER/peers.csv (appended, with peer, CPU and date):

    peer NAME THREADS ours theirs unit ratio

`ratio` is libkd's speed over the peer's, or the peer's memory over libkd's: above 1 libkd is better.  Medians of several turns.
A case's first peer has its name alone, others add _PEER: PyTorch, but OpenBLAS (in NumPy's wheel) for sgemm_*.
NAME_memory is the peak of a training process.  Needs torch; without numpy and threadpoolctl, onnx and onnxruntime, or a C++ compiler
their rows are left out.
"""
import argparse
import csv
import datetime
import fnmatch
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

CAP = os.environ.get("KD_ISA")

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("bench_peers: this Python has no torch; set PEERS_PYTHON to one that has")

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
        if not answer or answer == "?":
            sys.exit("bench_peers: the program stopped at: " + line)
        return answer


def agree(name, what, have, want, tolerance=2e-4):
    scale = want.abs().max().item() + 1e-12
    error = (have - want).abs().max().item()
    if not error <= tolerance * scale:
        sys.exit(f"bench_peers: {name}: {what}: libkd and the peer differ by {error:.3g} of {scale:.3g}")


# ---- networks: over libkd's weights under libkd's names, images NHWC in, channels last inside ----------------------------------
class Net:
    def __init__(self, weights, train):
        self.train = train
        self.w = w = {}
        for k, v in weights.items():
            if v.dim() == 4:
                v = v.contiguous(memory_format=torch.channels_last)
            w[k] = v.requires_grad_(train and "running_" not in k)
        self.run = self.resnet if "layer1.0.conv1.weight" in w else self.cnn if "conv1.weight" in w else self.mlp
        if "lstm.weight_ih_l0" in w:
            self.run, self.rnn = self.lstm, self.recurrent()
        if "cls_token" in w:
            self.run = self.vit
        self.groups = [[f"layer{g}.{i}." for i in range(1000) if f"layer{g}.{i}.conv1.weight" in w] for g in (1, 2, 3)]
        self.trained = [v for v in w.values() if v.requires_grad]
        self.linears = sorted(k[:-7] for k in w if k.startswith("fc") and k.endswith(".weight"))

    def __call__(self, x):
        return self.run(x)

    def mlp(self, x):
        return self.head(x.flatten(1))

    def cnn(self, x):
        w, h = self.w, x.permute(0, 3, 1, 2)
        for k in ("conv1", "conv2"):
            h = F.max_pool2d(F.relu(F.conv2d(h, w[k + ".weight"], w[k + ".bias"], padding=1)), 2)
        return self.head(h.permute(0, 2, 3, 1).flatten(1))

    def recurrent(self):
        """torch.nn.LSTM on the weights that are called lstm.weight_ih_l0 and so on."""
        names = [k for k in self.w if k.startswith("lstm.")]
        hidden, features = self.w["lstm.weight_hh_l0"].shape[1], self.w["lstm.weight_ih_l0"].shape[1]
        rnn = torch.nn.LSTM(features, hidden, len(names) // 4, batch_first=True).to(self.w[names[0]].dtype)
        with torch.no_grad():
            for k in names:
                rnn.get_parameter(k[5:]).copy_(self.w[k])
        self.w.update((k, rnn.get_parameter(k[5:]).requires_grad_(self.train)) for k in names)
        return rnn

    def lstm(self, x):
        return self.head(self.rnn(x)[0][:, -1])

    def vit(self, x):
        """As timm's VisionTransformer.  Heads are 64 wide."""
        w, n = self.w, len(x)

        def linear(x, k):
            return F.linear(x, w[k + ".weight"], w[k + ".bias"])

        def norm(x, k):
            return F.layer_norm(x, x.shape[-1:], w[k + ".weight"], w[k + ".bias"], 1e-6)
        patch = w["patch_embed.proj.weight"]
        h = F.conv2d(x.permute(0, 3, 1, 2), patch, w["patch_embed.proj.bias"], stride=patch.shape[-1])
        tokens = [w[k].expand(n, -1, -1) for k in ("cls_token", "dist_token") if k in w]
        h = torch.cat((*tokens, h.flatten(2).transpose(1, 2)), 1) + w["pos_embed"]
        width = h.shape[2]
        for i in range(sum(k.endswith("norm1.weight") for k in w)):
            p = f"blocks.{i}."
            q, k, v = linear(norm(h, p + "norm1"), p + "attn.qkv").reshape(n, -1, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, width)
            h = h + linear(a, p + "attn.proj")
            h = h + linear(F.gelu(linear(norm(h, p + "norm2"), p + "mlp.fc1")), p + "mlp.fc2")
        h = norm(h, "norm")
        y = linear(h[:, 0], "head")
        if len(tokens) == 1:
            return y
        z = linear(h[:, 1], "head_dist")
        return (y, z) if self.train else (y + z) / 2

    def head(self, h):
        for k in self.linears:
            h = F.linear(h, self.w[k + ".weight"], self.w[k + ".bias"])
            if k != self.linears[-1]:
                h = F.relu(h)
        return h

    def norm(self, x, k):
        w = self.w
        return F.batch_norm(x, w[k + ".running_mean"], w[k + ".running_var"], w[k + ".weight"], w[k + ".bias"],
                            training=self.train, momentum=0.1, eps=1e-5)

    def resnet(self, x):
        w, h = self.w, x.permute(0, 3, 1, 2)
        h = F.relu(self.norm(F.conv2d(h, w["conv1.weight"], padding=1), "bn1"), inplace=True)
        for g, blocks in enumerate(self.groups):
            for i, p in enumerate(blocks):
                stride = 2 if g and not i else 1
                r = F.conv2d(h, w[p + "conv1.weight"], stride=stride, padding=1)
                r = F.relu(self.norm(r, p + "bn1"), inplace=True)
                r = self.norm(F.conv2d(r, w[p + "conv2.weight"], padding=1), p + "bn2")
                if p + "downsample.0.weight" in w:
                    h = self.norm(F.conv2d(h, w[p + "downsample.0.weight"], stride=stride), p + "downsample.1")
                r += h
                h = F.relu(r, inplace=True)
        return self.head(h.mean((2, 3)))


def onnx_model(net, x):
    """The residual network as an exporter writes it: batch norm its own node, for the runtime to fold."""
    import onnx
    from onnx import helper, numpy_helper
    w, nodes = net.w, []

    def node(kind, out, *inputs, **attributes):
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def conv_norm(h, conv, norm, stride):
        k = w[conv + ".weight"].shape[2]
        h = node("Conv", conv + ".out", h, conv + ".weight", kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4)
        return node("BatchNormalization", norm + ".out", h, *(norm + end for end in (".weight", ".bias", ".running_mean",
                                                                                   ".running_var")), epsilon=1e-5)

    h = node("Relu", "stem", conv_norm("x", "conv1", "bn1", 1))
    for g, blocks in enumerate(net.groups):
        for i, p in enumerate(blocks):
            stride = 2 if g and not i else 1
            r = node("Relu", p + "relu", conv_norm(h, p + "conv1", p + "bn1", stride))
            r = conv_norm(r, p + "conv2", p + "bn2", 1)
            if p + "downsample.0.weight" in w:
                h = conv_norm(h, p + "downsample.0", p + "downsample.1", stride)
            h = node("Relu", p + "out", node("Add", p + "sum", r, h))
    h = node("Flatten", "features", node("GlobalAveragePool", "pool", h))
    node("Gemm", "y", h, "fc.weight", "fc.bias", transB=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "resnet", [value("x", onnx.TensorProto.FLOAT, list(x.shape))],
                              [value("y", onnx.TensorProto.FLOAT, [x.shape[0], w["fc.bias"].numel()])],
                              [numpy_helper.from_array(v.detach().contiguous().numpy(), k) for k, v in w.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


# ---- cases: made from a dump, checked, then sides() gives (peer, callable) for a number of threads -----------------------------------
def kd_loss(s, t, y, temperature, hard, soft):
    loss = hard * F.cross_entropy(s, y) if hard else 0
    if soft:
        kl = F.kl_div(F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1), reduction="batchmean", log_target=True)
        loss = loss + soft * temperature ** 2 * kl
    return loss


class Case:
    unit, memory, budget = "GFLOP/s", False, 1.0   # budget: of the seconds of a turn

    def __init__(self, name, about, path, options):
        self.name, self.path, self.options = name, path, options
        self.kind, self.work, self.classes = about[0], float(about[1]), int(about[2])
        self.n, self.temperature, self.adam = [int(v) for v in about[3:-2]], float(about[-2]), about[-1] == "adam"
        self.d = load(path)
        self.open()

    def figure(self, seconds):
        return self.work / seconds / 1e9

    def agree(self, what, have, want):
        agree(self.name, what, have, want)


class Loss(Case):
    unit = "Glogit/s"

    def open(self):
        self.s, self.t, self.y = self.d["a"].requires_grad_(True), self.d["b"], self.d["y"].long()
        self.run(kd_loss)
        self.check()

    def run(self, function):
        self.s.grad = None
        self.value = function(self.s, self.t, self.y, 4.0, 0.1, 0.9)
        self.value.backward()

    def check(self):
        agree(self.name, "loss", self.d["loss"], self.value.detach().double(), 1e-5)
        self.agree("gradient", self.d["c"], self.s.grad)

    def sides(self, threads):
        yield "torch", lambda: self.run(kd_loss)
        if self.options.compiler:
            torch._dynamo.reset()
            compiled = torch.compile(kd_loss, dynamic=False)
            try:
                self.run(compiled)
            except Exception as error:   # no compiler, or one that inductor cannot use
                self.options.compiler = False
                print(f"# torch.compile fails ({str(error).splitlines()[0][:80]}): its rows are left out", flush=True)
                return
            self.check()
            yield "compiled", lambda: self.run(compiled)


class Method(Loss):
    """A method on outputs: its text in methods_torch_outputs.py, in single precision, as a user would write it."""
    budget = 0.3   # there are many

    def open(self):
        import methods_torch_outputs as text
        torch.set_default_dtype(torch.float32)   # the text's is double
        text.kl = lambda lp, lq: F.kl_div(lq, lp, reduction="none", log_target=True).sum(1)
        self.text, self.method = text, self.name[len("method_"):].rpartition("_")[0]
        temperature, self.hard, self.soft, alpha, beta, gamma, _ = text.DEFAULTS[self.method]
        if self.method == "mlkd":
            self.hard = 0
        self.how = {"T": temperature or 1, "alpha": alpha, "beta": beta, "gamma": gamma, "form": 0,
                    "teachers": "mean_probs", "teacher_count": 3}
        names = {"a": "s", "second": "w", "b": "t", "teacher_second": "v", "more0": "t1", "more1": "t2"}
        self.i = {names[k]: v for k, v in self.d.items() if k in names}
        self.i["y"] = self.d["y"].long()
        if "classes" in self.d:
            self.i["classes"] = self.d["classes"].long()
        if self.method == "ctkd":
            self.i["theta"] = torch.ones(1)
        self.wanted = [self.i[k].requires_grad_(True) for k in ("s", "w", "theta") if k in self.i]
        self.run(self.loss)
        agree(self.name, "loss", self.d["loss"], self.value.detach().double(), 1e-4)
        for k, v in ("c", "s"), ("grad_second", "w"):
            if v in self.i:
                # tvd, uld: the sign of a difference that is nothing but rounding may be either
                agree(self.name, "gradient of " + v, self.d[k], self.i[v].grad, 1e-2 if self.method in ("tvd", "uld") else 2e-4)

    def loss(self):
        hard = self.hard * F.cross_entropy(self.i["s"], self.i["y"]) if self.hard else 0
        return hard + self.soft * self.text.soft(self.method, self.i, self.how)

    def run(self, function):
        for v in self.wanted:
            v.grad = None
        self.value = function()
        self.value.backward()

    def sides(self, threads):
        yield "torch", lambda: self.run(self.loss)


class Feature(Case):
    """A method between features: its text in methods_torch_features.py, in single precision, distances by products as users write them."""
    unit = "Gvalue/s"
    GIVEN = {"crd": dict(samples=1024), "minilm2": dict(width=8), "mgd": dict(gamma=0.0)}

    def open(self):
        import methods_torch_features as text
        torch.set_default_dtype(torch.float32)

        def squares(f):
            f = f.flatten(1)
            s = (f * f).sum(1)
            return (s[:, None] + s[None] - 2 * f @ f.T).clamp(min=0) * (1 - torch.eye(len(f)))

        def edges(f):
            d = squares(f)
            return d / d.max()

        def distances(f):
            d = squares(f).clamp(min=1e-12).sqrt() * (1 - torch.eye(len(f)))
            return d / d[d > 0].mean()
        text.irg_edges, text.rkd_distances = edges, distances
        self.method = self.name[len("method_"):].rpartition("_")[0]
        d = self.d
        count = lambda side: sum(f"{side}{i}" in d for i in range(3))
        self.s, self.t = ([d[f"{side}{i}"] for i in range(count(side))] for side in "st")
        given = dict(self.GIVEN.get(self.method, {}))
        if self.method == "semckd":
            given["samples"] = self.n[0]
        self.o = text.options(self.method, **given)
        layout = text.parameters(self.method, [tuple(v.shape[1:]) for v in self.s], [tuple(v.shape[1:]) for v in self.t], self.o)
        parameters, at = {}, 0
        for name, shape in layout:
            parameters[name] = d["adapters"][at:at + text.size(shape)].reshape(shape).clone().requires_grad_(True)
            at += text.size(shape)
        if at != (d["adapters"].numel() if "adapters" in d else 0):
            sys.exit(f"bench_peers: {self.name}: {at} parameters")
        self.parameters = list(parameters.values())
        self.a, self.function, self.weight = text.Adapters(parameters), text.METHODS[self.method][0], text.WEIGHTS[self.method]
        self.x = {k: v for k, v in d.items() if k in ("logits_s", "logits_t")}
        for k in "memory_s", "memory_t":
            if k in d:
                self.x[k] = d[k].reshape(-1, self.o["width"])
        if "head" in d:
            names = ("bn_weight0", "bn_bias0") if self.method == "ofd" else ("teacher_weight", "teacher_bias")
            self.x.update(zip(names, (d["head"], d["head_bias"])))
        if "y" in d:
            self.x["indices"] = d["y"].long()
        if "second" in d:
            self.x["mask"] = d["second"]
        self.wanted = [v.requires_grad_(True) for v in self.s] + [self.x[k].requires_grad_(True) for k in ("logits_s",) if k in self.x]
        self.run()
        agree(self.name, "loss", d["loss"], self.value.detach().double(), 1e-4)
        for i, v in enumerate(self.s):
            self.agree(f"gradient of tap {i}", d[f"ds{i}"], v.grad)
        if "dlogits" in d:
            self.agree("gradient of logits", d["dlogits"], self.x["logits_s"].grad)
        if layout:
            zero = lambda v: torch.zeros_like(v) if v.grad is None else v.grad
            self.agree("gradient of adapters", d["dadapters"], torch.cat([zero(v).flatten() for v in self.parameters]))

    def agree(self, what, have, want):
        # FT's |difference| has a sign, SimKD ends with a ReLU: a rounding may turn either where it is nearly 0
        agree(self.name, what, have, want, 0.1 if self.method in ("ft", "simkd") else 1e-3)

    def run(self):
        for v in self.wanted + self.parameters:
            v.grad = None
        self.value = self.weight * self.function(self.s, self.t, self.a, self.o, self.x)
        self.value.backward()

    def sides(self, threads):
        yield "torch", self.run


class Gemm(Case):
    def open(self):
        self.a, self.b, self.out = self.d["a"], self.d["b"], torch.zeros_like(self.d["c"])
        torch.mm(self.a, self.b, out=self.out)
        self.agree("product", self.d["c"], self.out)

    def sides(self, threads):
        if self.options.openblas:
            import numpy
            a, b, out = self.a.numpy(), self.b.numpy(), self.out.numpy()
            limit = self.options.openblas.limit(limits=threads)
            yield "openblas", lambda: numpy.dot(a, b, out=out)
            del limit
        yield "torch", lambda: torch.mm(self.a, self.b, out=self.out)


class Conv(Case):
    def open(self):
        last = torch.channels_last
        self.x, self.dy = (self.d[k].permute(0, 3, 1, 2) for k in "ac")
        self.w = self.d["b"].permute(3, 2, 0, 1).contiguous(memory_format=last)
        self.stride = [self.n[4]] * 2
        forward, data, weight = self.kind == "conv_forward", self.kind != "conv_weight", self.kind != "conv_data"
        if forward:
            self.run = lambda: F.conv2d(self.x, self.w, None, self.stride, 1)
            self.agree("result", self.d["d"].permute(0, 3, 1, 2), self.run())
            return
        self.run = lambda: torch.ops.aten.convolution_backward(self.dy, self.x, self.w, None, self.stride, [1, 1], [1, 1], False,
                                                               [0, 0], 1, [data, weight, False])
        dx, dw, _ = self.run()
        if data:
            self.agree("gradient of x", self.d["d"].permute(0, 3, 1, 2), dx)
        if weight:
            self.agree("gradient of the weights", self.d["dw"].permute(3, 2, 0, 1), dw)

    def sides(self, threads):
        yield "torch", self.run


class Step(Case):
    unit, memory = "ms", True

    def open(self):
        self.x, self.y = self.d["x"], self.d["y"].long()
        self.student = Net(load(self.path + ".student"), True)
        self.teacher = Net(load(self.path + ".teacher"), False) if self.temperature else None
        sgd = torch.optim.Adam if self.adam else torch.optim.SGD
        self.opt = sgd(self.student.trained, lr=1e-4, **({} if self.adam else {"momentum": 0.9, "weight_decay": 5e-4}))
        value = self.gradients(self.student, self.x)
        agree(self.name, "loss", self.d["loss"], value.detach().double(), 1e-5)
        if self.options.memory:
            return
        # Beside PyTorch in double precision.  In single, a sum near a ReLU's zero takes either sign: then a few elements of a deep
        # network's gradients differ by percents, libkd's or PyTorch's.  So each gradient is held by its norm, where a wrong one is
        # off by all of it, and all together by what is usual, or by twice the error of PyTorch in single.
        exact = Net({k: v.double() for k, v in load(self.path + ".student").items()}, True)
        single = {k: v.grad for k, v in self.student.w.items() if v.requires_grad}
        self.gradients(exact, self.x.double())
        have, ours, theirs, norm = load(self.path + ".grads"), 0.0, 0.0, 0.0
        for k, g in single.items():
            want = exact.w[k].grad
            size, error = want.norm().item(), (have[k] - want).norm().item()
            if not error <= 0.05 * size:
                sys.exit(f"bench_peers: {self.name}: gradient of {k}: libkd is off by {error:.3g} of {size:.3g}")
            ours += error ** 2
            theirs += (g - want).square().sum().item()
            norm += size ** 2
        if not theirs < 0.05 ** 2 * norm:
            sys.exit(f"bench_peers: {self.name}: PyTorch's own gradients are off by {(theirs / norm) ** 0.5:.3g} of their norm")
        if not ours <= max(2e-4 ** 2 * norm, 4 * theirs):
            sys.exit(f"bench_peers: {self.name}: gradients are off by {(ours / norm) ** 0.5:.3g} of their norm, "
                     f"PyTorch's by {(theirs / norm) ** 0.5:.3g}")

    def figure(self, seconds):
        return 1e3 * seconds

    def gradients(self, student, x):
        t = None
        if self.teacher:
            with torch.no_grad():
                t = self.teacher(self.x)
        self.opt.zero_grad(set_to_none=True)
        hard, soft, temperature = (0.1, 0.9, self.temperature) if self.teacher else (1.0, 0.0, 1.0)
        s = student(x)
        if isinstance(s, tuple):   # DeiT: the true class at one head, that of given logits at the other
            loss = 0.5 * F.cross_entropy(s[0], self.y) + 0.5 * F.cross_entropy(s[1], self.d["b"].argmax(1))
        else:
            loss = kd_loss(s, t, self.y, temperature, hard, soft)
        loss.backward()
        return loss

    def run(self, student):
        self.gradients(student, self.x)
        self.opt.step()

    def sides(self, threads):
        yield "torch", lambda: self.run(self.student)
        if self.options.compile and self.options.compiler:
            torch._dynamo.reset()
            student, eager = torch.compile(self.student.run, dynamic=False), self.teacher
            if eager:
                self.teacher = torch.compile(eager.run, dynamic=False)
            yield "compiled", lambda: self.run(student)
            self.teacher = eager


class Infer(Case):
    unit = "ms"
    figure = Step.figure

    def open(self):
        self.x = self.d["x"]
        self.net = Net(load(self.path + ".student"), False)
        self.check(self.run())

    def run(self):
        with torch.inference_mode():
            return self.net(self.x)

    def check(self, y):
        self.agree("logits", self.d["out"], y)

    def sides(self, threads):
        yield "torch", self.run
        if self.options.onnx and self.net.run == self.net.resnet:
            import onnxruntime
            how = onnxruntime.SessionOptions()
            how.intra_op_num_threads, how.inter_op_num_threads = threads, 1
            x = self.x.permute(0, 3, 1, 2).contiguous()
            session = onnxruntime.InferenceSession(onnx_model(self.net, x), how, providers=["CPUExecutionProvider"])
            inputs = {"x": x.numpy()}
            self.check(torch.from_numpy(session.run(None, inputs)[0]))
            yield "onnxruntime", lambda: session.run(None, inputs)


CASES = {"loss": Loss, "method": Method, "feature": Feature, "gemm": Gemm, "step": Step, "infer": Infer}


# ---- measuring -----------------------------------------------------------------------------------------------------------------
def median(call, budget, least):
    """As bench_median of bench_cases.c."""
    start = warm = time.perf_counter()
    while warm - start < budget / 4:
        call()
        now = time.perf_counter()
        once, warm = now - warm, now
    inner = max(1, int(2e-4 / once) + 1) if once < 2e-4 else 1
    times, start = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - start < budget and len(times) < 1000):
        t0 = time.perf_counter()
        for _ in range(inner):
            call()
        times.append((time.perf_counter() - t0) / inner)
    return statistics.median(times)


def settle():
    """Wait until the peer's idle threads stop spinning: they would take a core from libkd."""
    before = 1.0
    while before > 5e-4:
        before = time.process_time()
        time.sleep(0.005)
        before = time.process_time() - before


def peak_bytes():
    with open("/proc/self/status") as f:
        return 1024 * next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))


def cpu():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return "unknown CPU"


class Table:
    def __init__(self, folder, isa):
        self.path, self.machine = os.path.join(folder, "peers.csv"), f"{cpu()} ({isa})"
        self.date = datetime.date.today().isoformat()
        if not os.path.exists(self.path):
            self.append("name", "threads", "ours", "theirs", "unit", "ratio", "peer", "cpu", "date")

    def append(self, *row):
        with open(self.path, "a", newline="") as f:
            csv.writer(f).writerow(row)

    def row(self, name, threads, ours, theirs, unit, ratio, peer, others=0.0):
        noisy = others >= 0.15
        print(f"peer {name} {threads} {ours:.4g} {theirs:.4g} {unit} {ratio:.2f}" +
              (f" # not kept: other processes took {100 * others:.0f} % of a CPU" if noisy else ""), flush=True)
        if noisy:
            return
        self.append(name, threads, f"{ours:.6g}", f"{theirs:.6g}", unit, f"{ratio:.4g}", peer, self.machine, self.date)


class Others:
    """Processor time that neither side took: on a shared machine two threads are then worth one, or less."""

    def __init__(self, program):
        self.stat, self.tick = f"/proc/{program.pid}/stat", os.sysconf("SC_CLK_TCK")
        self.start()

    def seconds(self):
        with open("/proc/stat") as f:
            v = [int(n) for n in f.readline().split()[1:9]]
        with open(self.stat) as f:
            w = f.read().rpartition(")")[2].split()
        return (sum(v[:3]) + v[5] + v[6] + v[7] - int(w[11]) - int(w[12])) / self.tick - time.process_time()

    def start(self):
        self.clock, self.before = time.perf_counter(), self.seconds()

    def share(self):
        """Of one CPU, since start()."""
        return max(0.0, self.seconds() - self.before) / (time.perf_counter() - self.clock)

    def wait(self, limit):
        """Until they are idle, or that many seconds."""
        for _ in range(int(limit / 0.1)):
            self.start()
            time.sleep(0.1)
            if self.share() < 0.15:
                return


def measure(case, ours, table, threads, first, budget, rounds, least):
    torch.set_num_threads(threads)
    ours.ask(f"open {case.name} {threads}")
    others = Others(ours.p)
    for peer, call in case.sides(threads):
        for attempt in range(rounds - 1):
            a, b = [], []
            if attempt:
                others.wait(2.0)
            others.start()
            for _ in range(rounds):
                settle()
                a.append(float(ours.ask(f"run {budget * case.budget} {least}")))
                b.append(median(call, budget * case.budget, least))
            share = others.share()
            if share < 0.15:
                break
        a, b = statistics.median(a), statistics.median(b)
        name = case.name if peer == first else f"{case.name}_{peer}"
        table.row(name, threads, case.figure(a), case.figure(b), case.unit, b / a, peer, share)


def measure_memory(case, program, table):
    def output(*command):
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours = output(program, "memory", case.name)
    theirs = output(sys.executable, __file__, program, os.path.dirname(case.path), "--memory", case.name)
    table.row(case.name + "_memory", 1, ours / 2**20, theirs / 2**20, "MB", theirs / ours, "torch")


def absent(options):
    """What is not there is said, and its rows are left out."""
    def missing(rows, *modules):
        for m in modules:
            try:
                __import__(m)
            except ImportError:
                print(f"# no {m}: the rows of {rows} are left out", flush=True)
                return True
        return False
    options.openblas = options.onnx = options.compiler = None
    if not missing("OpenBLAS", "numpy", "threadpoolctl"):
        from threadpoolctl import ThreadpoolController
        import numpy
        numpy.dot(numpy.ones((2, 2), numpy.float32), numpy.ones((2, 2), numpy.float32))
        found = ThreadpoolController().select(internal_api="openblas")
        options.openblas = found if len(found) else None
        if not len(found):
            print("# numpy without OpenBLAS: its rows are left out", flush=True)
    if CAP:
        print("# onnxruntime cannot be kept from AVX-512: its rows are left out", flush=True)
    else:
        options.onnx = not missing("onnxruntime", "onnx", "onnxruntime")
    options.compiler = True
    if CAP == "avx2":
        import torch._inductor.config as inductor
        inductor.cpp.simdlen = 256


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("program")
    parse.add_argument("folder")
    parse.add_argument("cases", nargs="*")
    parse.add_argument("--quick", action="store_true")
    parse.add_argument("--compile", action="store_true")
    parse.add_argument("--threads", default="1,2")
    parse.add_argument("--memory", metavar="NAME")
    options = parse.parse_intermixed_args()
    ours = Ours(options.program)

    def make(name, folder):
        path = os.path.join(folder, name)
        about = ours.ask("case " + name).split()
        return CASES.get(about[0], Conv)(name, about, path, options)

    if options.memory:
        torch.set_num_threads(1)
        case = make(options.memory, options.folder)
        for _ in range(5):
            case.run(case.student)
        print(peak_bytes())
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.path.join(options.folder, "inductor")))
    isa = ours.ask("isa")
    table = Table(options.folder, isa)
    print(f"# {table.machine}; torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}; {table.date}; "
          "ratio above 1: libkd is faster, or smaller", flush=True)
    absent(options)
    names = ours.ask("list").split()
    if options.cases:
        names = [n for n in names if any(fnmatch.fnmatch(n, c) for c in options.cases)]
    threads = [int(n) for n in options.threads.split(",")]
    budget, rounds, least = (0.04, 3, 1) if options.quick else (0.3, 5, 3)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            torch.set_num_threads(max(threads))
            ours.ask(f"open {name} {max(threads)}")
            ours.ask(f"dump {os.path.join(folder, name)}")
            case = make(name, folder)
            first = "openblas" if case.kind == "gemm" and options.openblas else "torch"
            for count in threads:
                measure(case, ours, table, count, first, budget, rounds, least)
            if case.memory:
                measure_memory(case, options.program, table)
            for file in os.listdir(folder):
                os.remove(os.path.join(folder, file))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
