"""test_torch - libkd.torch against PyTorch's own text: losses, gradients, training, models back and forth.

SPDX-License-Identifier: MIT
"""
import copy
import os
import pickle
import tempfile
import unittest

from support import TestCase, libkd, needs_torch, torch

from libkd import io, zoo

if torch:
    import torch.nn.functional as F
    from torch import nn

    from libkd.torch import FeatureLoss, KDLoss, load_module, load_state_dict, state_dict, to_torch

    def theirs(s, z, y=None, t=4.0, hard=0.1, soft=0.9):
        value = soft * t * t * F.kl_div(F.log_softmax(s / t, -1), F.log_softmax(z / t, -1), reduction="batchmean", log_target=True)
        return value + hard * F.cross_entropy(s, y) if y is not None and hard else value


def logits(rows, classes, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=g) * 3


@needs_torch
class Kd(TestCase):
    def close(self, a, b, tolerance=1e-6):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    def compare(self, ours, theirs_, s):
        a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
        x, y = ours(a), theirs_(b)
        self.close(x, y)
        (x * 1.7).backward()
        (y * 1.7).backward()
        self.close(a.grad, b.grad)

    def test_value_and_gradient(self):
        for rows, classes in ((128, 10), (7, 1000), (1, 2)):
            s, t, y = logits(rows, classes, 1), logits(rows, classes, 2), torch.arange(rows) % classes
            for temperature in (1.0, 4.0, 0.5):
                self.compare(lambda a: KDLoss(temperature)(a, t, y), lambda b: theirs(b, t, y, temperature), s)
            self.compare(lambda a: KDLoss(hard_weight=0.0)(a, t), lambda b: theirs(b, t), s)
            self.compare(lambda a: KDLoss(hard_weight=1.0, soft_weight=0.0, label_smoothing=0.1)(a, None, y),
                         lambda b: F.cross_entropy(b, y, label_smoothing=0.1), s)

    def test_reverse_none_and_weights(self):
        s, t = logits(32, 10, 1), logits(32, 10, 2)

        def reverse(b):
            return F.kl_div(F.log_softmax(t / 2, -1), F.log_softmax(b / 2, -1), reduction="batchmean", log_target=True) * 4

        self.compare(lambda a: KDLoss(2.0, 0.0, 1.0, direction="reverse")(a, t), reverse, s)

        weights = torch.arange(32.0) / 32

        def rows(b):
            return (F.kl_div(F.log_softmax(b / 2, -1), F.softmax(t / 2, -1), reduction="none").sum(-1) * 4 * weights).sum()

        self.compare(lambda a: (KDLoss(2.0, 0.0, 1.0, reduction="none")(a, t) * weights).sum(), rows, s)
        w, y = torch.rand(10) + 0.1, torch.arange(32) % 10
        self.compare(lambda a: KDLoss(hard_weight=1.0, soft_weight=0.0, class_weights=w)(a, None, y),
                     lambda b: F.cross_entropy(b, y, weight=w), s)
        soft = torch.softmax(logits(32, 10, 3), -1)
        self.compare(lambda a: KDLoss(hard_weight=1.0, soft_weight=0.0)(a, None, soft), lambda b: F.cross_entropy(b, soft), s)

    def test_layouts_and_dtypes(self):
        s, t, y = logits(10, 16, 1), logits(10, 16, 2), torch.arange(16) % 10
        self.compare(lambda a: KDLoss()(a.T, t.T, y), lambda b: theirs(b.T, t.T, y), s)
        self.compare(lambda a: KDLoss()(a[:, ::2].T, t[:, ::2].T, y[::2]), lambda b: theirs(b[:, ::2].T, t[:, ::2].T, y[::2]), s)
        a = s.T.double().requires_grad_()
        out = KDLoss()(a, t.T, y.to(torch.int16))
        self.assertEqual(out.dtype, torch.float64)
        out.backward()
        self.assertEqual(a.grad.dtype, torch.float64)
        three = logits(30, 8, 4).reshape(5, 6, 8)
        self.close(KDLoss(hard_weight=0.0)(three, three * 0.5),
                   KDLoss(hard_weight=0.0)(three.reshape(30, 8), three.reshape(30, 8) * 0.5))

    def test_no_grad_teacher_grad_and_second_derivatives(self):
        s, t, y = logits(8, 4, 1).requires_grad_(), logits(8, 4, 2).requires_grad_(), torch.zeros(8, dtype=torch.int64)
        with torch.no_grad():
            self.assertFalse(KDLoss()(s, t, y).requires_grad)
        KDLoss()(s, t, y).backward()
        self.assertIsNone(t.grad)
        self.assertIsNotNone(s.grad)
        self.assertFalse(KDLoss()(s.detach(), t, y).requires_grad)
        with self.assertRaises(RuntimeError):
            (g,) = torch.autograd.grad(KDLoss()(s, t, y), s, create_graph=True)
            g.sum().backward()

    def test_refused(self):
        s, t = logits(8, 4, 1), logits(8, 4, 2)
        for kind, word, call in (
                (TypeError, "call .cpu()", lambda: KDLoss()(torch.zeros(8, 4, device="meta"), t)),
                (TypeError, "teacher is on meta", lambda: KDLoss()(s, torch.zeros(8, 4, device="meta"))),
                (TypeError, "floating point", lambda: KDLoss()(s.long(), t)),
                (ValueError, "differ in shape", lambda: KDLoss()(s, t[:4])),
                (IndexError, "9", lambda: KDLoss()(s, t, torch.full((8,), 9))),
                (ValueError, "temperature", lambda: KDLoss(-1.0)), (TypeError, "colour", lambda: KDLoss(colour=1))):
            with self.assertRaises(kind) as caught:
                call()
            self.assertIn(word, str(caught.exception))

    def test_a_module_like_others(self):
        criterion = KDLoss(2.0, method="kd", ignore_index=-7)
        self.assertIn("temperature=2.0", repr(criterion))
        s, t, y = logits(8, 4, 1), logits(8, 4, 2), torch.tensor([0, 1, 2, 3, -7, -7, 0, 0])
        want = criterion(s, t, y)
        self.assertEqual((criterion.last.n_valid, criterion.last.hard_rows), (6, 6))
        for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            self.assertEqual(other(s, t, y), want)
        self.assertEqual(list(criterion.parameters()), [])
        criterion.train().eval()

    def test_a_training_loop(self):
        """The same steps as with PyTorch's own loss."""
        x, y = logits(64, 8, 5), torch.arange(64) % 3
        teacher = nn.Linear(8, 3)
        runs = []
        for criterion in (KDLoss(3.0, 0.3, 0.7), lambda s, t, y: theirs(s, t, y, 3.0, 0.3, 0.7)):
            torch.manual_seed(0)
            student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
            opt = torch.optim.Adam(student.parameters(), lr=1e-2)
            for _ in range(50):
                with torch.no_grad():
                    z = teacher(x)
                loss = criterion(student(x), z, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
            runs.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-5)

    def test_threads_of_autograd(self):
        from concurrent.futures import ThreadPoolExecutor

        criterion, t = KDLoss(hard_weight=0.0), logits(32, 10, 2)

        def work(k):
            s = logits(32, 10, k).requires_grad_()
            criterion(s, t).backward()
            return s.grad

        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(work, range(16)))
        for k, grad in enumerate(got):
            self.assertTrue(torch.equal(grad, work(k)))


