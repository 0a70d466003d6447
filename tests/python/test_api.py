"""test_api - the tables are what the headers say, and everything they declare can be reached.

SPDX-License-Identifier: MIT
"""
import ast
import ctypes
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import unittest

from support import ROOT, SOURCE, TestCase, libkd, needs_cc, run_c

from libkd import _api, _native

PACKAGE = pathlib.Path(libkd.__file__).parent


class Tables(TestCase):
    def test_generated_files_are_what_the_headers_say(self):
        done = subprocess.run([sys.executable, str(SOURCE / "gen_api.py"), "--check"], stderr=subprocess.PIPE,
                              universal_newlines=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_function_of_the_headers_is_in_the_table(self):
        """Against the export map, which is made by another reader of the headers."""
        exported = set(re.findall(r"^    (kd_\w+);", (ROOT / "src/libkd.map").read_text(), flags=re.M))
        self.assertEqual(exported, set(_api.FUNCTIONS))
        self.assertGreater(len(exported), 200)

    def test_every_function_is_in_the_library_with_its_prototype(self):
        for name, (result, params) in _api.FUNCTIONS.items():
            function = getattr(libkd.lib, name)
            count = len([p for p in params.replace("void (*task)(size_t i, void *arg)", "task").split(",") if p.strip()])
            self.assertEqual(len(function.argtypes), count, name)
            self.assertEqual(function.restype is None, result == "void", name)
            if result.endswith("*"):
                self.assertIn(function.restype, (ctypes.c_void_p, ctypes.c_char_p), name)

    def test_every_function_is_reachable_from_the_package(self):
        """Each is called by name somewhere in the package, by a class, a function, or what a rule made of it."""
        text = "\n".join(path.read_text() for path in PACKAGE.glob("*.py") if path.name != "_api.py")
        missing = [name for name in _api.FUNCTIONS if not re.search(rf"\blib\.{name}\b", text)]
        # these are called by name through describe(), in front of every descriptor
        described = set(re.findall(r'describe\(\s*"(\w+_desc)"', text))
        missing = [n for n in missing if n.rpartition("_")[0] not in described or n.rpartition("_")[2] not in ("init", "for")]
        self.assertEqual(missing, ["kd_abi_version"])      # before there is a lib

    def test_every_field_of_a_descriptor_is_a_keyword(self):
        tree = ast.parse("\n".join((PACKAGE / f).read_text() for f in ("_methods.py", "zoo.py", "data.py", "context.py")))
        words = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "describe":
                words.setdefault(node.args[0].value, set()).update(k.arg for k in node.keywords)
        by_hand = {"struct_size", "reserved", "class_weight_count", "milestone_count", "channels", "teacher_weight_count",
                   "student_count", "teacher_count", "allocator", "log", "log_user",
                   "parallel", "parallel_user", "decode_user"}
        for struct, fields in _api.STRUCTS.items():
            if struct.endswith("_desc") and struct not in ("kd_block_desc", "kd_schedule_desc"):
                self.assertEqual({f for f, _, _ in fields} - words[struct] - by_hand, set(), struct)

    def test_ops_and_layers_of_the_lists_have_methods(self):
        internal = {"fused", "contiguous"}             # no functions of the public headers
        for op in set(_api.OPS) - internal:
            self.assertTrue(callable(getattr(libkd.Tape, op)), op)
        for layer in _api.LAYERS:
            self.assertTrue(callable(getattr(libkd.Layer, layer)), layer)
        for method in _api.METHODS:
            libkd.LossDistill(method=method.lower())
        for op in libkd.ops.__all__:
            self.assertIn(op, dir(libkd.Tape))

    def test_docstrings(self):
        for module in ("loss", "io", "model", "data", "optimizer", "tape", "tensor", "losses", "rng", "zoo", "context"):
            m = importlib.import_module(f"libkd.{module}")
            self.assertTrue(m.__doc__)
            for name in getattr(m, "__all__", []):
                if name != "TensorLike":
                    self.assertTrue(getattr(m, name).__doc__, name)
        for name, member in inspect.getmembers(libkd.Tape):
            if not name.startswith("_") and callable(member):
                self.assertTrue(member.__doc__, name)
        self.assertTrue((PACKAGE / "py.typed").exists())

    def test_version(self):
        self.assertEqual(libkd.__version__, libkd.version())
        self.assertEqual(libkd.lib.kd_abi_version(), _api.ABI)
        major, minor, patch = map(int, libkd.version().split("."))
        self.assertEqual(libkd.version_number(), 10000 * major + 100 * minor + patch)


@needs_cc
class Layout(TestCase):
    def test_structs_are_laid_out_as_the_compiler_does(self):
        lines = []
        for name, fields in _api.STRUCTS.items():
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            for field, _, _ in fields:
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
        out = run_c("#include <kd.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
        ours = []
        for name, fields in _api.STRUCTS.items():
            struct = _native.struct(name)
            ours.append(f"{name} {ctypes.sizeof(struct)}")
            for field, _, _ in fields:
                member = getattr(struct, field)
                ours.append(f"{name}.{field} {member.offset} {member.size}")
        self.assertEqual(out.split("\n")[:-1], ours)

    def test_constants_are_the_compilers(self):
        lines = [f'printf("{name} %lld\\n", (long long)({name}));' for name in _api.CONSTANTS]
        out = run_c("#include <kd.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
        self.assertEqual(out.split("\n")[:-1], [f"{name} {value}" for name, value in _api.CONSTANTS.items()])
        defined = set(re.findall(r"#define (KD_[A-Z0-9_]+) +[-(0-9I]",
                                 "\n".join(p.read_text() for p in (ROOT / "include/kd").glob("*.h"))))
        self.assertEqual(defined - set(_api.CONSTANTS), set())

    def test_prototypes_are_the_compilers(self):
        """A redeclaration that differs does not compile."""
        lines = [f"extern {result} {name}({params or 'void'});" for name, (result, params) in _api.FUNCTIONS.items()]
        run_c("#include <kd.h>\n" + "\n".join(lines) + "\nint main(void) { return 0; }\n", "-Werror")


if __name__ == "__main__":
    unittest.main()
