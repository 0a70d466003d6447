"""test_tape - tensors, ops on a tape, gradients, ops of your own.

SPDX-License-Identifier: MIT
"""
import array
import gc
import inspect
import math
import unittest

from support import TestCase, libkd, needs_numpy, needs_torch, numpy, torch

from libkd import _api, ops


class Tensors(TestCase):
    def test_from_numbers(self):
        t = libkd.Tensor([[1, 2, 3], [4, 5, 6]])
        self.assertEqual((t.shape, t.dtype, t.rank, t.count, t.tolist()), ((2, 3), "i64", 2, 6, [[1, 2, 3], [4, 5, 6]]))
        t = libkd.Tensor([[1, 2.5]])
        self.assertEqual((t.shape, t.dtype, t.tolist()), ((1, 2), "f32", [[1.0, 2.5]]))
        self.assertEqual(libkd.Tensor(2.5).item(), 2.5)
        self.assertEqual(libkd.Tensor(7).item(), 7)
        self.assertEqual(libkd.Tensor([]).shape, (0,))
        self.assertEqual(libkd.Tensor([[], []]).tolist(), [[], []])
        self.assertEqual(libkd.Tensor([1.5, 2], dtype="f64").dtype, "f64")
        self.assertEqual(libkd.Tensor([1.0, 2.0], dtype="u8").tolist(), [1, 2])
        with self.assertRaises(ValueError):
            libkd.Tensor([[1], [2, 3]])
        with self.assertRaises(libkd.KdRangeError):
            libkd.Tensor([300], dtype="u8")
        with self.assertRaises(ValueError):
            libkd.Tensor([1], dtype="f16")

    def test_wrap_shares_memory(self):
        a = array.array("f", [1, 2, 3, 4])
        t = libkd.Tensor.wrap(a)
        a[2] = 9.0
        self.assertEqual(t.tolist(), [1.0, 2.0, 9.0, 4.0])
        t.set(0, 5.0)
        self.assertEqual(a[0], 5.0)
        with self.assertRaises(BufferError):
            a.append(1.0)
        v = t.view()
        v[1] = 8.0
        self.assertEqual(a[1], 8.0)
        del t
        gc.collect()
        self.assertEqual(v.tolist(), [5.0, 8.0, 9.0, 4.0])

    def test_read_only_memory_can_be_read_only(self):
        frozen = libkd.Tensor.wrap(memoryview(bytes(16)).cast("f"))
        self.assertEqual(frozen.tolist(), [0.0] * 4)
        self.assertTrue(frozen.view().readonly)
        for write in (lambda: frozen.set(0, 1.0), lambda: frozen.fill(1.0), lambda: frozen.copy(libkd.Tensor.zeros((4,))),
                      lambda: frozen.reshape(2, 2).fill(1.0), lambda: libkd.loss.softmax(frozen, out=frozen)):
            with self.assertRaises(ValueError) as caught:
                write()
            self.assertIn("read-only", str(caught.exception))
        mine = frozen.clone()
        mine.fill(2.0)
        self.assertEqual(libkd.Tape().add(frozen, mine).tolist(), [2.0] * 4)

    def test_a_clone_leaves_the_tape(self):
        tape = libkd.Tape()
        kept = tape.relu([1.0, -1.0]).clone()
        tape.reset()
        self.assertEqual((kept.tape, kept.tolist()), (None, [1.0, 0.0]))

    def test_access(self):
        t = libkd.Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        self.assertEqual((t.get(1, 2), len(t), t.contiguous, t.strides), (6.0, 2, True, (3, 1)))
        with self.assertRaises(libkd.KdRangeError):
            t.get(2, 0)
        with self.assertRaises(ValueError):
            t.get(1)
        with self.assertRaises(ValueError):
            t.item()
        self.assertEqual(t.transpose().tolist(), [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
        self.assertEqual(t.transpose().clone().view().tolist(), [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
        with self.assertRaises(ValueError):
            t.transpose().view()
        self.assertEqual(t.reshape(3, -1).shape, (3, 2))
        self.assertEqual(t.slice(1, 0, 3, 2).tolist(), [[1.0, 3.0], [4.0, 6.0]])
        self.assertEqual(t.alias().data_address, t.data_address)
        self.assertEqual(t.f32_address, t.data_address)
        with self.assertRaises(libkd.KdTypeError):
            libkd.Tensor([1]).f32_address
        t.fill(2.0)
        t.copy(libkd.Tensor([[0, 1, 2], [3, 4, 5]]))
        self.assertEqual(t.tolist(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
        self.assertIn("f32 [2, 3]", str(t))
        self.assertEqual(float(libkd.Tensor([2.5])), 2.5)
        self.assertEqual((libkd.dtype_size("f64"), libkd.dtype_name(1)), (8, "f32"))

    @needs_numpy
    def test_numpy(self):
        a = numpy.arange(12, dtype="f4").reshape(3, 4)
        self.assertEqual(libkd.Tensor.wrap(a[::2, ::-1]).tolist(), a[::2, ::-1].tolist())
        t = libkd.Tensor(a)
        shared = numpy.asarray(t)
        shared[0, 0] = 99
        self.assertEqual(t.get(0, 0), 99.0)
        t.close()
        gc.collect()
        self.assertEqual(shared[0, 0], 99.0)
        tape = libkd.Tape()
        y = numpy.asarray(tape.relu(a))
        self.assertEqual(y.tolist(), a.tolist())
        tape.reset()
        tape.relu(-a)
        self.assertEqual(y.tolist(), a.tolist())
        self.assertEqual((tape.constant(a) * 2.0).tolist(), (a * 2).tolist())

    @needs_torch
    def test_torch(self):
        x = torch.arange(6.0).reshape(2, 3)
        t = libkd.Tensor.wrap(x.T)
        self.assertEqual(t.tolist(), x.T.tolist())
        x[0, 0] = 7.0
        self.assertEqual(t.get(0, 0), 7.0)


class Ops(TestCase):
    def test_operators(self):
        tape = libkd.Tape()
        a, b = tape.constant([[1.0, 2.0], [3.0, 4.0]]), tape.constant([[5.0, 6.0], [7.0, 8.0]])
        for got, want in ((a + b, [[6, 8], [10, 12]]), (a - b, [[-4, -4], [-4, -4]]), (a * b, [[5, 12], [21, 32]]),
                          (b / a, [[5, 3], [7 / 3, 2]]), (a @ b, [[19, 22], [43, 50]]), (-a, [[-1, -2], [-3, -4]]),
                          (a + 1, [[2, 3], [4, 5]]), (1 - a, [[0, -1], [-2, -3]]), (2 * a, [[2, 4], [6, 8]]),
                          (a / 2, [[0.5, 1], [1.5, 2]]),
                          (6 / a, [[6, 3], [2, 1.5]]), (a - 1, [[0, 1], [2, 3]]), ([[1.0, 1.0]] + a, [[2, 3], [4, 5]])):
            self.near(got, want)
        outside = libkd.Tensor([[1.0, 1.0]])
        self.near(outside + a, [[2, 3], [4, 5]])
        with self.assertRaises(TypeError):
            outside + outside

    def test_every_op(self):
        """Each once, by its method, against a line of Python."""
        tape = libkd.Tape("eval")
        x = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]]
        flat = [v for row in x for v in row]

        def each(f):
            return [[f(v) for v in row] for row in x]

        sig = lambda v: 1 / (1 + math.exp(-v))   # noqa: E731
        image = tape.reshape(libkd.Tensor([float(v) for v in range(16)]), (1, 4, 4, 1))
        w3 = libkd.Tensor.full((3, 3, 1, 2), 1.0)
        cases = {
            "add": (tape.add(x, x), each(lambda v: 2 * v)), "sub": (tape.sub(x, [1.0]), each(lambda v: v - 1)),
            "mul": (tape.mul(x, x), each(lambda v: v * v)), "div": (tape.div(x, [2.0]), each(lambda v: v / 2)),
            "scale": (tape.scale(x, 3.0, 1.0), each(lambda v: 3 * v + 1)), "neg": (tape.neg(x), each(lambda v: -v)),
            "exp": (tape.exp(x), each(math.exp)), "log": (tape.log([[1.0, 2.0]]), [[0.0, math.log(2)]]),
            "sqrt": (tape.sqrt([4.0, 9.0]), [2.0, 3.0]), "square": (tape.square(x), each(lambda v: v * v)),
            "abs": (tape.abs(x), each(abs)), "clamp": (tape.clamp(x, -0.5, 1.0), each(lambda v: min(max(v, -0.5), 1))),
            "relu": (tape.relu(x), each(lambda v: max(v, 0))),
            "leaky_relu": (tape.leaky_relu(x, 0.1), each(lambda v: v if v > 0 else 0.1 * v)),
            "gelu": (tape.gelu(x), each(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))))),
            "gelu_tanh": (tape.gelu_tanh(x),
                          each(lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v ** 3))))),
            "silu": (tape.silu(x), each(lambda v: v * sig(v))), "sigmoid": (tape.sigmoid(x), each(sig)),
            "tanh": (tape.tanh(x), each(math.tanh)), "softplus": (tape.softplus(x), each(lambda v: math.log1p(math.exp(v)))),
            "sum": (tape.sum(x, axes=-1), [sum(row) for row in x]), "mean": (tape.mean(x), sum(flat) / 6),
            "max": (tape.max(x, axes=(0,), keep=True), [[1.5, 0.25, 2.0]]),
            "matmul": (tape.matmul(x, x, transpose_b=True), [[sum(a * b for a, b in zip(p, q)) for q in x] for p in x]),
            "linear": (tape.linear(x, [[1.0], [2.0], [3.0]], [10.0]), [[r[0] + 2 * r[1] + 3 * r[2] + 10] for r in x]),
            "conv2d": (tape.slice(tape.conv2d(image, w3, padding=1, stride=2), 3, 0, 1), [[[[10.0], [24.0]], [[51.0], [90.0]]]]),
            "conv1d": (tape.conv1d(tape.reshape(x, (1, 6, 1)), libkd.Tensor.full((2, 1, 1), 1.0), dilation=2),
                       [[[flat[i] + flat[i + 2]] for i in range(4)]]),
            "max_pool2d": (tape.max_pool2d(image, 2), [[[[5.0], [7.0]], [[13.0], [15.0]]]]),
            "avg_pool2d": (tape.avg_pool2d(image, (2, 4), (2, 4)), [[[[3.5]], [[11.5]]]]),
            "global_avg_pool": (tape.global_avg_pool(image), [[7.5]]),
            "batch_norm": (tape.batch_norm(x, None, None, [0.5, 0.5, 0.5], [4.0, 4.0, 4.0], eps=0.0),
                           each(lambda v: (v - 0.5) / 2)),
            "layer_norm": (tape.layer_norm([[1.0, 3.0]], [2.0, 2.0], [1.0, 1.0], eps=0.0), [[-1.0, 3.0]]),
            "group_norm": (tape.group_norm([[[1.0, 3.0, 5.0, 9.0]]], groups=2, eps=0.0), [[[-1.0, 1.0, -1.0, 1.0]]]),
            "l2_normalize": (tape.l2_normalize([[3.0, 4.0]]), [[0.6, 0.8]]),
            "softmax": (tape.softmax([[0.0, math.log(3) * 2]], 2.0), [[0.25, 0.75]]),
            "log_softmax": (tape.log_softmax([[0.0, math.log(3)]]), [[math.log(0.25), math.log(0.75)]]),
            "reshape": (tape.reshape(x, (-1, 2)), [flat[:2], flat[2:4], flat[4:]]), "flatten": (tape.flatten([x]), [flat]),
            "permute": (tape.permute(x, (1, 0)), [list(c) for c in zip(*x)]), "slice": (tape.slice(x, 1, 1, 3), [r[1:] for r in x]),
            "concat": (tape.concat([x, x], 1), [r + r for r in x]), "pad": (tape.pad([1.0], (1,), (2,), 7.0), [7.0, 1.0, 7.0, 7.0]),
            "embedding": (tape.embedding(x, [1, 0, 1]), [x[1], x[0], x[1]]), "dropout": (tape.dropout(x, 0.5), x),
            "detach": (tape.detach(x), x), "mse": (tape.mse(x, [[0.0] * 3] * 2, "mean_elements"), sum(v * v for v in flat) / 6),
            "smooth_l1": (tape.smooth_l1([[2.0, 0.5]], [[0.0, 0.0]], reduction="sum"), 1.5 + 0.125),
            "cross_entropy": (tape.cross_entropy([[0.0, math.log(3)]], [1]), -math.log(0.75)),
            "kl_div": (tape.kl_div([[0.0, 0.0]], [[0.0, math.log(3)]]), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
            "cosine_similarity": (tape.cosine_similarity([[1.0, 0.0]], [[1.0, 1.0]]), [math.sqrt(0.5)]),
        }
        y, h, c = tape.lstm([[[1.0]]], weight_ih=[[0.0, 0.0, 0.5, 0.0]], weight_hh=[[0.0] * 4])
        cases["lstm"] = (h, [[0.5 * math.tanh(0.5 * math.tanh(0.5))]])
        self.near(c, [[0.5 * math.tanh(0.5)]])
        y, h = tape.gru([[[1.0]]], weight_ih=[[0.0, 0.0, 0.5]], weight_hh=[[0.0] * 3], bias_ih=[0.0] * 3)
        cases["gru"] = (y, [[[0.5 * math.tanh(0.5)]]])
        keys = [[[math.log(3)], [0.0]]]
        cases["attention"] = (tape.attention([[[1.0], [0.0]]], keys, [[[4.0], [8.0]]], heads=1), [[[5.0], [6.0]]])
        self.near(tape.attention([[[1.0, math.log(3), 4.0], [0.0, 0.0, 8.0]]], heads=1, causal=True), [[[4.0], [6.0]]])
        for name, (got, want) in cases.items():
            with self.subTest(op=name):
                self.near(got.tolist(), want, 1e-5)
        self.assertEqual(set(_api.OPS) - set(cases), {"contiguous", "custom", "fused"})
        self.assertEqual(set(ops.__all__), set(cases))

    def test_gradients(self):
        tape = libkd.Tape()
        a = tape.requires_grad([[1.0, 2.0], [3.0, 4.0]])
        b = libkd.Tensor([[1.0, 0.5], [0.25, 2.0]])
        y = ops.sum(ops.square(ops.matmul(a, b)))
        y.backward()
        self.assertEqual(a.shape, (2, 2))
        # d/dA sum((AB)^2) = 2 A B B^T
        ab = [[1.5, 4.5], [4.0, 9.5]]
        self.near(tape.grad(a),
                  [[2 * sum(ab[i][k] * [[1.0, 0.5], [0.25, 2.0]][j][k] for k in range(2)) for j in range(2)] for i in range(2)])
        with self.assertRaises(libkd.KdStateError):
            y.backward()
        self.assertIsNone(tape.grad(b))

    def test_an_error_raises_at_once_and_reset_clears_it(self):
        tape = libkd.Tape()
        x = tape.constant([[1.0, 2.0]])
        with self.assertRaises(libkd.KdArgumentError) as caught:
            x @ x
        self.assertIn("kd_matmul: a [1, 2] x b [1, 2]", str(caught.exception))
        self.assertEqual(tape.status, -2)
        with self.assertRaises(libkd.KdArgumentError):
            tape.relu(x)
        tape.reset()
        self.assertEqual(tape.status, 0)
        with self.assertRaises(libkd.KdStateError) as caught:
            tape.relu(x)
        self.assertIn("Tape.reset", str(caught.exception))
        self.assertIn("Tape.reset", repr(x))
        self.assertEqual(tape.relu([1.0, -1.0]).tolist(), [1.0, 0.0])

    def test_a_tensor_of_a_closed_tape(self):
        tape = libkd.Tape()
        x = tape.constant([1.0, 2.0])
        view = x.view()
        tape.close()
        gc.collect()
        self.assertEqual(view.tolist(), [1.0, 2.0])
        self.assertEqual(x.tolist(), [1.0, 2.0])
        with self.assertRaises(libkd.KdStateError):
            x + x

    def test_temporaries_live_until_reset(self):
        tape = libkd.Tape()
        x = tape.requires_grad(array.array("f", [1.0, 2.0, 3.0]))
        y = tape.sum(tape.mul(x, array.array("f", [4.0, 5.0, 6.0])))
        gc.collect()
        [array.array("f", [9.0] * 3) for _ in range(100)]
        y.backward()
        self.assertEqual(tape.grad(x).tolist(), [4.0, 5.0, 6.0])

    def test_modes_seed_and_sizes(self):
        for mode in ("train", "infer", "eval"):
            self.assertEqual(libkd.Tape(mode).mode, mode)
        with self.assertRaises(ValueError):
            libkd.Tape("dream")
        tape = libkd.Tape()
        ones = libkd.Tensor.full((64,), 1.0)
        tape.seed(5)
        first = tape.dropout(ones, 0.5).tolist()
        again = tape.rng
        tape.seed(5)
        self.assertEqual(tape.dropout(ones, 0.5).tolist(), first)
        second = tape.dropout(ones, 0.5).tolist()
        tape.rng = again
        self.assertEqual(tape.dropout(ones, 0.5).tolist(), second)
        self.assertGreater(tape.bytes, 0)
        self.assertGreater(tape.peak_bytes, 0)
        tape.matmul(libkd.Tensor.zeros((2, 3)), libkd.Tensor.zeros((3, 4)))
        self.assertEqual(tape.multiply_adds, 24)
        checked = libkd.Tape(check_finite=True)
        with self.assertRaises(libkd.KdNumericError):
            checked.log([-1.0])

    def test_with_is_one_step(self):
        tape = libkd.Tape()
        with tape:
            y = tape.relu([1.0])
        self.assertFalse(tape.closed)
        with self.assertRaises(libkd.KdStateError):
            y.item()

    def test_signatures_are_pleasant(self):
        self.assertEqual(list(inspect.signature(libkd.Tape.conv2d).parameters),
                         ["self", "x", "weight", "bias", "stride", "padding", "dilation", "groups", "algorithm"])
        self.assertEqual(list(inspect.signature(ops.cross_entropy).parameters)[:2], ["logits", "labels"])
        with self.assertRaises(TypeError):
            libkd.Tape().relu()
        with self.assertRaises(libkd.KdStateError):
            ops.relu(libkd.Tensor([1.0]))


