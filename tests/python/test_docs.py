"""test_docs - every Python block of the documents runs, those of one document after each other; and so do the examples.

SPDX-License-Identifier: MIT
"""
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import unittest

from support import ROOT, TestCase, environment, libkd, numpy, torch  # noqa: F401

DOCUMENTS = ("docs/guide/python.md", "README.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.M | re.S)


def absent(text):
    """Of what the text imports."""
    return [name for name, module in (("numpy", numpy), ("torch", torch)) if module is None and re.search(rf"\b{name}\b", text)]


class Documents(TestCase):
    def test_blocks_run(self):
        before = os.getcwd()
        for document in DOCUMENTS:
            text = (ROOT / document).read_text()
            names = {"__name__": "document"}
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    for match in BLOCK.finditer(text):
                        line = text[:match.start()].count("\n") + 2
                        if absent(match[1]):
                            continue
                        with self.subTest(document=document, line=line), contextlib.redirect_stdout(io.StringIO()):
                            exec(compile("\n" * (line - 1) + match[1], document, "exec"), names)
                finally:
                    os.chdir(before)

    def test_the_tutorial_is_there(self):
        text = (ROOT / DOCUMENTS[0]).read_text()
        self.assertGreater(len(BLOCK.findall(text)), 8)
        # no block that the test would overlook
        self.assertEqual(text.count("```python"), len(BLOCK.findall(text)))

    def test_what_an_error_is_said_to_print(self):
        text = (ROOT / DOCUMENTS[0]).read_text()
        said = re.search(r"# (kd_matmul: .*)", text)[1]
        with self.assertRaises(ValueError) as caught:
            libkd.Tape().matmul(libkd.Tensor.zeros((64, 512)), libkd.Tensor.zeros((256, 10)))
        self.assertEqual(str(caught.exception), said)


class Examples(TestCase):
    def test_they_run(self):
        """Those of one process; ddp_torch.py has a test of its own."""
        for name in ("distill_digits.py", "torch_script.py"):
            example = ROOT / "examples" / "python" / name
            if absent(example.read_text()):
                continue
            with self.subTest(example=example.name), tempfile.TemporaryDirectory() as folder:
                done = subprocess.run([sys.executable, str(example)], cwd=folder, env=environment(), stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, universal_newlines=True, timeout=300)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("student", done.stdout)


if __name__ == "__main__":
    unittest.main()
