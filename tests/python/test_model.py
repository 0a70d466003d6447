"""test_model - models: layers, containers, blocks, the zoo, taps, parameters, files.

SPDX-License-Identifier: MIT
"""
import gc
import os
import tempfile
import unittest
import weakref

from support import TestCase, libkd

from libkd import zoo


class Build(TestCase):
    def test_every_layer(self):
        """Built, run and summed up, each on an input of its kind."""
        image, sequence, rows = (2, 6, 6, 4), (2, 5, 4), (2, 4)
        cases = {
            "linear": (rows, lambda r: r.linear(4, 3), (2, 3)),
            "conv2d": (image, lambda r: r.conv2d(4, 8, 3, 3, padding=1, stride=2), (2, 3, 3, 8)),
            "conv1d": (sequence, lambda r: r.conv1d(4, 6, 3, False), (2, 3, 6)),
            "batch_norm": (image, lambda r: r.batch_norm(4), image),
            "layer_norm": (rows, lambda r: r.layer_norm(4), rows), "group_norm": (image, lambda r: r.group_norm(2, 4), image),
            "activation": (rows, lambda r: r.activation("gelu"), rows),
            "max_pool2d": (image, lambda r: r.max_pool2d(2), (2, 3, 3, 4)),
            "avg_pool2d": (image, lambda r: r.avg_pool2d(3, 1, 1), image),
            "global_avg_pool": (image, lambda r: r.global_avg_pool(), rows),
            "flatten": (image, lambda r: r.flatten(), (2, 144)), "dropout": (rows, lambda r: r.dropout(0.5), rows),
            "lstm": (sequence, lambda r: r.lstm(4, 3, layers=2, bidirectional=True), (2, 5, 6)),
            "gru": (sequence, lambda r: r.gru(4, 3, bias=False), (2, 5, 3)), "last_step": (sequence, lambda r: r.last_step(), rows),
            "sequence": (rows, lambda r: r.sequence(name="s").linear(4, 2), (2, 2)),
            "residual": (rows, lambda r: r.residual("none", name="r").linear(4, 4), rows),
            "parallel": (rows, lambda r: [r.parallel("concat", name="p").linear(4, 2)], (2, 2)),
            "block": (rows, lambda r: r.block(lambda layer, tape, x: tape.neg(x)), rows),
        }
        for name, (shape, build, want) in cases.items():
            with self.subTest(layer=name):
                model = libkd.Model()
                build(model.root)
                model.finish(1)
                got = model.predict(libkd.Tensor.full(shape, 0.5))
                self.assertEqual(got.shape, want)
                self.assertIn("total", model.summary(shape))
        model = libkd.Model()
        model.root.embedding(10, 3)
        model.finish()
        self.assertEqual(model.predict(libkd.Tensor([[1, 2]])).shape, (1, 2, 3))
        self.assertEqual(set(libkd._api.LAYERS) - set(cases), {"embedding"})

    def test_residual_with_shortcut(self):
        model = libkd.Model()
        block = model.root.residual(name="block1")
        block.linear(4, 2, name="fc")
        block.shortcut(name="downsample").linear(4, 2)
        model.finish(3)
        self.assertEqual(list(model.parameters()), ["block1.fc.weight", "block1.fc.bias", "block1.downsample.0.weight",
                                                    "block1.downsample.0.bias"])
        self.assertEqual(model.layer("block1.fc").path, "block1.fc")
        self.assertEqual(repr(model.layer("block1")), "<libkd.Layer 'block1'>")
        with self.assertRaises(libkd.KdArgumentError):
            model.layer("block2")

    def test_a_builder_raises_at_once(self):
        model = libkd.Model()
        model.root.linear(4, 2, name="fc")
        with self.assertRaises(libkd.KdArgumentError) as caught:
            model.root.linear(2, 2, name="fc")
        self.assertIn("fc", str(caught.exception))
        with self.assertRaises(libkd.KdArgumentError):
            model.finish()
        with self.assertRaises(ValueError):
            libkd.Model().root.activation("sinus")
        with self.assertRaises(TypeError):
            libkd.Layer()

    def test_state_errors(self):
        model = libkd.Model()
        model.root.linear(4, 2)
        with self.assertRaises(libkd.KdStateError):
            model.predict(libkd.Tensor.zeros((1, 4)))
        model.finish()
        with self.assertRaises(libkd.KdStateError):
            model.finish()
        with self.assertRaises(libkd.KdError):
            model.root.linear(2, 2)

    def test_errors_name_the_layer(self):
        model = zoo.cnn(height=8, width=8)
        with self.assertRaises(libkd.KdArgumentError) as caught:
            model.predict(libkd.Tensor.zeros((1, 8, 8, 3)))
        self.assertIn("conv1", str(caught.exception))


