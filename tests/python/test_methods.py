"""test_methods - the list of methods, their defaults, losses on features, curricula and the auditor, from Python.

SPDX-License-Identifier: MIT
"""
import os
import tempfile
import unittest

from support import TestCase, libkd, matrix, needs_torch, random_rows, torch

from libkd import LossDistill, LossFeature, Tape, Tensor, loss


def labels(n, k=5):
    return [(i * 7) % k for i in range(n)]


class List(TestCase):
    def test_list(self):
        every = libkd.methods()
        self.assertEqual(every, libkd.methods("distill") + libkd.methods("feature"))
        self.assertIn("rkd", [m.name for m in libkd.methods("feature")])
        dkd = libkd.find_method("dkd")
        self.assertEqual((dkd.kind, dkd.name), ("distill", "dkd"))
        self.assertIn("Zhao", dkd.source)
        for m in every:
            self.assertEqual(libkd.find_method(m.name), m)
        with self.assertRaisesRegex(libkd.KdArgumentError, "nearest is"):
            libkd.find_method("dkdd")

    def test_defaults_are_the_methods(self):
        s, t, y = matrix(random_rows(8, 5, 1)), matrix(random_rows(8, 5, 2)), labels(8)
        said = LossDistill(method="dist").explain(s, t, y)
        self.assertIn("1 x hard + 2 x soft", said)
        said = LossDistill(method="dist", soft_weight=3.0).explain(s, t, y)
        self.assertIn("1 x hard + 3 x soft", said)

    def test_every_method_on_outputs(self):
        """On arrays, and on a tape the same numbers."""
        s, t, y = matrix(random_rows(12, 5, 1)), matrix(random_rows(12, 5, 2)), labels(12)
        more = dict(student_second=s, teacher_second=t)
        for m in libkd.methods("distill"):
            if m.name in ("top_k", "ctkd", "taid"):      # below; these two move while they run
                continue
            one = LossDistill(method=m.name)
            r = one.eval(s, t, y, grad=True, grad_second=True, **more)
            with Tape("train") as tape:
                x, second = tape.requires_grad(Tensor.wrap(s)), tape.requires_grad(Tensor(Tensor.wrap(s)))
                value = one.apply(tape, x, t, y, student_second=second, teacher_second=t)
                value.backward()
                terms = LossDistill.terms(value)
                self.assertEqual((terms.loss, terms.hard, terms.soft), (r.loss, r.hard, r.soft), m.name)
                if tape.grad(x) is not None:
                    self.assertEqual(tape.grad(x).tolist(), r.grad.tolist(), m.name)
                if tape.grad(second) is not None:
                    self.assertEqual(tape.grad(second).tolist(), r.grad_second.tolist(), m.name)
            self.assertGreater(loss.distill(s, t, y, method=m.name, more=more).loss, 0)

    def test_no_teacher(self):
        s = matrix(random_rows(12, 5, 1))
        r = loss.distill(s, labels=labels(12), method="tfkd")
        self.assertEqual(r.soft_rows, 12)

    def test_sparse_and_several_teachers(self):
        from array import array
        s, t, t2 = (matrix(random_rows(6, 5, i)) for i in (1, 2, 3))
        kept = matrix([[0.7, 0.2]] * 6)
        classes = memoryview(array("i", [0, 3] * 6)).cast("B").cast("i", [6, 2])
        sparse = LossDistill(method="top_k", teacher_form="probs")
        r = sparse.eval(s, kept, teacher_classes=classes)
        with Tape("eval") as tape:
            self.near(sparse.apply(tape, s, kept, teacher_classes=classes).item(), r.loss, 1e-6)
        self.assertIn("top_k", sparse.explain(s, kept, teacher_classes=classes))
        both = LossDistill(method="multi_teacher", hard_weight=0.0)
        a = both.eval(s, t, more_teachers=[t2]).loss
        b = both.eval(s, t2, more_teachers=[t]).loss
        self.near(a, b, 1e-6)
        self.assertNotEqual(a, both.eval(s, t).loss)
        with self.assertRaisesRegex(ValueError, "more_teachers"):
            both.eval(s, t, more_teachers=[kept])
        with self.assertRaisesRegex(ValueError, "differ in shape"):
            both.eval(s, kept)


