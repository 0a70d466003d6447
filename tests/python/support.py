"""support - what the Python tests share.

SPDX-License-Identifier: MIT
"""
import array
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "python"
DIGITS = ROOT / "examples" / "data"
sys.path.insert(0, str(SOURCE))
# threads of OpenMP spin while they wait, and starve whoever else needs the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import libkd  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None
try:
    import torch
except ImportError:
    torch = None

needs_numpy = unittest.skipUnless(numpy, "no numpy")
needs_torch = unittest.skipUnless(torch, "no torch")
needs_cc = unittest.skipUnless(shutil.which(os.environ.get("CC", "cc")), "no C compiler")


def environment(**more):
    """The environment of a child that imports the same libkd."""
    env = dict(os.environ, PYTHONPATH=str(SOURCE), LIBKD_PATH=libkd.library_path())
    env.update(more)
    return env


def run_python(code, *, check=True, timeout=120, **env):
    """Run Python code in a process of its own; returns what it printed (or the process if not `check`)."""
    done = subprocess.run([sys.executable, "-c", code], env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=timeout)
    if not check:
        return done
    if done.returncode:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def run_c(text, *args):
    """Compile and run a C program against the headers; returns what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "t.c"), os.path.join(folder, "t")
        with open(source, "w") as f:
            f.write(text)
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", f"-I{ROOT / 'include'}", source, "-o", program, *args], check=True)
        return subprocess.run([program], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout


def matrix(rows):
    """Nested lists as a float32 memoryview [rows, columns]."""
    flat = array.array("f", [v for row in rows for v in row])
    return memoryview(flat).cast("B").cast("f", (len(rows), len(rows[0])))


def random_rows(rows, columns, seed, scale=2.0):
    rng = libkd.Rng(seed)
    return [[array.array("f", [scale * rng.normal()])[0] for _ in range(columns)] for _ in range(rows)]


def softmax(row, t=1.0):
    top = max(row)
    e = [math.exp((v - top) / t) for v in row]
    return [v / sum(e) for v in e]


class TestCase(unittest.TestCase):
    def near(self, a, b, tolerance=1e-6):
        """Numbers, nested lists or arrays that agree within tolerance * (1 + |b|)."""
        if hasattr(a, "tolist"):
            a = a.tolist()
        if hasattr(b, "tolist"):
            b = b.tolist()
        if isinstance(a, (list, tuple)):
            self.assertEqual(len(a), len(b))
            for x, y in zip(a, b):
                self.near(x, y, tolerance)
        else:
            self.assertLessEqual(abs(a - b), tolerance * (1 + abs(b)), f"{a} and {b}")