@needs_torch
class Features(TestCase):
    def test_against_torch(self):
        g = torch.Generator().manual_seed(1)
        image, rows = torch.randn(4, 6, 5, 3, generator=g), torch.randn(4, 6, generator=g)
        image2, rows2 = torch.randn(4, 6, 5, 3, generator=g), torch.randn(4, 6, generator=g)
        n = lambda x: F.normalize(x, dim=1)   # noqa: E731
        cases = [
            (dict(kind="mse"), lambda s, t: F.mse_loss(s, t)),
            (dict(kind="mse", reduction="sum"), lambda s, t: F.mse_loss(s, t, reduction="sum")),
            (dict(kind="mse", reduction="batchmean", weight=2.0), lambda s, t: 2 * F.mse_loss(s, t, reduction="sum") / 4),
            (dict(kind="smooth_l1", beta=0.5), lambda s, t: F.smooth_l1_loss(s, t, beta=0.5)),
            (dict(kind="cosine"), lambda s, t: (1 - F.cosine_similarity(s, t, dim=1)).mean()),
            (dict(kind="mse", normalize=True, eps=1e-12), lambda s, t: F.mse_loss(n(s), n(t))),
        ]
        for s, t in ((image, image2), (rows, rows2), (image.transpose(2, 3), image2.transpose(2, 3))):
            for options, text in cases:
                with self.subTest(**options):
                    a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
                    x, y = FeatureLoss(**options)(a, t), text(b, t)
                    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
                    (3 * x).backward()
                    (3 * y).backward()
                    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            self.assertFalse(FeatureLoss()(rows.requires_grad_(), rows2).requires_grad)

    def test_refused(self):
        with self.assertRaises(ValueError) as caught:
            FeatureLoss()(torch.zeros(2, 3), torch.zeros(2, 4))
        self.assertIn("adapter", str(caught.exception))
        for options in (dict(kind="magic"), dict(reduction="median")):
            with self.assertRaises(ValueError):
                FeatureLoss(**options)