class Curricula(TestCase):
    def test_weights_temperature_warmup(self):
        s, t, y = matrix(random_rows(8, 5, 1)), matrix(random_rows(8, 5, 2)), labels(8)
        one = LossDistill(warmup=4)
        first = one.eval(s, t, y)
        self.near(first.loss, 0.1 * first.hard + 0.9 / 4 * first.soft, 1e-6)
        one.advance()
        self.near(one.eval(s, t, y).loss, 0.1 * first.hard + 0.9 / 2 * first.soft, 1e-6)
        one.set_weights(0.5, 0.25)
        one.set_temperature(2.0)
        for _ in range(3):
            one.advance()
        self.near(one.eval(s, t, y).loss, loss.kd(s, t, y, temperature=2.0, hard_weight=0.5, soft_weight=0.25).loss, 1e-6)
        with self.assertRaises(libkd.KdArgumentError):
            one.set_temperature(-1.0)

    def test_adapters_of_outputs(self):
        self.assertIsNone(LossDistill().adapters)
        s, t, y = matrix(random_rows(8, 5, 1)), matrix(random_rows(8, 5, 2)), labels(8)
        one = LossDistill(method="ctkd")
        with Tape("train") as tape:
            with self.assertRaises(libkd.KdStateError):
                one.apply(tape, s, t, y)
        optimizer = libkd.Optimizer("sgd", one.adapters, lr=1.0)
        before = list(one.adapters.weights)
        with Tape("train") as tape:
            one.apply(tape, s, t, y).backward()
            optimizer.step()
        self.assertNotEqual(before, list(one.adapters.weights))


class Features(TestCase):
    def setUp(self):
        self.s, self.t = matrix(random_rows(6, 4, 1)), matrix(random_rows(6, 3, 2))

    def test_arrays_and_tapes(self):
        for name in ("sp", "rkd", "pkt"):
            one = LossFeature(name, student=[(4,)], teacher=[(3,)])
            r = one.eval(self.s, self.t, grad=True)
            self.assertGreater(r.loss, 0)
            self.assertIsNone(one.adapters)
            with Tape("train") as tape:
                x = tape.requires_grad(Tensor.wrap(self.s))
                value = one(tape, x, self.t)
                value.backward()
                self.near(value.item(), r.loss, 1e-6)
                self.assertEqual(tape.grad(x).tolist(), r.grads[0].tolist())
            one.set_weight(0.0)
            self.assertEqual(one.eval(self.s, self.t).loss, 0)

    def test_adapters_learn(self):
        one = LossFeature("fitnet", student=[(4,)], teacher=[(3,)], seed=1)
        with Tape("train") as tape, self.assertRaises(libkd.KdStateError):
            one(tape, self.s, self.t)
        optimizer = libkd.Optimizer("adam", one.adapters, lr=0.01)
        values = []
        for _ in range(30):
            with Tape("train") as tape:
                value = one(tape, [self.s], [self.t])
                value.backward()
                optimizer.step()
                values.append(value.item())
        self.assertLess(values[-1], values[0])
        self.assertTrue(all(name.startswith("reg0") for name in one.adapters.parameters()))

    def test_checkpoint(self):
        a, b = (LossFeature("fitnet", student=[(4,)], teacher=[(3,)], seed=i) for i in (1, 2))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.kd")
            libkd.Checkpoint(hint=a).save(path)
            libkd.Checkpoint(hint=b).load(path)
        self.assertEqual(a.eval(self.s, self.t).loss, b.eval(self.s, self.t).loss)

    def test_refused(self):
        with self.assertRaisesRegex(libkd.KdError, "fitnet"):
            LossFeature("fitnet", student=[(4,)])
        with self.assertRaises(ValueError):
            LossFeature("fitnett", student=[(4,)], teacher=[(3,)])
        with self.assertRaises(ValueError):
            LossFeature("sp", student=[()], teacher=[(3,)])
        one = LossFeature("sp", student=[(4,)], teacher=[(3,)])
        with self.assertRaisesRegex(ValueError, r"teacher\[0\]"):
            one.eval(self.s, self.s)
        with self.assertRaisesRegex(ValueError, "2 student taps"):
            one.eval([self.s, self.s], self.t)
        with self.assertRaises(TypeError):
            LossFeature("sp", student=[(4,)], teacher=[(3,)], unknown=1)


