"""test_process - libkd as a guest of the Python process: fork and spawn, the GIL, Ctrl-C, subinterpreters, exit, garbage, memory.

SPDX-License-Identifier: MIT
"""
import array
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import unittest

from support import TestCase, environment, libkd, matrix, random_rows, run_python

from libkd import loss, zoo


def train_a_little(seed):
    """What a worker does: threads, a loader that runs ahead, a model."""
    data = libkd.Dataset(libkd.Tensor(random_rows(64, 8, 5), dtype="f32"), [i % 3 for i in range(64)])
    model = zoo.mlp([8, 16, 3], seed=seed)
    opt, tape = libkd.Optimizer("sgd", model, lr=0.1), libkd.Tape()
    for x, y in libkd.Loader(data, batch=16, seed=seed):
        with tape:
            libkd.LossDistill(hard_weight=1.0, soft_weight=0.0)(tape, model(tape, x), None, y).backward()
        opt.step()
    big = libkd.Tensor.full((256, 256), 0.5)
    libkd.Tape("infer").matmul(big, big)            # large enough for the pool
    return array.array("f", model.weights).tobytes()


# Written into a file, so that spawned children can import it.
SPAWN = """
import multiprocessing, sys
sys.path.insert(0, {tests!r})
from test_process import train_a_little
if __name__ == "__main__":
    want = train_a_little(3)
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        got = pool.map(train_a_little, [3, 3, 3, 3])
    assert got == [want] * 4, "workers computed something else"
    print("same bits")
"""


class Multiprocessing(TestCase):
    def run_pool(self, method):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, "pool.py")
            with open(script, "w") as f:
                f.write(SPAWN.format(tests=os.path.dirname(os.path.abspath(__file__)), method=method))
            done = subprocess.run([sys.executable, script], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  universal_newlines=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout), (0, "same bits\n"), done.stderr)

    @unittest.skipUnless("fork" in multiprocessing.get_all_start_methods(), "no fork")
    def test_fork(self):
        self.run_pool("fork")

    def test_spawn(self):
        self.run_pool("spawn")

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_objects_of_the_parent_in_a_forked_child(self):
        """A loader with its thread running, a model, a tape: the child uses them and exits cleanly; so does the parent."""
        out = run_python("""
import os, libkd
from libkd import zoo
data = libkd.Dataset(libkd.Tensor.full((64, 8), 0.5), range(64))
loader = libkd.Loader(data, batch=8, seed=1, ahead=4)
model, tape = zoo.mlp([8, 3]), libkd.Tape("infer")
first = loader.next()[1].tolist()
pid = os.fork()
rest = [y.tolist() for x, y in loader]
value = model(tape, libkd.Tensor.full((1, 8), 1.0)).tolist()
if pid == 0:
    print("child", rest, value, flush=True)
else:
    os.waitpid(pid, 0)
    print("parent", rest, value, flush=True)
""")
        child, parent = out.strip().split("\n")
        self.assertEqual(child.split(" ", 1)[1], parent.split(" ", 1)[1])


