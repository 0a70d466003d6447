"""test_loss - losses on arrays against a second text in double; what arrays are taken, and which are refused, with what words.

SPDX-License-Identifier: MIT
"""
import array
import math
import sys
import unittest

from support import TestCase, libkd, matrix, needs_numpy, needs_torch, numpy, random_rows, softmax, torch

from libkd import loss


def kd_text(student, teacher, labels, t=4.0, hard=0.1, soft=0.9, ignore=-100, direction="forward", squared=True):
    """Hinton's loss and its gradient, row by row in double."""
    ce = kl = 0.0
    n = sum(y != ignore for y in labels)
    grad = []
    for s, z, y in zip(student, teacher, labels):
        if y == ignore:
            grad.append([0.0] * len(s))
            continue
        p, q, q1 = softmax(z, t), softmax(s, t), softmax(s)
        a, b = (p, q) if direction == "forward" else (q, p)
        row = sum(u * (math.log(u) - math.log(v)) for u, v in zip(a, b))
        kl += row
        ce -= math.log(q1[y])
        f = t * t if squared else 1.0
        if direction == "forward":
            d = [(u - v) / t for u, v in zip(q, p)]
        else:
            d = [u * (math.log(u) - math.log(v) - row) / t for u, v in zip(q, p)]
        grad.append([(hard * (q1[c] - (c == y)) + soft * f * d[c]) / n for c in range(len(s))])
    return hard * ce / n + soft * (t * t if squared else 1.0) * kl / n, grad