class Explain(TestCase):
    def test_outputs(self):
        s, t, y = matrix(random_rows(40, 5, 1)), random_rows(40, 5, 2), labels(40)
        for row, label in zip(t, y):
            row[label] += 6
        t = matrix(t)
        one = LossDistill()
        said = one.explain(s, t, y)
        self.assertNotIn("warning", said)
        self.assertIn("teacher and label agree in 4", said)
        self.assertIn("T^2 is off", LossDistill(temperature_squared=0).explain(s, t, y))
        with Tape("train") as tape:
            self.assertIn("ran on a TRAIN tape", one.explain(s, t, y, teacher_tape=tape))
        with self.assertRaisesRegex(libkd.KdError, "kd_loss_explain: teacher is NULL"):
            one.explain(s, None, y)

    def test_features(self):
        one = LossFeature("fitnet", student=[(4,)], teacher=[(3,)])
        said = one.explain(matrix(random_rows(6, 4, 1)), matrix(random_rows(6, 3, 2)))
        self.assertIn("student tap 0 [4]", said)
        self.assertIn("no optimizer holds the adapters", said)


@needs_torch
class InTorch(TestCase):
    def test_kd_loss_has_the_methods_numbers(self):
        from libkd.torch import KDLoss
        torch.manual_seed(1)
        s, t, y = torch.randn(8, 5), torch.randn(8, 5), torch.arange(8) % 5
        self.assertEqual(KDLoss(method="dist")(s, t, y).item(), torch.tensor(loss.distill(s, t, y, method="dist").loss).item())
        self.assertEqual(KDLoss()(s, t, y).item(), torch.tensor(loss.kd(s, t, y).loss).item())

    def test_feature_loss(self):
        from libkd.torch import FeatureDistance, FeatureLoss
        torch.manual_seed(1)
        s, t = torch.randn(6, 4, requires_grad=True), torch.randn(6, 3)
        hint = FeatureLoss("fitnet", student=[(4,)], teacher=[(3,)], weight=1.0)
        self.assertEqual(len(list(hint.parameters())), 4)
        steps = torch.optim.Adam([s, *hint.parameters()], lr=0.02)
        values = []
        for _ in range(40):
            steps.zero_grad()
            value = hint(s, t)
            (2 * value).backward()
            steps.step()
            values.append(value.item())
        self.assertLess(values[-1], 0.8 * values[0])
        hint.eval()
        a, b = hint(s, t), hint(s, t)
        self.assertEqual(a.item(), b.item())
        # the adapters' gradients against differences of the value
        hint.train()
        hint.zero_grad()
        hint(s.detach(), t).backward()
        for p in hint.parameters():
            direction = torch.randn_like(p)
            with torch.no_grad():
                p += 1e-3 * direction
                up = hint(s.detach(), t).item()
                p -= 2e-3 * direction
                down = hint(s.detach(), t).item()
                p += 1e-3 * direction
            self.assertAlmostEqual((up - down) / 2e-3, (p.grad * direction).sum().item(), delta=2e-3)
        self.assertIsInstance(FeatureLoss("cosine"), FeatureDistance)
        rkd = FeatureLoss("rkd", student=[(4,)], teacher=[(3,)])
        x = s.detach().requires_grad_()
        rkd(x, t).backward()
        self.assertGreater(x.grad.abs().sum().item(), 0)


if __name__ == "__main__":
    unittest.main()