if torch:
    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet8(nn.Module):
        def __init__(self, classes=10):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            self.layer1, self.layer2 = nn.Sequential(Block(16, 16, 1)), nn.Sequential(Block(16, 32, 2))
            self.layer3, self.fc = nn.Sequential(Block(32, 64, 2)), nn.Linear(64, classes)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
            return self.fc(x.mean((2, 3)))

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True)
            self.fc = nn.Linear(14, 3)

        def forward(self, x):
            return self.fc(self.rnn(x)[0][:, -1])

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 9), nn.Linear(9, 4)

        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(x)))


@needs_torch
class Models(TestCase):
    def both_ways(self, module, model, x, kd_x, tolerance=1e-5):
        module.eval()
        for name, buffer in module.named_buffers():          # not the trivial ones
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
        load_state_dict(model, module.state_dict())
        back = state_dict(model)
        for name, tensor in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                self.assertTrue(torch.equal(back[name], tensor), name)
        with torch.no_grad():
            torch.testing.assert_close(to_torch(model.predict(kd_x)), module(x), rtol=tolerance, atol=tolerance)
        twin = type(module)()
        load_module(twin, model)
        for (name, a), (_, b) in zip(twin.state_dict().items(), module.state_dict().items()):
            self.assertTrue(name.endswith("num_batches_tracked") or torch.equal(a, b), name)
        # and the same as through the library's own files
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.safetensors")
            model.save(path)
            for name, tensor in io.load_safetensors(path).items():
                self.assertTrue(torch.equal(to_torch(tensor), back[name]), name)

    def test_mlp(self):
        torch.manual_seed(1)
        x = torch.randn(5, 6)
        self.both_ways(Mlp(), zoo.mlp([6, 9, 4]), x, x)

    def test_resnet(self):
        torch.manual_seed(2)
        x = torch.randn(2, 3, 32, 32)
        self.both_ways(ResNet8(), zoo.resnet_cifar(8), x, x.permute(0, 2, 3, 1), 1e-4)

    def test_lstm(self):
        torch.manual_seed(3)
        model = libkd.Model()
        model.root.lstm(5, 7, layers=2, bidirectional=True, name="rnn")
        model.root.block(lambda layer, tape, x: layer.child("fc").forward(tape, tape.flatten(tape.slice(x, 1, 3, 4))), name="last")
        model.close()
        model = libkd.Model()
        model.root.lstm(5, 7, layers=2, bidirectional=True, name="rnn")
        model.root.last_step(name="last")
        model.root.linear(14, 3, name="fc")
        model.finish()
        x = torch.randn(2, 4, 5)
        self.both_ways(Recurrent(), model, x, x)

    def test_conv1d(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.c = nn.Conv1d(4, 6, 3, groups=2)

            def forward(self, x):
                return self.c(x)

        model = libkd.Model()
        model.root.conv1d(4, 6, 3, groups=2, name="c")
        model.finish()
        net, x = Net(), torch.randn(2, 4, 9)
        load_state_dict(model, net.state_dict())
        torch.testing.assert_close(to_torch(model.predict(x.transpose(1, 2))).transpose(1, 2), net(x).detach(), rtol=1e-5,
                                   atol=1e-5)
        self.assertTrue(torch.equal(state_dict(model)["c.weight"], net.c.weight))

    def test_what_does_not_fit(self):
        model = zoo.mlp([6, 9, 4])
        before = model.weights.tolist()
        state = Mlp().state_dict()
        del state["fc2.bias"]
        with self.assertRaises(libkd.KdArgumentError) as caught:
            load_state_dict(model, dict(state, head=torch.zeros(1)))
        self.assertIn("missing: fc2.bias; unexpected: head", str(caught.exception))
        with self.assertRaises(libkd.KdArgumentError) as caught:
            load_state_dict(model, dict(Mlp().state_dict(), **{"fc1.bias": torch.zeros(3)}))
        self.assertIn("fc1.bias: shape [3], the model needs [9]", str(caught.exception))
        self.assertEqual(model.weights.tolist(), before)
        with self.assertRaises(libkd.KdArgumentError):
            load_module(nn.Linear(3, 3), model)
        load_state_dict(model, {k: v.bfloat16() for k, v in Mlp().state_dict().items()})

    def test_to_torch(self):
        t = libkd.Tensor([[1.0, 2.0], [3.0, 4.0]])
        shared = to_torch(t)
        shared[0, 0] = 9.0
        self.assertEqual(t.get(0, 0), 9.0)
        self.assertEqual(to_torch(t.transpose()).tolist(), t.transpose().tolist())
        tape = libkd.Tape()
        y = to_torch(tape.relu(t))
        tape.reset()
        tape.scale(t, 0.0)
        self.assertEqual(y.tolist(), t.tolist())
        self.assertEqual(to_torch(libkd.Tensor([1, 2])).dtype, torch.int64)


if __name__ == "__main__":
    unittest.main()
