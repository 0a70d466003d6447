"""run.py [test_file ..] - the Python tests in this interpreter; one line of outcome, and before it what failed.

SPDX-License-Identifier: MIT
"""
import importlib
import os
import pathlib
import platform
import sys
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


class Counting(unittest.TextTestResult):
    """testsRun counts skipped tests or not, by the version of Python."""

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main(files):
    names = sorted({pathlib.Path(f).stem for f in files} or {p.stem for p in HERE.glob("test_*.py")})
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name)) for name in names)
    support = importlib.import_module("support")
    with open(os.devnull, "w") as quiet:
        result = unittest.TextTestRunner(quiet, resultclass=Counting).run(suite)
    failed = result.failures + result.errors
    for test, text in failed:
        print(f"FAILED {test}\n{text}")
    more = [name for name in ("numpy", "torch") if getattr(support, name)]
    name = f"python {platform.python_version()}{' with ' + ' and '.join(more) if more else ''}:"
    print(f"{name:40} {result.passed} passed, {len(failed)} failed, {len(result.skipped)} skipped", flush=True)
    return 1 if failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
