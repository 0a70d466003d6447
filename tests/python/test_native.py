"""test_native - finding the library, errors and their exceptions, threads.

SPDX-License-Identifier: MIT
"""
import gc
import os
import pickle
import subprocess
import tempfile
import threading
import unittest

from support import TestCase, libkd, needs_cc, run_python

from libkd import errors


class Finding(TestCase):
    def test_an_explicit_path_is_the_only_one_tried(self):
        done = run_python("import libkd", check=False, LIBKD_PATH="/nowhere/libkd.so")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("ImportError", done.stderr)
        self.assertIn("/nowhere/libkd.so: no such file", done.stderr)
        self.assertEqual(done.stderr.count("no such file"), 1)

    def test_a_folder_tries_each_name(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run_python("import libkd", check=False, LIBKD_PATH=folder)
            self.assertIn(os.path.join(folder, "libkd.so.0") + ": no such file", done.stderr)
            self.assertIn(os.path.join(folder, "libkd.so") + ": no such file", done.stderr)
            self.assertIn("LIBKD_PATH", done.stderr)
            os.symlink(libkd.library_path(), os.path.join(folder, "libkd.so"))
            self.assertEqual(run_python("import libkd; print(libkd.library_path())", LIBKD_PATH=folder).strip(),
                             os.path.join(folder, "libkd.so"))

    def test_a_broken_file_says_what_the_loader_said(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as f:
            f.write(b"not a library")
            f.flush()
            done = run_python("import libkd", check=False, LIBKD_PATH=f.name)
            self.assertIn(f.name, done.stderr)
            self.assertIn("ImportError: libkd is not to be found", done.stderr)

    @needs_cc
    def test_another_abi_is_refused_with_both_numbers(self):
        with tempfile.TemporaryDirectory() as folder:
            for text, words in (("int kd_abi_version(void) { return 77; }", ("ABI 77", "ABI 0")),
                                ("int other(void) { return 0; }", ("is not libkd", "ABI 0"))):
                source, library = os.path.join(folder, "t.c"), os.path.join(folder, "libkd.so")
                with open(source, "w") as f:
                    f.write(text)
                subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", source, "-o", library], check=True)
                done = run_python("import libkd", check=False, LIBKD_PATH=library)
                self.assertIn("ImportError", done.stderr)
                for word in (*words, library):
                    self.assertIn(word, done.stderr)

    def test_the_core_needs_the_standard_library_only(self):
        out = run_python("import sys, libkd, libkd.zoo, libkd.io, libkd.ops; libkd.Model\n"
                         "libkd.loss.softmax(libkd.Tensor([[1., 2.]]))\n"
                         "print([m for m in ('numpy', 'torch') if m in sys.modules])")
        self.assertEqual(out.strip(), "[]")


class Errors(TestCase):
    BUILTINS = {-1: ValueError, -2: ValueError, -3: TypeError, -4: IndexError, -5: MemoryError, -6: OSError, -7: ValueError,
                -8: ValueError, -9: NotImplementedError, -10: ValueError, -11: ValueError, -12: ArithmeticError, -13: ValueError,
                -14: ValueError, -15: RuntimeError, -16: RuntimeError}

    def test_each_status_has_an_exception(self):
        for status in range(-16, 0):
            error = errors.error_for(status, "the text")
            self.assertIsInstance(error, libkd.KdError)
            self.assertIsInstance(error, RuntimeError)
            self.assertIsInstance(error, self.BUILTINS[status], status)
            self.assertEqual((error.status, error.message, str(error)), (status, "the text", "the text"))
            self.assertTrue(libkd.status_name(status).startswith("KD_ERR_"))
        self.assertEqual(libkd.status_name(-2), "KD_ERR_SHAPE")

    def test_they_can_be_pickled(self):
        for status in range(-17, 0):
            error = errors.error_for(status, "the text", 2, "/some/file")
            again = pickle.loads(pickle.dumps(error))
            self.assertIs(type(again), type(error))
            self.assertEqual((again.status, str(again)), (status, "the text"))
            self.assertEqual(getattr(again, "errno", None), getattr(error, "errno", None))
            self.assertEqual(getattr(again, "filename", None), getattr(error, "filename", None))

    def test_a_missing_file(self):
        with self.assertRaises(libkd.KdIOError) as caught:
            libkd.io.load_npy("/nowhere/at/all.npy")
        self.assertEqual(caught.exception.errno, 2)
        self.assertEqual(caught.exception.filename, "/nowhere/at/all.npy")
        self.assertIn("/nowhere/at/all.npy", str(caught.exception))
        self.assertIsInstance(caught.exception, OSError)

    def test_eight_threads_have_each_their_own_text(self):
        wrong, barrier = [], threading.Barrier(8)

        def work(k):
            barrier.wait()
            for i in range(200):
                try:
                    libkd.Tape().reshape(libkd.Tensor.zeros((2, 3)), (k + 7,))
                except libkd.KdError as error:
                    if f"[{k + 7}]" not in str(error):
                        wrong.append((k, str(error)))
                else:
                    wrong.append((k, "no error"))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong[:3], [])

    def test_closed_objects(self):
        model = libkd.zoo.mlp([4, 3, 2])
        data = libkd.Dataset(libkd.Tensor.zeros((8, 4)))
        for thing, use in ((model, lambda: model.size), (libkd.Tape(), None), (libkd.LossDistill(), None),
                           (libkd.Optimizer("sgd", model), None), (data, lambda: len(data)), (libkd.Loader(data), None),
                           (libkd.Context(), None), (libkd.Tensor([1.0]), None), (libkd.io.Checkpoint(), None)):
            self.assertFalse(thing.closed)
            thing.close()
            thing.close()
            self.assertTrue(thing.closed)
            with self.assertRaises(libkd.KdStateError) as caught:
                thing._h if use is None else use()
            self.assertIn("is closed", str(caught.exception))
            repr(thing)

    def test_objects_that_are_needed_outlive_close(self):
        data = libkd.Dataset(libkd.Tensor.full((8, 4), 3.0), range(8))
        loader = libkd.Loader(data, batch=8, shuffle=False, ahead=2)
        data.close()
        x, y = next(iter(loader))
        self.assertEqual(y.tolist(), list(range(8)))
        self.assertEqual(x.get(7, 3), 3.0)
        ctx = libkd.Context(threads=1)
        t = libkd.Tensor.full((3,), 2.0, context=ctx)
        view = t.view()
        ctx.close()
        t.close()
        self.assertEqual(view.tolist(), [2.0, 2.0, 2.0])

    def test_not_copied_nor_pickled_by_accident(self):
        import copy

        with self.assertRaises(TypeError):
            copy.copy(libkd.Tape())
        with self.assertRaises(TypeError):
            pickle.dumps(libkd.LossDistill())


class Tracked:
    """A context whose allocations are known: what is alive, by address."""

    def __init__(self):
        import ctypes

        self.held, self.libc = {}, ctypes.CDLL(None)
        self.libc.aligned_alloc.restype = ctypes.c_void_p
        self.libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.context = libkd.Context(allocator=(self.alloc, self.free), threads=1)

    def alloc(self, size, align):
        ptr = self.libc.aligned_alloc(align, -(-size // align) * align)
        self.held[ptr] = size
        return ptr

    def free(self, ptr, size):
        if self.held.pop(ptr) != size:
            raise AssertionError("freed with another size")
        self.libc.free(ptr)

    def covers(self, address):
        return any(start <= address < start + size for start, size in self.held.items())


class Lifetimes(TestCase):
    """Not by luck of the allocator: what still needs memory has it, and nothing is held for longer."""

    def address(self, view):
        import ctypes

        return ctypes.addressof(ctypes.c_char.from_buffer(view))

    def test_views_hold_the_memory(self):
        for make in (lambda c: libkd.zoo.mlp([8, 4], context=c), lambda c: libkd.Tensor.zeros((100,), context=c)):
            tracked = Tracked()
            thing = make(tracked.context)
            view = thing.weights if isinstance(thing, libkd.Model) else thing.view()
            thing.close()
            del thing
            gc.collect()
            self.assertTrue(tracked.covers(self.address(view)))
            del view
            gc.collect()
            tracked.context.close()
            self.assertEqual(tracked.held, {})

    def test_a_parameter_a_layer_a_tapes_tensor(self):
        tracked = Tracked()
        model, tape = libkd.zoo.mlp([8, 4], context=tracked.context), libkd.Tape(context=tracked.context)
        y = model(tape, libkd.Tensor.full((1, 8), 1.0))
        parameter, layer = model.find("fc1.weight").tensor, model.layer("fc1")
        model.close()
        tape.close()
        gc.collect()
        self.assertTrue(tracked.covers(parameter.data_address) and tracked.covers(y.data_address))
        self.assertEqual(layer.path, "fc1")
        del model, tape, y, parameter, layer
        tracked.context.close()
        gc.collect()
        self.assertEqual(tracked.held, {})

    def test_what_a_loader_an_optimizer_a_checkpoint_needs(self):
        tracked = Tracked()
        items = libkd.Tensor.full((8, 4), 1.0, context=tracked.context)
        data = libkd.Dataset(items, range(8), context=tracked.context)
        loader = libkd.Loader(data, ahead=0, context=tracked.context)
        model = libkd.zoo.mlp([4, 2], context=tracked.context)
        opt, ema = libkd.Optimizer("sgd", model, context=tracked.context), libkd.Ema(model, 0.5)
        cp = libkd.Checkpoint(context=tracked.context, loader=loader, opt=opt, ema=ema)
        before = dict(tracked.held)
        for thing in (items, data, loader, model, opt, ema):
            thing.close()
        del items, data, loader, model, opt, ema, thing
        gc.collect()
        self.assertEqual(tracked.held, before)
        cp.close()
        tracked.context.close()
        gc.collect()
        self.assertEqual(tracked.held, {})


class Contexts(TestCase):
    def test_fields(self):
        with libkd.Context(threads=1, isa="scalar") as ctx:
            self.assertEqual((ctx.threads, ctx.isa), (1, "scalar"))
            self.assertIn("scalar", repr(ctx))
        with self.assertRaises(libkd.KdArgumentError):
            libkd.Context(isa=99)
        with self.assertRaises(ValueError):
            libkd.Context(isa="pentium")
        with self.assertRaises(TypeError):
            libkd.Context(colour=3)
        self.assertIn(libkd.isa(), ("scalar", "neon", "avx2", "avx512"))
        self.assertGreaterEqual(libkd.threads(), 1)

    def test_cancel(self):
        with libkd.Context() as ctx:
            tape = libkd.Tape(context=ctx)
            ctx.cancel()
            self.assertTrue(ctx.cancelled)
            with self.assertRaises(libkd.KdCancelled):
                tape.relu(libkd.Tensor([1.0]))
            ctx.resume()
            tape.reset()
            self.assertEqual(tape.relu(libkd.Tensor([1.0])).tolist(), [1.0])
        libkd.cancel()
        self.assertTrue(libkd.cancelled())
        libkd.resume()
        self.assertFalse(libkd.cancelled())

    def test_log(self):
        lines = []
        os.environ["KD_NUM_THREADS"] = "many"
        try:
            with libkd.Context(log=lambda level, text: lines.append((level, text)), log_level="warn"):
                pass
        finally:
            del os.environ["KD_NUM_THREADS"]
        self.assertEqual(len(lines), 1)
        self.assertEqual(lines[0][0], 2)
        self.assertIn("KD_NUM_THREADS", lines[0][1])

    def test_an_exception_in_the_log_is_raised_by_the_call(self):
        def log(level, text):
            raise LookupError(text)

        os.environ["KD_NUM_THREADS"] = "many"
        try:
            with self.assertRaises(LookupError):
                libkd.Context(log=log)
        finally:
            del os.environ["KD_NUM_THREADS"]

    def test_a_parallel_loop_of_the_hosts(self):
        calls = []

        def parallel(n, task):
            calls.append(n)
            for i in reversed(range(n)):
                task(i)

        x = libkd.Tensor.full((512, 512), 0.5)
        with libkd.Context(parallel=parallel, threads=4) as ctx:
            mine = libkd.Tape("infer", context=ctx).matmul(x, x).tolist()
        self.assertTrue(calls)
        self.assertEqual(mine, libkd.Tape("infer").matmul(x, x).tolist())

        def lazy(n, task):
            raise LookupError("no")

        with libkd.Context(parallel=lazy, threads=4) as ctx:
            tape = libkd.Tape("infer", context=ctx)
            with self.assertRaises(LookupError):           # all the same every task was done
                tape.matmul(x, x)
                libkd.Tensor([1.0])

    def test_an_allocator(self):
        tracked = Tracked()
        t = libkd.Tensor.zeros((100,), context=tracked.context)
        self.assertGreaterEqual(len(tracked.held), 2)
        del t
        tracked.context.close()
        self.assertEqual(tracked.held, {})
        alloc, free = tracked.alloc, tracked.free
        with libkd.Context(allocator=(lambda size, align: alloc(size, align) if size < 10000 else 0, free)) as ctx:
            with self.assertRaises(MemoryError):
                libkd.Tensor.zeros((10000,), context=ctx)


if __name__ == "__main__":
    unittest.main()