class Kd(TestCase):
    def setUp(self):
        self.s, self.t = random_rows(33, 10, 1), random_rows(33, 10, 2)
        self.y = [i % 10 if i % 5 else -100 for i in range(33)]

    def test_value_and_gradient(self):
        want, grad = kd_text(self.s, self.t, self.y)
        r = loss.kd(matrix(self.s), matrix(self.t), self.y, grad=True)
        self.near(r.loss, want)
        self.near(r.grad, grad)
        self.assertEqual((r.n_valid, r.hard_rows, r.soft_rows), (26, 26, 26))
        self.near(r.loss, 0.1 * r.hard + 0.9 * r.soft)

    def test_options(self):
        for options, text in ((dict(temperature=2.0), dict(t=2.0)),
                              (dict(hard_weight=0.5, soft_weight=0.25), dict(hard=0.5, soft=0.25)),
                              (dict(scale_t2=False), dict(squared=False)), (dict(direction="reverse"), dict(direction="reverse"))):
            want, grad = kd_text(self.s, self.t, self.y, **text)
            r = loss.kd(matrix(self.s), matrix(self.t), self.y, grad=True, **options)
            self.near(r.loss, want, 1e-5)
            self.near(r.grad, grad, 1e-5)

    def test_reductions_and_row_losses(self):
        s, t = matrix(self.s), matrix(self.t)
        mean = loss.kd(s, t, self.y)
        total = loss.kd(s, t, self.y, reduction="sum", row_loss=True)
        self.near(total.loss, mean.loss * 26, 1e-5)
        self.near(sum(total.row_loss), total.loss, 1e-5)
        self.near(loss.kd(s, t, self.y, reduction="mean_elements").loss, mean.loss / 10, 1e-5)
        self.near(loss.kd(s, t, self.y, reduction="none").loss, total.loss, 1e-5)

    def test_without_labels_or_teacher(self):
        all_rows = [0] * 33
        self.near(loss.kd(matrix(self.s), matrix(self.t)).loss, kd_text(self.s, self.t, all_rows, hard=0.0)[0])
        self.near(loss.cross_entropy(matrix(self.s), self.y).loss, kd_text(self.s, self.t, self.y, hard=1.0, soft=0.0)[0])

    def test_unlabelled_and_weighted_rows(self):
        y = [3] * 20 + [-1] * 13
        r = loss.distill(matrix(self.s), matrix(self.t), y, unlabelled_index=-1, grad=True)
        self.assertEqual((r.hard_rows, r.soft_rows, r.n_valid), (20, 33, 33))
        w = array.array("f", [1.0] * 20 + [0.0] * 13)
        weighted = loss.distill(matrix(self.s), matrix(self.t), [3] * 33, row_weights=w)
        self.near(weighted.loss, kd_text(self.s[:20], self.t[:20], [3] * 20)[0], 1e-5)

    def test_soft_labels_and_class_weights(self):
        onehot = [[1.0 if c == 3 else 0.0 for c in range(10)] for _ in range(33)]
        a = loss.kd(matrix(self.s), matrix(self.t), matrix(onehot), grad=True)
        b = loss.kd(matrix(self.s), matrix(self.t), [3] * 33, grad=True)
        self.near(a.loss, b.loss)
        self.near(a.grad, b.grad)
        weights = [1.0 + c for c in range(10)]
        y = [c % 10 for c in range(33)]
        r = loss.distill(matrix(self.s), None, y, hard_weight=1.0, class_weights=weights)
        ce = [-math.log(softmax(s)[c]) for s, c in zip(self.s, y)]
        self.near(r.loss, sum(weights[c] * v for c, v in zip(y, ce)) / sum(weights[c] for c in y), 1e-5)
        again = loss.distill(matrix(self.s), None, y, hard_weight=1.0, class_weights=array.array("f", weights))
        self.assertEqual(again.loss, r.loss)

    def test_methods_by_name(self):
        r = loss.distill(matrix(self.s), matrix(self.t), None, method="hard", soft_weight=1.0, grad=True)
        top = [max(range(10), key=t.__getitem__) for t in self.t]
        self.near(r.loss, -sum(math.log(softmax(s)[c]) for s, c in zip(self.s, top)) / 33)
        with self.assertRaises(ValueError) as caught:
            loss.distill(matrix(self.s), matrix(self.t), method="telepathy")
        self.assertIn("kd", str(caught.exception))
        with self.assertRaises(TypeError):
            loss.distill(matrix(self.s), matrix(self.t), colour=1)

    def test_the_object_and_the_tape_say_the_same(self):
        made = libkd.LossDistill(temperature=3.0)
        r = made.eval(matrix(self.s), matrix(self.t), self.y, grad=True)
        tape = libkd.Tape()
        x = tape.requires_grad(libkd.Tensor(self.s, dtype="f32"))
        l = made(tape, x, self.t, self.y)
        l.backward()
        self.assertEqual(x.shape, (33, 10))
        self.near(l.item(), r.loss, 1e-6)
        self.assertEqual(tape.grad(x).tolist(), r.grad.tolist())
        terms = libkd.LossDistill.terms(l)
        self.assertEqual((terms.loss, terms.hard_rows), (r.loss, 26))
        weighted = made(tape, x, self.t, self.y, [1.0] * 33)
        self.near(weighted.item(), r.loss, 1e-6)

    def test_rows_kernels(self):
        s, t, y = matrix(self.s), matrix(self.t), self.y
        a, b = loss.kd(s, t, y, grad=True), loss.distill_rows(s, t, y, grad=True)
        self.assertEqual((a.loss, a.grad.tolist(), a.n_valid), (b.loss, b.grad.tolist(), b.n_valid))
        self.near(loss.softmax(s, temperature=2.0), [softmax(row, 2.0) for row in self.s])
        self.near(loss.log_softmax(s), [[math.log(v) for v in softmax(row)] for row in self.s])
        values, grad = loss.kl_divergence(t, s, temperature=2.0, grad=True)
        p, q = [softmax(r, 2.0) for r in self.t], [softmax(r, 2.0) for r in self.s]
        self.near(values, [sum(u * math.log(u / v) for u, v in zip(a, b)) for a, b in zip(p, q)], 1e-5)
        self.near(grad, [[(v - u) / 2 for u, v in zip(a, b)] for a, b in zip(p, q)])
        values, grad = loss.cross_entropy_rows(s, y, grad=True)
        self.near(values, [0.0 if c == -100 else -math.log(softmax(r)[c]) for r, c in zip(self.s, y)], 1e-5)
        self.assertEqual(grad[0, 0], 0.0)
        loss.softmax(s, out=s)
        self.near([sum(row) for row in s.tolist()], [1.0] * 33)

    def test_more_axes(self):
        flat = array.array("f", [v for row in self.s[:30] for v in row])
        s = memoryview(flat).cast("B").cast("f", (5, 6, 10))
        t = memoryview(array.array("f", [v for row in self.t[:30] for v in row])).cast("B").cast("f", (5, 6, 10))
        y = memoryview(array.array("i", [1] * 30)).cast("B").cast("i", (5, 6))
        r = loss.kd(s, t, y, grad=True)
        self.near(r.loss, kd_text(self.s[:30], self.t[:30], [1] * 30)[0])
        self.assertEqual(r.grad.shape, (5, 6, 10))

    def test_contexts(self):
        with libkd.Context(threads=1, isa="scalar") as ctx:
            a = loss.kd(matrix(self.s), matrix(self.t), self.y, grad=True, context=ctx)
            b = loss.kd(matrix(self.s), matrix(self.t), self.y, grad=True, context=ctx)
        self.near(a.loss, loss.kd(matrix(self.s), matrix(self.t), self.y).loss)
        self.assertEqual(a.grad.tolist(), b.grad.tolist())
        with self.assertRaises(libkd.KdStateError):
            loss.kd(matrix(self.s), matrix(self.t), self.y, context=ctx)


