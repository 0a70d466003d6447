"""test_training - data, loader, optimizer, schedules, averages, checkpoints, files: the parts of a run, and a run.

SPDX-License-Identifier: MIT
"""
import array
import math
import os
import tempfile
import unittest

from support import DIGITS, ROOT, TestCase, libkd, needs_numpy, numpy, random_rows

from libkd import io, zoo


def digits():
    return libkd.Dataset.from_idx(DIGITS / "digits-images.idx", DIGITS / "digits-labels.idx")


def accuracy(model, data, scale=1 / 16):
    right = 0
    tape = libkd.Tape("infer")
    for x, y in libkd.Loader(data, batch=256, shuffle=False, scale=scale):
        with tape:
            logits = model(tape, x).tolist()
        right += sum(max(range(len(row)), key=row.__getitem__) == label for row, label in zip(logits, y.tolist()))
    return right / len(data)


class Data(TestCase):
    def test_dataset(self):
        items = memoryview(array.array("B", range(24))).cast("B", (4, 2, 3))
        data = libkd.Dataset(items, [0, 1, 2, -1])
        self.assertEqual((len(data), data.item_shape, data.dtype, data.classes), (4, (2, 3), "u8", 3))
        item, label = data[1]
        self.assertEqual((item.tolist(), label), ([[6, 7, 8], [9, 10, 11]], 1))
        self.assertTrue(item.readonly)
        self.assertEqual(data[-1][1], -1)
        for bad in (4, -5):
            with self.assertRaises(IndexError):
                data[bad]
        data.labels[0] = 2
        self.assertEqual(data.labels.tolist(), [2, 1, 2, -1])
        part = data.subset([3, 0, 0])
        self.assertEqual((len(part), part[0][1], part[2][0].tolist()), (3, -1, [[0, 1, 2], [3, 4, 5]]))
        data.close()
        self.assertEqual(part[1][1], 2)
        self.assertIn("3 x u8 [2, 3]", repr(part))
        with self.assertRaises(ValueError):
            libkd.Dataset(items, [1])
        with self.assertRaises(TypeError):
            libkd.Dataset(array.array("d", [1.0]))
        with self.assertRaises(TypeError):
            libkd.Dataset(items, ["a"] * 4)

    def test_files(self):
        data = digits()
        self.assertEqual((len(data), data.item_shape, data.classes), (1797, (8, 8, 1), 10))
        with self.assertRaises(libkd.KdIOError):
            libkd.Dataset.from_idx("/nowhere")
        with self.assertRaises(libkd.KdFormatError):
            libkd.Dataset.from_idx(ROOT / "LICENSE")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "t.csv")
            with open(path, "w") as f:
                f.write("a;b;class\n1;2;0\n3;4;1\n")
            data = libkd.Dataset.from_csv(path, skip_lines=1, separator=";")
            self.assertEqual((data[1][0].tolist(), data.labels.tolist()), ([3.0, 4.0], [0, 1]))
            data = libkd.Dataset.from_csv(path, skip_lines=1, separator=";", label_column=None)
            self.assertEqual((data.item_shape, data.labels.tolist()), ((3,), [-1, -1]))
            self.assertEqual(io.load_csv(path, ";", 1).tolist(), [[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]])
            cifar = os.path.join(folder, "batch.bin")
            with open(cifar, "wb") as f:
                f.write(bytes([7]) + bytes(range(256)) * 12 + bytes([9]) + bytes(3072))
            data = libkd.Dataset.from_cifar([cifar])
            self.assertEqual((data.item_shape, data.labels.tolist(), data[0][0].tolist()[0][1]), ((32, 32, 3), [7, 9], [1, 1, 1]))
            os.makedirs(os.path.join(folder, "images", "cat"))
            os.makedirs(os.path.join(folder, "images", "dog"))
            for name, value in (("cat/1.ppm", 7), ("dog/1.ppm", 9)):
                with open(os.path.join(folder, "images", name), "wb") as f:
                    f.write(b"P6 4 2 255\n" + bytes([value] * 24))
            data = libkd.Dataset.from_folder(os.path.join(folder, "images"), height=2, width=2)
            self.assertEqual((data.item_shape, data.labels.tolist(), data.class_names), ((2, 2, 3), [0, 1], ["cat", "dog"]))
            self.assertEqual(data[1][0].tolist()[0][0], [9, 9, 9])
            loader = libkd.Loader(data, batch=2, cutmix_alpha=1.0, label_smoothing=0.1, randaugment_ops=2, erase_probability=0.5, ahead=0)
            self.assertEqual(loader.next()[1].shape, (2, 2))
            self.assertGreater(loader.waited, 0)

    def test_folder_with_a_decoder(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in (("a", b"own"), ("b", b"P6 2 1 255\n123456")):
                os.mkdir(os.path.join(folder, name))
                with open(os.path.join(folder, name, "1"), "wb") as file:
                    file.write(text)
            data = libkd.Dataset.from_folder(folder, decode=lambda file: (1, 2, b"abcdef") if file == b"own" else None)
            self.assertEqual((len(data), data.class_names), (2, ["a", "b"]))
            self.assertEqual([data[i][0].tolist() for i in range(2)], [[[list(b"abc"), list(b"def")]], [[list(b"123"), list(b"456")]]])
            with self.assertRaises(ZeroDivisionError):
                libkd.Dataset.from_folder(folder, decode=lambda file: 1 // 0)
            with self.assertRaisesRegex(ValueError, "1 bytes, an image of 1 x 2 has 6"):
                libkd.Dataset.from_folder(folder, decode=lambda file: (1, 2, b"a"))

    def test_loader(self):
        data = libkd.Dataset(libkd.Tensor([[float(i)] for i in range(10)]), range(10))
        loader = libkd.Loader(data, batch=4, seed=3)
        self.assertEqual((len(loader), loader.epoch), (3, 0))
        seen = []
        for x, y in loader:
            self.assertEqual([int(v) for (v,) in x.tolist()], y.tolist())
            self.assertEqual(loader.indices.tolist(), y.tolist())
            seen += y.tolist()
        self.assertEqual(sorted(seen), list(range(10)))
        self.assertEqual(loader.epoch, 1)
        second = [v for _, y in loader for v in y.tolist()]
        self.assertNotEqual(seen, second)
        again = libkd.Loader(data, batch=4, seed=3, ahead=0)
        self.assertEqual([v for _, y in again for v in y.tolist()], seen)
        scaled = next(iter(libkd.Loader(data, batch=2, shuffle=False, scale=2.0, mean=[1.0], std=0.5)))[0]
        self.assertEqual(scaled.tolist(), [[-2.0], [2.0]])
        mixed = next(iter(libkd.Loader(data, batch=4, mixup_alpha=0.4, classes=10)))[1]
        self.assertEqual(mixed.shape, (4, 10))
        with self.assertRaises(libkd.KdArgumentError):
            libkd.Loader(data, batch=0)
        with self.assertRaises(ValueError):
            libkd.Loader(data, mean=[1.0, 2.0], std=[1.0])
        with self.assertRaises(TypeError):
            libkd.Loader(data, colour=1)
        for break_early in range(3):
            for x, y in loader:
                break
        self.assertIn("batches", repr(loader))

    def test_rng(self):
        a = libkd.Rng(7)
        first = [a.u32() for _ in range(3)]
        b = libkd.Rng.from_state(a.key, 1)
        self.assertEqual([b.u32(), b.u32()], first[1:])
        self.assertEqual(b, a)
        import pickle

        self.assertEqual(pickle.loads(pickle.dumps(a)), a)
        self.assertNotEqual(a.split(1).u32(), a.split(2).u32())
        self.assertTrue(all(0 <= a.uniform() < 1 and 0 <= a.below(5) < 5 for _ in range(100)))
        self.assertLess(abs(sum(a.normal() for _ in range(2000)) / 2000), 0.1)
        items = list(range(20))
        a.shuffle(items)
        self.assertEqual(sorted(items), list(range(20)))
        # a known answer of Philox4x32-10 (Salmon et al., kat_vectors): all zeros
        self.assertEqual(libkd.rng.philox([0] * 4, [0] * 2), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8))
        with self.assertRaises(ValueError):
            a.below(0)


class Optimizers(TestCase):
    def test_sgd_by_hand(self):
        model = zoo.mlp([1, 1])
        model.initialize("*", "constant", 1.0)
        opt = libkd.Optimizer("sgd", model, lr=0.1, momentum=0.5, schedule=libkd.Schedule("step", gamma=0.5, period=1))
        w, v = 1.0, 0.0
        for step in range(3):
            tape = libkd.Tape()
            tape.sum(model(tape, [[2.0]])).backward()
            v = 0.5 * v + 2.0 if step else 2.0
            w -= 0.1 * 0.5 ** step * v
            opt.step()
        self.near(model.find("fc1.weight").tensor.item(), w)
        self.assertEqual(opt.steps, 3)
        self.near(opt.lr, 0.1 * 0.125)
        opt.set_lr(0.4)
        self.near(opt.lr, 0.4 * 0.125)
        self.assertTrue(math.isnan(opt.grad_norm))

    def test_fields_and_errors(self):
        model = zoo.mlp([1, 1])
        opt = libkd.Optimizer("adamw", model, lr=1e-3, beta1=0.8, weight_decay=0.1, max_grad_norm=1.0)
        opt.group("*.bias", weight_decay=0.0)
        with self.assertRaises(libkd.KdArgumentError):
            opt.group("nothing")
        tape = libkd.Tape()
        tape.sum(model(tape, [[2.0]])).backward()
        opt.step()
        self.near(opt.grad_norm, 5 ** 0.5, 1e-5)
        with self.assertRaises(libkd.KdArgumentError):
            libkd.Optimizer("sgd", lr=-1.0)
        with self.assertRaises(libkd.KdStateError):
            opt.group("*")
        with self.assertRaises(libkd.KdStateError):
            libkd.Optimizer("sgd").step()
        with self.assertRaises(ValueError):
            libkd.Optimizer("hope")
        with self.assertRaises(TypeError):
            libkd.Optimizer("sgd", colour=1)

    def test_schedules(self):
        s = libkd.Schedule("cosine", total_steps=10, warmup_steps=2, final_factor=0.1)
        self.near([s.factor(0), s.factor(1), s.factor(2), s.factor(7), s.factor(12)], [0.0, 0.5, 1.0, 0.55, 0.1])
        m = libkd.Schedule("multi_step", milestones=[3, 5], gamma=0.1)
        self.near([m.factor(i) for i in (2, 3, 5)], [1.0, 0.1, 0.01])
        self.assertTrue(math.isnan(libkd.Schedule("cosine").factor(1)))
        with self.assertRaises(TypeError):
            libkd.Schedule("cosine", totl_steps=3)
        with self.assertRaises(libkd.KdArgumentError):
            libkd.Optimizer("sgd", schedule=libkd.Schedule("cosine"))

    def test_ema(self):
        model = zoo.mlp([1, 1])
        ema = libkd.Ema(model, 0.75)
        start = model.weights.tolist()
        model.initialize("*", "constant", 1.0)
        ema.update()
        with ema:
            self.near(model.weights[0], 0.75 * start[0] + 0.25)
        self.assertEqual(model.weights[0], 1.0)


class Files(TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = lambda name: os.path.join(folder.name, name)

    def test_safetensors(self):
        path = self.path("t.safetensors")
        io.save_safetensors(path, {"a": libkd.Tensor([[1.0, 2.0]]), "b": array.array("q", [1, 2, 3]),
                                   "c": libkd.Tensor([1], dtype="u8")},
                            {"who": "libkd"})
        with io.open_safetensors(path) as f:
            self.assertEqual((len(f), sorted(f), "a" in f, "z" in f, f.metadata("who"), f.metadata("x")),
                             (3, ["a", "b", "c"], True, False, "libkd", None))
            self.assertEqual((f.info("b").dtype, f.info("b").shape, f["a"].tolist(), f["b"].dtype),
                             ("I64", (3,), [[1.0, 2.0]], "i64"))
            out = array.array("f", [0.0] * 3)
            self.assertIs(f.read("b", out), out)
            self.assertEqual(out.tolist(), [1.0, 2.0, 3.0])
            with self.assertRaises(KeyError):
                f["z"]
            kept = f["a"]
        self.assertEqual(kept.tolist(), [[1.0, 2.0]])
        with self.assertRaises(libkd.KdStateError):
            f["a"]
        with open(path, "r+b") as f:
            f.truncate(50)
        with self.assertRaises(libkd.KdFormatError):
            io.open_safetensors(path)
        with self.assertRaises(libkd.KdArgumentError):
            io.save_safetensors(path, {"__metadata__": libkd.Tensor([1.0])})

    def test_npy(self):
        path = self.path("x.npy")
        for t in (libkd.Tensor([[1.0, 2.0], [3.0, 4.0]]), libkd.Tensor([1, 2]), libkd.Tensor(2.5),
                  libkd.Tensor([[1, 2]]).transpose(),
                  libkd.Tensor([1.0], dtype="f64")):
            io.save_npy(path, t)
            got = io.load_npy(path)
            self.assertEqual((got.tolist(), got.shape, got.dtype), (t.tolist(), t.shape, t.dtype))
            if numpy:
                self.assertEqual(numpy.load(path).tolist(), t.tolist())
        out = array.array("f", [0.0])
        io.load_npy(path, out)
        self.assertEqual(out[0], 1.0)
        with self.assertRaises(libkd.KdArgumentError):
            io.load_npy(path, array.array("f", [0.0, 1.0]))
        self.assertEqual(os.listdir(os.path.dirname(path)), ["x.npy"])

    def test_idx(self):
        self.assertEqual(io.load_idx(DIGITS / "digits-images.idx").shape[1:], (8, 8))

    def test_checkpoint_resumes_to_the_same_bits(self):
        path = self.path("run.kd")

        def run(steps, stop=None, resume=False):
            model = libkd.Model()
            model.root.flatten()
            model.root.linear(64, 16, name="fc1")
            model.root.dropout(0.2)
            model.root.linear(16, 10, name="fc2")
            model.finish(1)
            loader = libkd.Loader(digits(), seed=2, scale=1 / 16, shift=1)
            opt, ema, tape = libkd.Optimizer("adam", model, lr=1e-2), libkd.Ema(model, 0.9), libkd.Tape()
            tape.seed(9)
            loss = libkd.LossDistill(hard_weight=1.0, soft_weight=0.0)
            count = array.array("q", [0])
            cp = libkd.Checkpoint(model=model, opt=opt, ema=ema, loader=loader, tape=tape, loss=loss, count=count)
            if resume:
                cp.load(path)
            while count[0] < steps:
                batch = loader.next()
                if batch is None:
                    continue
                with tape:
                    loss(tape, model(tape, batch[0]), None, batch[1]).backward()
                opt.step()
                ema.update()
                count[0] += 1
                if count[0] == stop:
                    cp.save(path)
                    return None
            with ema:
                averaged = model.weights.tolist()
            return model.weights.tolist() + averaged

        want = run(40)
        self.assertIsNone(run(40, stop=17))
        self.assertEqual(run(40, resume=True), want)
        with open(path, "r+b") as f:
            f.seek(200)
            f.write(b"\xff\xff")
        with self.assertRaises(libkd.KdFormatError):
            run(40, resume=True)
        with self.assertRaises(libkd.KdIOError):
            libkd.Checkpoint().load(self.path("none"))
        with self.assertRaises(TypeError):
            libkd.Checkpoint(data=digits())
        with self.assertRaises(TypeError):
            libkd.Checkpoint(data=b"read-only")

    def test_a_checkpoint_keeps_what_it_needs(self):
        cp = libkd.Checkpoint()
        cp.add("model", zoo.mlp([4, 2], seed=1))
        cp.add("count", bytearray(8))
        [zoo.mlp([4, 2], seed=2) for _ in range(10)]
        cp.save(self.path("c.kd"))
        other = zoo.mlp([4, 2], seed=3)
        libkd.Checkpoint(model=other, count=bytearray(8)).load(self.path("c.kd"))
        self.assertEqual(other.weights.tolist(), zoo.mlp([4, 2], seed=1).weights.tolist())


class Run(TestCase):
    def test_a_student_learns_from_its_teacher(self):
        """Digits: the teacher learns from the labels, the student from the teacher alone."""
        data = digits()
        order = list(range(len(data)))
        libkd.Rng(1).shuffle(order)
        train, test = data.subset(order[:1400]), data.subset(order[1400:])

        def learn(model, teacher, epochs):
            loss = libkd.LossDistill(temperature=2.0, hard_weight=0.0 if teacher else 1.0, soft_weight=1.0 if teacher else 0.0)
            opt = libkd.Optimizer("adam", model, lr=3e-3)
            look, tape = libkd.Tape("infer"), libkd.Tape()
            for _ in range(epochs):
                for x, y in libkd.Loader(train, scale=1 / 16):
                    with look, tape:
                        loss(tape, model(tape, x), teacher and teacher(look, x), y).backward()
                    opt.step()

        teacher = zoo.mlp([64, 64, 10], seed=1)
        learn(teacher, None, 12)
        teacher.freeze()
        student = zoo.mlp([64, 16, 10], seed=2)
        before = accuracy(student, test)
        learn(student, teacher, 12)
        self.assertGreater(accuracy(teacher, test), 0.93)
        self.assertGreater(accuracy(student, test), 0.88)
        self.assertLess(before, 0.3)

    @needs_numpy
    def test_numpy_in_and_out(self):
        model = zoo.mlp([4, 8, 3], seed=1)
        x = numpy.array(random_rows(5, 4, 1), "f4")
        tape = libkd.Tape("infer")
        want = numpy.asarray(model(tape, x))
        w = {name: numpy.asarray(t) for name, t in model.state().items()}
        hidden = numpy.maximum(x @ w["fc1.weight"].T + w["fc1.bias"], 0)
        numpy.testing.assert_allclose(want, hidden @ w["fc2.weight"].T + w["fc2.bias"], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
