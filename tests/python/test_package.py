"""test_package - the wheel, and the command line.

SPDX-License-Identifier: MIT
"""
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

from support import DIGITS, ROOT, SOURCE, TestCase, environment, libkd

spec = importlib.util.spec_from_file_location("kd_build", SOURCE / "kd_build.py")
kd_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kd_build)

needs_make = unittest.skipUnless(shutil.which("make"), "no make")


def run(*args, **env):
    return subprocess.run(args, env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


class Project(TestCase):
    def test_pyproject_is_what_the_backend_says(self):
        try:
            import tomllib
        except ImportError:
            self.skipTest("tomllib comes with Python 3.11")
        with open(ROOT / "pyproject.toml", "rb") as f:
            table = tomllib.load(f)
        self.assertEqual(table["build-system"], {"requires": [], "build-backend": "kd_build", "backend-path": ["src/python"]})
        for key in ("name", "description", "readme", "requires-python", "license"):
            self.assertEqual(table["project"][key], kd_build.project(key))
        self.assertEqual(table["project"]["dynamic"], ["version"])
        self.assertNotIn("dependencies", table["project"])

    def test_tags_are_honest(self):
        tag = kd_build.platform_tag
        plain = tag(b"")
        self.assertNotIn("manylinux", plain)
        if not plain.startswith("linux_"):
            self.skipTest("not Linux")
        machine = plain[len("linux_"):]
        self.assertEqual(tag(b"\0libm.so.6\0libc.so.6\0libkd.so.0\0GLIBC_2.2.5\0GLIBC_2.34\0"), f"manylinux_2_34_{machine}")
        self.assertEqual(tag(b"\0libc.so.6\0GLIBC_2.2.5\0"), f"manylinux_2_17_{machine}")
        self.assertEqual(tag(b"\0libc.so.6\0libblis.so.4\0GLIBC_2.2.5\0"), plain)


@needs_make
class Wheel(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.wheel = os.path.join(cls.folder.name, kd_build.build_wheel(cls.folder.name))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_contents(self):
        self.assertRegex(os.path.basename(self.wheel), rf"^libkd-{re.escape(libkd.version())}-py3-none-\w+\.whl$")
        with zipfile.ZipFile(self.wheel) as z:
            names = z.namelist()
            lines = z.read(f"libkd-{libkd.version()}.dist-info/RECORD").decode().split("\n")
            record = {line.split(",")[0]: line for line in lines if line}
            self.assertEqual(set(record), set(names))
            for name in names:
                if not name.endswith("RECORD"):
                    digest = hashlib.sha256(z.read(name)).digest()
                    import base64

                    self.assertIn(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), record[name])
            package = {f"libkd/{p.name}" for p in (SOURCE / "libkd").iterdir() if p.suffix == ".py" or p.name == "py.typed"}
            self.assertTrue(package <= set(names))
            self.assertTrue({"libkd/_lib/libkd.so.0", "libkd/_data/digits-images.idx", "libkd/_data/README.md"} <= set(names))
            self.assertEqual(z.read("libkd/_data/digits-labels.idx"), (DIGITS / "digits-labels.idx").read_bytes())
            self.assertIn(b"Requires-Python: >=3.9", z.read(f"libkd-{libkd.version()}.dist-info/METADATA"))
            self.assertNotIn(str(ROOT).encode(), b"".join(z.read(n) for n in names))

    def test_the_same_bytes_again(self):
        with tempfile.TemporaryDirectory() as other:
            again = os.path.join(other, kd_build.build_wheel(other))
            self.assertEqual(pathlib.Path(again).read_bytes(), pathlib.Path(self.wheel).read_bytes())

    def test_installed_in_an_environment_of_its_own(self):
        """No NumPy, no compiler, no source tree: five lines run, the self-test passes."""
        home = os.path.join(self.folder.name, "venv")
        made = run(sys.executable, "-m", "venv", home)
        if made.returncode:
            self.skipTest("venv: " + made.stderr.strip()[-200:])
        python = os.path.join(home, "bin", "python")
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LIBKD_PATH")}

        def inside(*args):
            done = subprocess.run([python, *args], env=env, cwd=self.folder.name, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  universal_newlines=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return done.stdout

        inside("-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", self.wheel)
        out = inside("-c",
                     "import array, libkd\nfrom libkd import loss\n"
                     "s = libkd.Tensor([[1.0, 2.0, 3.0]])\nt = libkd.Tensor([[3.0, 2.0, 1.0]])\n"
                           "r = loss.kd(s, t, [0], grad=True)\nprint(round(r.loss, 4), libkd.library_path())")
        self.assertIn(os.path.join(home, "lib"), out)
        self.assertIn("self-test", inside("-m", "libkd"))
        self.assertIn("student distilled", inside("-m", "libkd", "demo", "--seeds", "1"))
        inside("-m", "pip", "uninstall", "--quiet", "-y", "libkd")

    def test_metadata_and_editable(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(kd_build.prepare_metadata_for_build_wheel(folder), f"libkd-{libkd.version()}.dist-info")
            name = kd_build.build_editable(folder)
            with zipfile.ZipFile(os.path.join(folder, name)) as z:
                self.assertEqual(z.read("libkd.pth").decode().strip(), str(SOURCE))

    def test_sdist(self):
        with tempfile.TemporaryDirectory() as folder:
            name = kd_build.build_sdist(folder)
            with tarfile.open(os.path.join(folder, name)) as t:
                names = t.getnames()
        top = f"libkd-{libkd.version()}/"
        for part in ("PKG-INFO", "Makefile", "pyproject.toml", "include/kd/base.h", "src/python/kd_build.py",
                     "src/python/libkd/_api.py",
                     "src/libkd.map", "examples/data/digits-images.idx", "LICENSE"):
            self.assertIn(top + part, names)
        self.assertFalse([n for n in names if n.startswith((top + "lib/", top + ".git/")) or "__pycache__" in n])


class Commands(TestCase):
    def test_info(self):
        done = run(sys.executable, "-m", "libkd")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for word in (libkd.version(), libkd.build_info(), libkd.isa(), libkd.library_path(), f"{libkd.threads()} thread"):
            self.assertIn(word, done.stdout)
        self.assertEqual(done.stdout.count("  ok  "), 6)

    def test_a_failed_self_test_is_an_exit_status(self):
        code = ("import sys, libkd.__main__ as m, libkd.loss\nreal = libkd.loss.kd\n"
                "libkd.loss.kd = lambda *a, **k: real(*a, **k)._replace(loss=7.0)\nsys.exit(m.info())")
        done = run(sys.executable, "-O", "-c", code)
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAILED  the loss is its formula", done.stdout)

    def test_demo(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "student.safetensors")
            done = run(sys.executable, "-m", "libkd", "demo", "--seeds", "1", "--out", out)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("student distilled, + unlabelled", done.stdout)
            student = libkd.zoo.mlp([64, 32, 10])
            student.load(out)
            worth = float(re.search(r"worth ([+-][\d.]+) points", done.stdout)[1])
            self.assertGreater(worth, 0.0)
        self.assertEqual(run(sys.executable, "-m", "libkd", "demo", "--labels", "0").returncode, 2)
        self.assertEqual(run(sys.executable, "-m", "libkd", "sing").returncode, 2)


if __name__ == "__main__":
    unittest.main()