class Refused(TestCase):
    """Each with a text that names the argument and what to do."""

    def setUp(self):
        self.s, self.t = matrix(random_rows(4, 3, 1)), matrix(random_rows(4, 3, 2))

    def refuse(self, kind, word, *args, **kw):
        with self.assertRaises(kind) as caught:
            loss.kd(*args, **kw)
        self.assertIn(word, str(caught.exception))

    def test_types_and_shapes(self):
        doubles = memoryview(array.array("d", [0.0] * 12)).cast("B").cast("d", (4, 3))
        self.refuse(TypeError, "student: needs elements of type f32, these are f64", doubles, self.t)
        self.refuse(TypeError, "list is no array", [[1.0]], self.t)
        self.refuse(TypeError, "element type", memoryview(array.array("H", [0] * 12)).cast("B").cast("H", (4, 3)), self.t)
        self.refuse(ValueError, "teacher [2, 3] and student [4, 3]", self.s, matrix(random_rows(2, 3, 1)))
        self.refuse(ValueError, "one label a row", self.s, self.t, [1, 2])
        self.refuse(TypeError, "integers", self.s, self.t, [0.5] * 4)
        self.refuse(libkd.KdRangeError, "7", self.s, self.t, [0, 1, 7, 2])
        self.refuse(libkd.KdArgumentError, "temperature", self.s, self.t, temperature=-1.0)
        self.refuse(TypeError, "", self.s, self.t, temperature="hot")

    def test_read_only(self):
        frozen = memoryview(bytes(48)).cast("f", (4, 3))
        r = loss.kd(frozen, self.t, grad=True)               # to read is fine
        self.assertEqual(r.n_valid, 4)
        self.refuse(ValueError, "grad is read-only", self.s, self.t, grad=frozen)

    def test_gaps(self):
        wide = memoryview(array.array("f", range(24))).cast("B").cast("f", (24,))
        self.refuse(ValueError, "not contiguous", wide[::2], self.t)

    def test_a_gpu_is_not_here(self):
        class OnGpu:
            __cuda_array_interface__ = {}

        class TorchLike:
            is_cpu, device = False, "cuda:0"

            def data_ptr(self):
                raise AssertionError("asked for an address in a GPU's memory")

        class DlpackLike:
            def __dlpack__(self):
                raise AssertionError("asked for a capsule")

            def __dlpack_device__(self):
                return 2, 0

        self.refuse(TypeError, "student is in a GPU's memory", OnGpu(), self.t)
        self.refuse(TypeError, "student is on cuda:0; call .cpu()", TorchLike(), self.t)
        self.refuse(TypeError, "only the CPU's memory", DlpackLike(), self.t)

    def test_temporaries_are_kept_during_the_call(self):
        want = loss.kd(self.s, self.t, grad=True)
        for _ in range(200):
            r = loss.kd(matrix(self.s.tolist()), matrix(self.t.tolist()), grad=True)
            self.assertEqual((r.loss, r.grad.tolist()), (want.loss, want.grad.tolist()))

    def test_nothing_is_written_on_an_error(self):
        grad = matrix([[7.0] * 3] * 4)
        self.refuse(libkd.KdRangeError, "", self.s, self.t, [0, 1, 9, 2], grad=grad)
        self.assertEqual(grad.tolist(), [[7.0] * 3] * 4)