class Blocks(TestCase):
    def test_parameters_children_gradients(self):
        def forward(layer, tape, x):
            gc.collect()
            y = layer.child("0").forward(tape, x)
            return y * layer.parameter("gain") + layer.parameter("offset")

        model = libkd.Model()
        block = model.root.block(forward, name="scaled", type="affine")
        block.add_parameter("gain", (2,), "constant", 3.0)
        block.add_buffer("offset", (2,), 1.0)
        block.linear(4, 2, bias=False)
        model.finish(1)
        self.assertEqual(list(model.parameters(buffers=True)), ["scaled.gain", "scaled.0.weight", "scaled.offset"])
        x = libkd.Tensor([[1.0, 0.0, 0.0, 0.0]])
        weight = model.find("scaled.0.weight").tensor.tolist()
        tape = libkd.Tape()
        y = model(tape, x)
        self.near(y, [[3 * w + 1 for w in weight[0]]])
        tape.sum(y).backward()
        self.near(model.grad("scaled.gain"), weight[0])
        self.assertIn("affine", model.summary((1, 4)))
        twin = model.clone()
        model.close()
        gc.collect()
        self.near(twin.predict(x), [[3 * w + 1 for w in weight[0]]])

    def test_they_go_with_the_last_model(self):
        class Forward:
            def __call__(self, layer, tape, x):
                return tape.neg(x)

        forward = Forward()
        gone = weakref.ref(forward)
        model = libkd.Model()
        model.root.block(forward)
        model.finish()
        twin = model.clone()
        del forward, model
        gc.collect()
        self.assertEqual(twin.predict(libkd.Tensor([[1.0]])).tolist(), [[-1.0]])
        self.assertIsNotNone(gone())
        del twin
        gc.collect()
        self.assertIsNone(gone())

    def test_exceptions_come_out(self):
        class Mine(Exception):
            pass

        def fails(layer, tape, x):
            raise Mine("here")

        model = libkd.Model()
        model.root.block(fails)
        model.finish()
        tape = libkd.Tape()
        with self.assertRaises(Mine):
            model(tape, [[1.0]])
        tape.reset()
        model = libkd.Model()
        model.root.block(lambda layer, tape, x: 3, name="odd")
        model.finish()
        with self.assertRaises(TypeError) as caught:
            model(tape, [[1.0]])
        self.assertIn("forward returned int", str(caught.exception))
        tape.reset()
        model = libkd.Model()
        model.root.block(lambda layer, tape, x: x @ x, name="square")
        model.finish()
        with self.assertRaises(libkd.KdArgumentError) as caught:
            model(tape, [[1.0, 2.0]])
        self.assertIn("square: ", str(caught.exception))
        with self.assertRaises(libkd.KdError):
            libkd.Model().root.linear(1, 1).block(fails)