class Gil(TestCase):
    def test_it_is_released_during_a_call(self):
        """While one call runs, this thread counts on; its count stands still if the call holds the GIL."""
        rows = libkd.Tensor.full((512, 4096), 0.25)
        context = libkd.Context(threads=1)
        stop = threading.Event()
        spans = []

        def work():
            tape = libkd.Tape("infer", context=context)
            while not stop.is_set():
                start = time.monotonic()
                tape.matmul(rows, rows, transpose_b=True)
                spans.append((start, time.monotonic()))
                tape.reset()

        ticks = []
        worker = threading.Thread(target=work)
        worker.start()
        end = time.monotonic() + 5
        while len(spans) < 20 and time.monotonic() < end:
            ticks.append(time.monotonic())
            time.sleep(0)
        stop.set()
        worker.join()
        start, finish = max(spans, key=lambda s: s[1] - s[0])
        during = sum(start < t < finish for t in ticks)
        self.assertGreater(during, 10, f"{during} ticks in a call of {finish - start:.4f} s")

    def test_threads_share_a_loss_and_a_frozen_model(self):
        model = zoo.mlp([8, 32, 4], seed=1)
        model.freeze()
        s, t = matrix(random_rows(64, 10, 1)), matrix(random_rows(64, 10, 2))
        x = libkd.Tensor(random_rows(16, 8, 3), dtype="f32")
        want = (loss.kd(s, t).loss, model.predict(x).tolist())
        wrong = []

        def work():
            for _ in range(50):
                if (loss.kd(s, t).loss, model.predict(x).tolist()) != want:
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class CtrlC(TestCase):
    CODE = """
import os, signal, threading, time, libkd
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell's background job begins with it ignored
{setup}
def interrupt():
    time.sleep(0.15)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    {call}
    print("ran to its end")
except KeyboardInterrupt:
    print("stopped with", libkd.status_name(tape.status))
assert not libkd.cancelled()
tape.reset()
tape.relu([1.0])
print("usable")
"""
    # layers enough for many seconds in one call
    DEEP = """
model = libkd.Model(context={context})
for i in range({layers}):
    model.root.activation("gelu")
model.finish()
tape = libkd.Tape({mode!r}, context={context})
x = libkd.Tensor.full(({rows}, 1024), 0.01)
"""

    def run_code(self, setup, call, status="KD_ERR_CANCELLED"):
        done = run_python(self.CODE.format(setup=setup, call=call), check=False, KD_NUM_THREADS="1")
        self.assertEqual(done.stdout, f"stopped with {status}\nusable\n", done.stderr)

    def test_it_stops_a_forward(self):
        self.run_code(self.DEEP.format(context=None, mode="infer", layers=3000, rows=3000), "model(tape, x)")

    def test_it_stops_a_forward_in_a_context_of_its_own(self):
        setup = "ctx = libkd.Context(threads=1)" + self.DEEP.format(context="ctx", mode="infer", layers=3000, rows=3000)
        self.run_code(setup, "model(tape, x)")

    def test_it_stops_a_backward(self):
        setup = self.DEEP.format(context=None, mode="train", layers=200, rows=1500)
        self.run_code(setup + "x = tape.requires_grad(x)\ny = tape.sum(model(tape, x))\n", "tape.backward(y)")

    def test_it_stops_a_loop_of_short_calls(self):
        self.run_code("tape = libkd.Tape()\nx = libkd.Tensor([1.0])", "\n    while True:\n        with tape: tape.relu(x)", "KD_OK")

    def test_a_handler_of_your_own_lets_the_call_finish(self):
        out = run_python("""
import os, signal, threading, time, libkd
seen = []
signal.signal(signal.SIGINT, lambda *a: seen.append(1))
""" + self.DEEP.format(context=None, mode="infer", layers=20, rows=2000) + """
threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
deadline = time.monotonic() + 30
while not seen and time.monotonic() < deadline:
    with tape: model(tape, x)
print(seen)
""", KD_NUM_THREADS="1")
        self.assertEqual(out.strip(), "[1]")

    def test_the_wakeup_fd_of_others_is_left_as_it_was(self):
        out = run_python("""
import asyncio, os, signal, threading, libkd
from libkd import zoo
async def main():
    got = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
    model, tape = zoo.mlp([4, 2]), libkd.Tape()
    for _ in range(50):
        with tape: model(tape, libkd.Tensor.full((1, 4), 1.0))
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(got.wait(), 10)
    print("heard")
asyncio.run(main())
""")
        self.assertEqual(out.strip(), "heard")