@needs_numpy
class Numpy(TestCase):
    def setUp(self):
        self.s, self.t = random_rows(16, 10, 1), random_rows(16, 10, 2)
        self.y = list(range(10)) + [0] * 6
        self.want = loss.kd(matrix(self.s), matrix(self.t), self.y, grad=True)

    def test_arrays_in_arrays_out(self):
        r = loss.kd(numpy.array(self.s, "f4"), numpy.array(self.t, "f4"), numpy.array(self.y), grad=True)
        self.assertIsInstance(r.grad, numpy.ndarray)
        self.assertEqual((r.loss, r.grad.tolist()), (self.want.loss, self.want.grad.tolist()))
        r = loss.kd(numpy.array(self.s, "f4"), numpy.array(self.t, "f4"), numpy.array(self.y, "i4"))
        self.assertEqual(r.loss, self.want.loss)

    def test_rows_apart_are_taken_as_they_are(self):
        wide, wide2 = numpy.full((16, 25), numpy.nan, "f4"), numpy.full((16, 25), numpy.nan, "f4")
        s, g = wide[:, 3:13], wide2[:, 14:24]
        s[:] = self.s
        r = loss.kd(s, numpy.array(self.t, "f4"), self.y, grad=g)
        self.assertEqual((r.loss, g.tolist()), (self.want.loss, self.want.grad.tolist()))
        self.assertTrue(numpy.isnan(wide2[:, :14]).all() and numpy.isnan(wide2[:, 24]).all())

    def test_refused(self):
        s, t = numpy.array(self.s, "f4"), numpy.array(self.t, "f4")
        for bad, kind, word in ((s.T, ValueError, "rows are not contiguous"), (s[:, ::-1], ValueError, "numpy.ascontiguousarray"),
                                (s.astype("f8"), TypeError, "f64"), (s.astype(">f4"), TypeError, "element type"),
                                (s.astype("f2"), TypeError, "element type")):
            with self.assertRaises(kind) as caught:
                loss.kd(bad, t if bad.shape == t.shape else t.T)
            self.assertIn(word, str(caught.exception))
        g = numpy.zeros_like(s)
        g.flags.writeable = False
        with self.assertRaises(ValueError) as caught:
            loss.kd(s, t, grad=g)
        self.assertIn("read-only", str(caught.exception))

    def test_read_only_input_and_in_place(self):
        s = numpy.array(self.s, "f4")
        s.flags.writeable = False
        self.assertEqual(loss.kd(s, numpy.array(self.t, "f4"), self.y).loss, self.want.loss)
        s = s.copy()
        loss.kd(s, numpy.array(self.t, "f4"), self.y, grad=s)
        self.assertEqual(s.tolist(), self.want.grad.tolist())

    def test_dlpack(self):
        class Other:
            """An array of a library that offers DLPack only."""

            def __init__(self, x):
                self.x = x

            def __dlpack__(self):
                return self.x.__dlpack__()

            def __dlpack_device__(self):
                return self.x.__dlpack_device__()

        if not hasattr(numpy.ndarray, "__dlpack__"):
            self.skipTest("this NumPy offers no DLPack")
        s = numpy.array(self.s, "f4")
        before = sys.getrefcount(s)
        r = loss.kd(Other(s), Other(numpy.array(self.t, "f4")), self.y)
        self.assertEqual(r.loss, self.want.loss)
        self.assertEqual(sys.getrefcount(s), before)
        wide = numpy.zeros((16, 20), "f4")
        wide[:, :10] = self.s
        self.assertEqual(loss.kd(Other(wide[:, :10]), Other(numpy.array(self.t, "f4")), self.y).loss, self.want.loss)

    def test_empty(self):
        r = loss.kd(numpy.zeros((0, 5), "f4"), numpy.zeros((0, 5), "f4"), numpy.zeros(0, "i8"), grad=True)
        self.assertEqual((r.loss, r.n_valid, r.grad.shape), (0.0, 0, (0, 5)))


@needs_torch
class Torch(TestCase):
    def test_tensors(self):
        s, t = random_rows(16, 10, 1), random_rows(16, 10, 2)
        want = loss.kd(matrix(s), matrix(t), [3] * 16, grad=True)
        r = loss.kd(torch.tensor(s), torch.tensor(t), torch.full((16,), 3), grad=True)
        self.assertIsInstance(r.grad, torch.Tensor)
        self.assertEqual((r.loss, r.grad.tolist()), (want.loss, want.grad.tolist()))
        with self.assertRaises(ValueError):
            loss.kd(torch.tensor(s).T, torch.tensor(t).T)
        with self.assertRaises(TypeError) as caught:
            loss.kd(torch.tensor(s).bfloat16(), torch.tensor(t))
        self.assertIn("bfloat16", str(caught.exception))
        meta = torch.zeros((16, 10), device="meta")
        with self.assertRaises(TypeError) as caught:
            loss.kd(meta, torch.tensor(t))
        self.assertIn("call .cpu()", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