class Custom(TestCase):
    @staticmethod
    def cube(inputs, outputs):
        x, y = inputs[0], outputs[0]
        for i in range(len(x)):
            y[i] = x[i] ** 3

    @staticmethod
    def cube_back(inputs, outputs, output_grads, input_grads):
        if input_grads[0] is not None:
            for i in range(len(inputs[0])):
                input_grads[0][i] += 3 * inputs[0][i] ** 2 * output_grads[0][i]

    def test_an_op(self):
        tape = libkd.Tape()
        x = tape.requires_grad([1.0, 2.0, -3.0])
        (y,) = tape.custom(self.cube, [x], [(3,)], self.cube_back, "cube")
        gc.collect()
        self.assertEqual(y.tolist(), [1.0, 8.0, -27.0])
        tape.sum(y).backward()
        self.assertEqual(tape.grad(x).tolist(), [3.0, 12.0, 27.0])

    def test_exceptions_come_out(self):
        class Mine(Exception):
            pass

        def fails(inputs, outputs):
            gc.collect()
            raise Mine("forward")

        def back_fails(*args):
            raise Mine("backward")

        tape = libkd.Tape()
        with self.assertRaises(Mine) as caught:
            tape.custom(fails, [[1.0]], [(1,)])
        self.assertEqual(str(caught.exception), "forward")
        tape.reset()
        x = tape.requires_grad([1.0])
        (y,) = tape.custom(self.cube, [x], [(1,)], back_fails)
        with self.assertRaises(Mine) as caught:
            tape.sum(y).backward()
        self.assertEqual(str(caught.exception), "backward")
        tape.reset()
        with self.assertRaises(ZeroDivisionError):
            tape.custom(lambda i, o: 1 / 0, [[1.0]], [(1,)])


if __name__ == "__main__":
    unittest.main()