class Use(TestCase):
    def test_zoo(self):
        self.assertEqual(list(zoo.mlp([4, 8, 2], "tanh", 3).parameters()), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])
        self.assertEqual(zoo.cnn(1, height=8, width=8, hidden=16, classes=5).predict(libkd.Tensor.zeros((2, 8, 8, 1))).shape,
                         (2, 5))
        vit = zoo.vit(1, image=8, patch=4, width=12, depth=1, heads=2, classes=5, distilled=True)
        self.assertEqual(vit.predict(libkd.Tensor.zeros((2, 8, 8, 3))).shape, (2, 5))
        resnet = zoo.resnet_cifar(8, classes=7)
        self.assertIn("layer2.0.downsample.0.weight", resnet.parameters())
        with self.assertRaises(libkd.KdArgumentError):
            zoo.resnet_cifar(9)
        self.assertIn("wrn_16_2", zoo.names())
        self.assertIn("block1.layer.0.convShortcut.weight", zoo.create("wrn_16_2", 7).parameters())
        self.assertEqual(list(zoo.wrn(10, 1, 5).parameters())[-1], "fc.bias")
        with libkd.Context(threads=1) as ctx:
            zoo.mlp([2, 2], context=ctx).predict(libkd.Tensor.zeros((1, 2)))

    def test_taps(self):
        model = zoo.resnet_cifar(8)
        model.tap("layer2")
        model.tap("layer3:pre")
        tape = libkd.Tape("infer")
        model(tape, libkd.Tensor.full((1, 32, 32, 3), 0.1))
        self.assertEqual(model.tapped(tape, "layer2").shape, (1, 16, 16, 32))
        self.assertEqual(model.tapped(tape, "layer3:pre").shape, (1, 8, 8, 64))
        with self.assertRaises(libkd.KdArgumentError) as caught:
            model.tap("layer9")
        self.assertIn("layer", str(caught.exception))
        tape.reset()
        with self.assertRaises(libkd.KdStateError):
            model.tapped(tape, "layer1")

    def test_parameters_and_blocks_of_memory(self):
        model = zoo.mlp([3, 4, 2], seed=1)
        self.assertEqual(model.size, 3 * 4 + 4 + 4 * 2 + 2)
        info = model.find("fc2.weight")
        self.assertEqual((info.tensor.shape, info.grad.shape, info.is_buffer, info.file_axes), ((4, 2), (4, 2), False, (1, 0)))
        weights = model.weights
        self.assertEqual(weights[info.offset], info.tensor.get(0, 0))
        weights[info.offset] = 0.25
        model.touch()
        self.assertEqual(model.parameters()["fc2.weight"].get(0, 0), 0.25)
        self.assertEqual(len(model.grads), len(weights))
        self.assertEqual(len(model.buffers), 0)
        tape = libkd.Tape()
        tape.sum(model(tape, libkd.Tensor.full((1, 3), 1.0))).backward()
        self.assertEqual(model.grad("fc2.bias").tolist(), [1.0, 1.0])
        self.assertEqual(model.grads[model.find("fc2.bias").offset], 1.0)
        self.assertAlmostEqual(libkd.clip_grad_norm(model, 1e9), sum(g * g for g in model.grads) ** 0.5, 5)
        libkd.clip_grad_norm([model], 1.0)
        self.assertAlmostEqual(sum(g * g for g in model.grads), 1.0, 4)
        model.zero_grads()
        self.assertEqual(sum(model.grads), 0.0)
        model.initialize("*.bias", "constant", 0.5)
        self.assertEqual(model.find("fc1.bias").tensor.tolist(), [0.5] * 4)
        with self.assertRaises(libkd.KdArgumentError):
            model.initialize("nothing*", "zeros")
        with self.assertRaises(libkd.KdArgumentError):
            model.find("fc9.weight")
        with self.assertRaises(libkd.KdStateError):
            libkd.Model().weights

    def test_views_survive_the_model(self):
        model = zoo.mlp([3, 4, 2], seed=1)
        weights, parameter = model.weights, model.find("fc1.weight").tensor
        want = weights.tolist()
        model.close()
        del model
        gc.collect()
        [zoo.mlp([3, 4, 2], seed=2) for _ in range(20)]
        self.assertEqual(weights.tolist(), want)
        self.assertEqual(parameter.get(0, 0), want[0])

    def test_freeze_copy_norm_convolution(self):
        a, b = zoo.mlp([3, 4, 2], seed=1), zoo.mlp([3, 4, 2], seed=2)
        x = libkd.Tensor([[1.0, 2.0, 3.0]])
        self.assertNotEqual(a.predict(x).tolist(), b.predict(x).tolist())
        b.copy(a)
        self.assertEqual(a.predict(x).tolist(), b.predict(x).tolist())
        self.assertFalse(a.frozen)
        a.freeze()
        self.assertTrue(a.frozen)
        tape = libkd.Tape()
        with self.assertRaises(libkd.KdError):
            tape.sum(a(tape, x)).backward()
            raise libkd.KdStateError(-16, "no gradient was wanted")
        self.assertEqual(sum(a.grads), 0.0)
        a.freeze(False)
        a.set_input_norm([1.0, 2.0, 3.0], [2.0] * 3)
        self.near(a.predict(x), b.predict(libkd.Tensor([[0.0, 0.0, 0.0]])))
        a.set_input_norm()
        self.assertEqual(a.predict(x).tolist(), b.predict(x).tolist())
        zoo.cnn().set_convolution("winograd4")
        with self.assertRaises(libkd.KdArgumentError):
            b.copy(zoo.mlp([3, 5, 2]))

    def test_files(self):
        model = zoo.resnet_cifar(8, seed=4)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.safetensors")
            model.save(path)
            other = zoo.resnet_cifar(8, seed=5)
            other.load(path)
            self.assertEqual(other.weights.tolist(), model.weights.tolist())
            saved = libkd.io.load_safetensors(path)
            state = model.state()
            self.assertEqual(set(saved), set(state))
            for name, tensor in state.items():
                self.assertEqual((saved[name].shape, saved[name].tolist()), (tensor.shape, tensor.tolist()), name)
            self.assertEqual(saved["conv1.weight"].shape, (16, 3, 3, 3))
            third = zoo.resnet_cifar(8, seed=6)
            third.load_state(saved)
            self.assertEqual(third.weights.tolist(), model.weights.tolist())
            self.assertEqual(third.buffers.tolist(), model.buffers.tolist())
            with self.assertRaises(libkd.KdError) as caught:
                zoo.mlp([3, 2]).load(path)
            self.assertIn("fc1.weight", str(caught.exception))
            with self.assertRaises(libkd.KdIOError) as caught:
                model.load(os.path.join(folder, "none"))
            self.assertEqual(caught.exception.errno, 2)
            with self.assertRaises(libkd.KdIOError):
                model.save(os.path.join(folder, "no", "folder"))
            del saved["fc.bias"]
            before = third.weights.tolist()
            with self.assertRaises(libkd.KdArgumentError) as caught:
                third.load_state(dict(saved, extra=libkd.Tensor([1.0])))
            self.assertIn("missing: fc.bias; unexpected: extra", str(caught.exception))
            with self.assertRaises(libkd.KdArgumentError) as caught:
                third.load_state({"fc.bias": libkd.Tensor([1.0])}, missing_ok=True)
            self.assertIn("fc.bias: shape [1], the model needs [10]", str(caught.exception))
            self.assertEqual(third.weights.tolist(), before)
            third.load_state(dict(saved, extra=libkd.Tensor([1.0])), missing_ok=True, extra_ok=True)
            libkd.io.save_safetensors(path, saved)
            third.load(path, missing_ok=True)


if __name__ == "__main__":
    unittest.main()