class Interpreters(TestCase):
    def test_subinterpreters_work_or_are_refused(self):
        """Python's ctypes decides: where it loads, libkd works; where it does not, ImportError and no crash."""
        done = run_python("""
import sys
try:
    import _interpreters as xx
except ImportError:
    try:
        import _xxsubinterpreters as xx
    except ImportError:
        print("absent"); sys.exit()
code = '''
import sys
sys.path[:] = %r
try:
    import libkd
    from libkd import zoo
    m = zoo.mlp([4, 2]); t = libkd.Tape()
    m(t, libkd.Tensor.full((1, 4), 1.0)).tolist()
    print("works", flush=True)
except ImportError as error:
    print("refused", flush=True)
''' % (sys.path,)
import libkd
for _ in range(2):
    i = xx.create()
    run = getattr(xx, "run_string", None) or xx.exec
    failed = run(i, code)
    if failed: print(failed)
    xx.destroy(i)
print("main goes on", libkd.Tensor([1.0]).tolist())
""", check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = done.stdout.split("\n")
        if lines[0] == "absent":
            self.skipTest("this Python has no module for subinterpreters")
        self.assertIn(lines[:2], (["works", "works"], ["refused", "refused"]), done.stdout + done.stderr)
        self.assertEqual(lines[2], "main goes on [1.0]")

    def test_exit_with_live_objects(self):
        """Everything alive, in cycles, with threads running, at exit: no crash, no message."""
        done = run_python("""
import libkd, threading
from libkd import zoo
data = libkd.Dataset(libkd.Tensor.full((64, 8), 0.5), range(64))
loader = libkd.Loader(data, batch=8, ahead=8)
x, y = loader.next()
ctx = libkd.Context(log=lambda level, text: None)
def forward(layer, tape, x): return tape.neg(x)
model = libkd.Model(context=ctx); model.root.block(forward); model.root.linear(8, 4); model.finish()
opt, ema, tape = libkd.Optimizer("adam", model), libkd.Ema(model, 0.5), libkd.Tape(context=ctx)
z = model(tape, x)
view = z.view()
class Cycle: pass
c = Cycle(); c.all = [c, data, loader, model, opt, ema, tape, z, view, x, y]
def spin():
    t = libkd.Tape("infer")
    while True:
        with t: t.relu(libkd.Tensor.full((1000,), 1.0))
threading.Thread(target=spin, daemon=True).start()
big = libkd.Tensor.full((300, 300), 1.0)
libkd.Tape().matmul(big, big)
print("done")
""", check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "done\n", ""))

    def test_an_exception_at_top_level_and_sys_exit(self):
        done = run_python("import libkd, sys\nx = libkd.Loader(libkd.Dataset(libkd.Tensor.zeros((8, 2))))\n"
                          "x.next()\nsys.exit(7)", check=False)
        self.assertEqual((done.returncode, done.stderr), (7, ""))


class Garbage(TestCase):
    def test_collection_at_every_moment(self):
        """The collector runs all the time, in callbacks too, and objects go in any order."""
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for i in range(30):
                def forward(layer, tape, x):
                    gc.collect()
                    return tape.scale(x, 2.0)

                model = libkd.Model()
                model.root.block(forward)
                model.root.linear(4, 2)
                model.finish(i)
                data = libkd.Dataset(libkd.Tensor.full((8, 4), 1.0), [0] * 8)
                loader = libkd.Loader(data, batch=4)
                tape, opt = libkd.Tape(), libkd.Optimizer("sgd", model)
                everything = {"m": model, "d": data, "l": loader, "t": tape, "o": opt}
                everything["self"] = everything
                del model, data
                for x, y in loader:
                    with tape:
                        libkd.LossDistill(hard_weight=1.0, soft_weight=0.0)(tape, everything["m"](tape, x), None, y).backward()
                    opt.step()
                del loader, tape, opt, everything, x, y
                gc.collect()
        finally:
            gc.set_threshold(*threshold)

    def test_memory_does_not_grow(self):
        """100,000 calls of the loss, and 3,000 lives of everything else."""
        def rss():
            with open("/proc/self/statm") as f:
                return int(f.read().split()[1]) * resource.getpagesize()

        if not os.path.exists("/proc/self/statm"):
            self.skipTest("no /proc")
        s, t, y = matrix(random_rows(8, 10, 1)), matrix(random_rows(8, 10, 2)), array.array("q", [1] * 8)

        def losses(n):
            for _ in range(n):
                loss.kd(s, t, y, grad=True)

        def lives(n):
            x = libkd.Tensor.full((2, 4), 0.5)
            for _ in range(n):
                model, tape = zoo.mlp([4, 2]), libkd.Tape()
                tape.sum(model(tape, x)).backward()
                libkd.Optimizer("sgd", model).step()
                model.weights, model.parameters()
                tape.custom(lambda i, o: None, [x], [(1,)])
                with self.assertRaises(libkd.KdError):
                    tape.matmul(x, x)

        for work, n in ((losses, 100000), (lives, 3000)):
            work(n // 10)
            gc.collect()
            before = rss()
            work(n)
            gc.collect()
            self.assertLess(rss() - before, 2 << 20, work.__name__)


if __name__ == "__main__":
    unittest.main()
