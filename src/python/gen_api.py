"""gen_api.py - write libkd/_api.py, _methods.py, ops.py and zoo.py from include/kd/*.h and the .def files.

    python3 src/python/gen_api.py            write them
    python3 src/python/gen_api.py --check    exit 1 if they are not what the headers say

_api.py holds the tables: prototypes, struct layouts, constants, lists and the text of the header comments.  _methods.py holds what
follows from them by rule: a method for every op, layer and zoo model, and for every function whose arguments are plain.
SPDX-License-Identifier: MIT
"""
import collections
import keyword
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(__file__).resolve().parent / "libkd"

# ---- reading the headers -----------------------------------------------------------------------------------------------------


def comment_text(raw):
    """The words of a C comment, without its stars and rules of dashes."""
    lines = [re.sub(r"^\s*\*? ?", "", line) if i else line for i, line in enumerate(raw[2:-2].splitlines())]
    lines = [re.sub(r"-{4,}", "", line).rstrip() for line in lines]
    return "\n".join(lines).strip()


class Header:
    """What one header declares, in order."""

    def __init__(self, path, api):
        self.api = api
        text = path.read_text(encoding="ascii").replace("\\\n", " ")
        self.section = self.doc = ""
        self.of = None                      # the parameters of the declaration self.doc stands before
        self.last = None                    # the function a comment at the end of the line belongs to
        first = True
        at = 0
        while at < len(text):
            if text.startswith("/*", at):
                end = text.index("*/", at) + 2
                raw = text[at:end]
                alone = text.rfind("\n", 0, at) + 1
                alone = not text[alone:at].strip()
                if first:
                    first = False           # the file's own comment
                elif re.match(r"/\* -{4}", raw):
                    self.section = self.doc = comment_text(raw)
                    self.of = None
                elif alone:
                    self.doc, self.of = comment_text(raw), None
                else:
                    self.trailing(comment_text(raw))
                at = end
            elif text[at] == "#":
                end = text.find("\n", at)
                line = text[at:end]
                self.last = None
                match = re.match(r"#\s*define\s+(KD_[A-Z0-9_]+)\s+(.+?)\s*(/\*.*)?$", line)
                if match and "__" not in match[2]:
                    api.define(match[1], match[2])
                # a comment that begins on this line and goes on is a comment all the same
                start = text.find("/*", at, end)
                at = start if start >= 0 else end
            elif text[at].isspace():
                if text.startswith("\n\n", at):
                    self.doc = self.section
                at += 1
            else:
                at = self.statement(text, at)

    def statement(self, text, at):
        depth, end = 0, at
        while depth or text[end] != ";":
            if text.startswith("/*", end):
                end = text.index("*/", end) + 2
                continue
            if text.startswith("KD_BEGIN_DECLS", end) or text.startswith("KD_END_DECLS", end):
                return end + len(re.match(r"\w+", text[end:])[0])
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        whole = text[at:end]
        bare = " ".join(re.sub(r"/\*.*?\*/", " ", whole, flags=re.S).split())
        if bare.startswith("KD_API"):
            self.last = self.api.function(bare, self.doc)
            self.belongs(self.last)
        elif bare.startswith("typedef enum"):
            self.api.enum(bare)
        elif bare.startswith("typedef struct") and "{" in bare:
            self.api.struct(whole, self.doc)
        elif bare.startswith("typedef struct"):
            self.api.opaque.append(re.search(r"(\w+)$", bare)[1])
        elif bare.startswith("typedef"):
            match = re.match(r"typedef (.+?)\(\*(\w+)\)\((.*)\)$", bare)
            self.api.callbacks[match[2]] = (match[1].strip(), match[3])
        else:
            raise SystemExit(f"gen_api: cannot read: {bare[:100]}")
        return end + 1

    def belongs(self, name):
        """A comment is the next declaration's, and of later ones in the group that it names or that take the same arguments."""
        params = self.api.functions[name][1]
        if self.of is None:
            self.of = params
        elif params != self.of and not re.search(r"\b" + name.split("_", 1)[1] + r"\b", self.doc, flags=re.I):
            self.api.docs[name] = self.section

    def trailing(self, words):
        name = self.last
        if name:
            before = self.api.docs[name]
            self.api.docs[name] = words if before == self.section else (before + "\n" + words if before else words)


class Api:
    def __init__(self):
        self.constants, self.functions, self.docs, self.structs = {}, {}, {}, {}
        self.callbacks, self.opaque, self.struct_docs, self.enums = {}, [], {}, []
        for name in re.findall(r'"(kd/\w+\.h)"', (ROOT / "include/kd.h").read_text()):
            Header(ROOT / "include" / name, self)
        self.lists = {}
        for name, macro, path in (("METHODS", "DISTILL", "src/distill/methods.def"), ("FEATURES", "FEATURE", "src/distill/methods.def"),
                                  ("OPS", "OP", "src/autograd/ops.def"), ("LAYERS", "LAYER", "src/nn/layers.def")):
            found = re.findall(rf"^{macro}\((\w+)", (ROOT / path).read_text(), flags=re.M)
            self.lists[name] = tuple(found)

    def define(self, name, value):
        value = re.sub(r"\b(\d+)[uU]\b", r"\1", re.sub(r"/\*.*", "", value)).strip()
        value = value.replace("INT64_MIN", "-0x8000000000000000")
        if re.fullmatch(r"[-+*|() 0-9xa-fA-F]+|[KD_A-Z0-9+*| ()]+", value):
            try:
                self.constants[name] = int(eval(value, {"__builtins__": {}}, dict(self.constants)))
            except NameError:
                pass

    def enum(self, bare):
        self.enums.append(re.search(r"(\w+)$", bare)[1])
        for name, value in re.findall(r"(KD_\w+)\s*=\s*(-?\d+)", bare):
            self.constants[name] = int(value)

    def function(self, bare, doc):
        bare = re.sub(r"\bKD_(MUST_USE|DEPRECATED(\([^)]*\))?) ", "", bare)
        match = re.match(r"KD_API (.*?)(\w+)\((.*)\)$", bare)
        result, name, params = match[1].strip(), match[2], match[3]
        self.functions[name] = (result, "" if params == "void" else params)
        self.docs[name] = doc
        return name

    def struct(self, whole, doc):
        name = re.search(r"(\w+)\s*$", whole)[1]
        body = whole[whole.index("{") + 1:whole.rindex("}")]
        fields, group = [], ()
        for match in re.finditer(r"/\*.*?\*/|([^;/]*(?:/(?!\*)[^;/]*)*);", body, flags=re.S):
            if match[1] is None:
                words = " ".join(comment_text(match[0]).split())
                for i in group:            # behind its field or fields
                    fields[i][2] = (fields[i][2] + " " + words).strip()
                continue
            group = range(len(fields), len(fields) + match[1].count(",") + 1)
            text = " ".join(match[1].split())
            callback = re.match(r"(.+)\(\*(\w+)\)\((.*)\)$", text)
            if callback:
                self.callbacks[f"{name}.{callback[2]}"] = (callback[1].strip(), callback[3])
                fields.append([callback[2], f"{name}.{callback[2]}", ""])
                group = range(len(fields) - 1, len(fields))
                continue
            kind, rest = re.match(r"((?:const )?\w+)\s*(.*)$", text).groups()
            for part in rest.split(","):
                stars, field, size = re.match(r"\s*((?:\*(?:const)?\s*)*)(\w+)(\[\d+\])?$", part.strip()).groups()
                fields.append([field, (kind + " " + stars.strip()).strip() + (size or ""), ""])
        self.structs[name] = fields
        self.struct_docs[name] = doc


# ---- writing the tables ------------------------------------------------------------------------------------------------------


def write_api(api):
    out = ['"""_api.py - the C interface as tables.  Made by src/python/gen_api.py from include/kd; do not edit.', "",
           'SPDX-License-Identifier: MIT', '"""', ""]
    version = ".".join(str(api.constants[f"KD_VERSION_{part}"]) for part in ("MAJOR", "MINOR", "PATCH"))
    out += [f'VERSION = "{version}"', f"ABI = {api.constants['KD_ABI_VERSION']}", ""]
    for name, entries in api.lists.items():
        out += ["", f"# {name.lower()}.def", *wrap_tuple(name, entries)]
    out += ["", "", "# every KD_ constant of the headers", "CONSTANTS = {"]
    out += [f'    "{name}": {value},' for name, value in api.constants.items()]
    out += ["}", "", "# opaque types, enums", *wrap_tuple("HANDLES", api.opaque), *wrap_tuple("ENUMS", api.enums)]
    out += ["", "# function types: result, parameters", "CALLBACKS = {"]
    for name, (result, params) in api.callbacks.items():
        out += entry(name, result, params)
    out += ["}", "", "# struct: (field, C type, prefix of its constants or \"\")", "STRUCTS = {"]
    for name, fields in api.structs.items():
        out.append(f'    "{name}": (')
        out += [f'        ("{field}", "{kind}", "{prefix_of(api, words)}"),' for field, kind, words in fields]
        out.append("    ),")
    out += ["}", "", "# function: result, parameters", "FUNCTIONS = {"]
    for name, (result, params) in api.functions.items():
        out += entry(name, result, params)
    out += ["}", ""]
    return "\n".join(out)


def entry(name, result, params):
    line = f'    "{name}": ("{result}", "{params}"),'
    if len(line) <= 130:
        return [line]
    parts = textwrap.wrap(params, 110)
    return [f'    "{name}": (', f'        "{result}",',
            *(f'        "{part}{" " if i + 1 < len(parts) else ""}"' for i, part in enumerate(parts)), "    ),"]


def wrap_tuple(name, entries):
    body = textwrap.wrap(", ".join(f'"{e}"' for e in entries) + ",", 122)
    return [f"{name} = (", *("    " + line for line in body), ")"]


def prefix_of(api, words):
    """KD_DISTILL_ of a comment that says KD_DISTILL_*."""
    match = re.search(r"\b(KD_[A-Z0-9_]+_)\*", words)
    return match[1] if match else ""


# ---- writing the methods -----------------------------------------------------------------------------------------------------

# Constants that a parameter takes, by its name: `activation` takes KD_ACT_*.
PREFIXES = {"activation": "KD_ACT_", "reduction": "KD_REDUCE_", "join": "KD_JOIN_", "init": "KD_INIT_", "variant": "KD_CIFAR_",
            "algorithm": "KD_CONV_", "dtype": "KD_"}
# The values that Python's keyword arguments begin with: (function or None, parameter) -> text.
DEFAULTS = {
    (None, "bias"): "None", (None, "h0"): "None", (None, "c0"): "None", (None, "bias_ih"): "None", (None, "bias_hh"): "None",
    (None, "running_mean"): "None", (None, "running_var"): "None", ("kd_batch_norm", "weight"): "None",
    ("kd_layer_norm", "weight"): "None", ("kd_group_norm", "weight"): "None", (None, "momentum"): "0.1", (None, "eps"): "1e-5",
    ("kd_l2_normalize", "eps"): "1e-12", ("kd_cosine_similarity", "eps"): "1e-8", (None, "reduction"): '"mean_rows"',
    (None, "temperature"): "1.0", (None, "ignore_index"): "-100", (None, "label_smoothing"): "0.0", ("kd_smooth_l1", "beta"): "1.0",
    (None, "axes"): "None", (None, "keep"): "False", ("kd_matmul", "flags"): "", ("kd_scale", "shift"): "0.0",
    (None, "reverse"): "False", ("kd_leaky_relu", "slope"): "0.01", ("kd_pad", "value"): "0.0", (None, "seed"): "0",
    ("kd_loss_distill_apply", "labels"): "None", ("kd_loss_distill_apply", "teacher"): "None",
    ("kd_max_pool2d", "stride"): "None", ("kd_max_pool2d", "padding"): "0", ("kd_avg_pool2d", "stride"): "None",
    ("kd_avg_pool2d", "padding"): "0", ("kd_zoo_mlp", "activation"): '"relu"', ("kd_zoo_resnet_cifar", "widen"): "1",
    ("kd_zoo_wrn", "classes"): "10", ("kd_zoo_create", "classes"): "10", ("kd_zoo_resnet_cifar", "classes"): "10",
    ("kd_layer_linear", "bias"): "True", ("kd_layer_conv2d", "bias"): "True",
    ("kd_layer_conv1d", "bias"): "True", ("kd_layer_max_pool2d", "stride"): "None", ("kd_layer_max_pool2d", "padding"): "0",
    ("kd_layer_avg_pool2d", "stride"): "None", ("kd_layer_avg_pool2d", "padding"): "0",
    ("kd_layer_residual", "activation"): '"relu"',
    ("kd_model_freeze", "frozen"): "True", ("kd_model_load", "flags"): "", ("kd_optimizer_group", "lr_scale"): "1.0",
    ("kd_optimizer_group", "weight_decay"): "0.0", ("kd_model_initialize", "a"): "0.0", ("kd_model_initialize", "b"): "0.0",
    ("kd_layer_add_parameter", "a"): "0.0", ("kd_layer_add_parameter", "b"): "0.0", ("kd_layer_add_buffer", "value"): "0.0",
    ("kd_layer_parallel", "join"): '"sum"',
    (None, "before"): "None", (None, "after"): "None", ("kd_attention", "k"): "None", ("kd_attention", "v"): "None",
    ("kd_attention", "scale"): "0.0", ("kd_attention", "causal"): "False", ("kd_attention", "mask"): "None",
}
# Written by hand, since a rule would not make them pleasant; tests/python/test_api.py holds that each is used.
HAND = {"kd_custom", "kd_requires_grad", "kd_tape_tensor", "kd_tape_constant", "kd_layer_block", "kd_loader_next", "kd_tape_reset",
        "kd_tape_mode", "kd_tape_status", "kd_tape_rng", "kd_tape_set_rng", "kd_model_finish", "kd_model_root", "kd_model_create",
        "kd_optimizer_set_schedule", "kd_optimizer_add", "kd_model_load", "kd_layer_forward", "kd_model_copy", "kd_ema_create",
        "kd_model_forward", "kd_backward", "kd_optimizer_step", "kd_model_tapped", "kd_dataset_dtype"}
NUMBERS = {"float": "float", "double": "float", "size_t": "int", "uint32_t": "int", "int32_t": "int", "uint64_t": "int",
           "int64_t": "int", "ptrdiff_t": "int", "kd_status": "int", "kd_dtype": "int"}
# arguments that a class names itself, in front of the other fields
EXPLICIT = collections.defaultdict(set, kd_loss_feature_desc={"method", "student", "teacher"},
                                    kd_optimizer_desc={"method"}, kd_schedule_desc={"kind"}, kd_context_desc={"log_level"})
# arrays of other things than numbers
SEQUENCES = {"const kd_feature_shape *": "Sequence[Sequence[int]] | None",
             "const float *const *": "Sequence[ArrayLike | None] | None"}
# fields that a class takes care of itself
OWN_FIELDS = {"struct_size", "reserved", "allocator", "log", "log_user", "parallel", "parallel_user", "free", "user", "forward",
              "type", "name", "backward"}


def split(params):
    """[(type, name, array)] of a parameter list."""
    out = []
    for part in filter(None, (p.strip() for p in params.split(","))):
        match = re.match(r"(.*?)(\w+)(\[\d*\])?$", part)
        out.append((match[1].strip(), match[2], bool(match[3])))
    return out


def safe(name):
    return {"in": "in_features", "out": "out_features"}.get(name, name + "_" if keyword.iskeyword(name) else name)


class Writer:
    def __init__(self, api):
        self.api, self.out, self.as_functions = api, [], False

    # -- keyword arguments of a descriptor

    def fields(self, struct):
        """[(field, annotation)] that callers set; counts of arrays are filled in."""
        fields = self.api.structs[struct]
        out = []
        counts = {count_field(fields, i) for i, (field, kind, words) in enumerate(fields) if is_array(kind)}
        for field, kind, words in fields:
            if field in OWN_FIELDS or field in counts or kind in self.api.callbacks:
                continue
            base = kind.split("[")[0]
            if prefix_of(self.api, words):
                note = "str | int | None"
            elif "[" in kind:
                note = "int | Sequence[int] | None"
            elif base == "const char *":
                note = "str | None"
            elif base in SEQUENCES:
                note = SEQUENCES[base]
            elif kind.endswith("*"):
                note = "ArrayLike | None"
            else:
                note = f"{NUMBERS[base]} | None"
            out.append((field, note))
        return out

    def field_doc(self, struct):
        out = []
        for field, kind, words in self.api.structs[struct]:
            if field in OWN_FIELDS or not words:
                continue
            out.append(f"    {field}: {words}")
        return out

    # -- one method

    def method(self, name, py, self_params, indent="    ", result=None):
        """A method `py` for the C function `name`, whose first `len(self_params)` arguments are these texts."""
        ret, params = self.api.functions[name]
        args, call, before, tail, hidden = [], list(self_params), [], [], False
        rest = split(params)[len(self_params):]
        outs, keywords = [], []
        i = 0
        while i < len(rest):
            kind, param, array = rest[i]
            after = rest[i + 1] if i + 1 < len(rest) else None
            arg = safe(param)
            default = DEFAULTS.get((name, param), DEFAULTS.get((None, param)))
            if default is not None and kind in NUMBERS and default == "None" and param != "axes" and "stride" not in param:
                default = None
            if kind == "size_t" and param == "rank" and after and "size_t *" in after[0]:
                args.append((after[1], "Sequence[int]", None))
                before.append(f"sizes = size_array({after[1]})")
                call += [f"len({after[1]})", "sizes"]
                i += 2
                continue
            if kind == "kd_tensor *const *" or kind == "kd_model *const *":
                args.append((arg, "Sequence[TensorLike]" if "tensor" in kind else "Sequence[Model]", None))
                before.append(f"handles = self._handles({arg})")
                call += ["handles", f"len({arg})"]
                i += 2
                continue
            if kind == "const size_t *" and param == "sizes":
                args.append((arg, "Sequence[int]", None))
                call += [f"size_array({arg})", f"len({arg})"]
                i += 2
                continue
            if kind == "const size_t *":
                args.append((arg, "Sequence[int]" + ("" if default is None else " | None"), default))
                call.append(f"size_array({arg})")
            elif kind == "const uint32_t" or (kind.startswith("const uint32_t") and array):
                args.append((arg, "int | Sequence[int]" + (" | None" if default == "None" else ""), default))
                use = f"window if {arg} is None else {arg}" if default == "None" else arg
                call.append(f"pair({use})")
            elif kind == "kd_tensor *" or kind == "const kd_tensor *":
                args.append((arg, "TensorLike" + (" | None" if default == "None" else ""), default))
                call.append(f"self._in({arg})")
            elif kind == "kd_tensor **":
                outs.append(arg)
                before.append(f"{arg} = c_void_p()")
                call.append(f"byref({arg})")
            elif re.fullmatch(r"const kd_\w+_desc \*", kind):
                struct = kind.split()[1]
                keywords += self.fields(struct)
                table = ", ".join(f"{f}={f}" for f, _ in self.fields(struct))
                before.append(f'desc, keep = describe("{struct}", {table})')
                call.append("byref(desc)")
                hidden = struct
            elif kind == "const char *":
                args.append((arg, "str", default))
                call.append(f"encode({arg})" if param != "path" else f"encode_path({arg})")
            elif re.fullmatch(r"(const )?kd_\w+ \*", kind) and kind.split()[-2] in self.api.opaque:
                other = class_of(kind.split()[-2])
                args.append((arg, f"{other}" + (" | None" if default == "None" else ""), default))
                tail.append(f"self._depend({arg})")
                call.append(f"{arg}._h" if default != "None" else f"None if {arg} is None else {arg}._h")
            elif name == "kd_matmul" and param == "flags":
                keywords += [("transpose_a", "bool"), ("transpose_b", "bool")]
                call.append("(1 if transpose_a else 0) | (2 if transpose_b else 0)")
            elif kind in NUMBERS or kind == "kd_dtype":
                if param == "axes":
                    args.append((arg, "int | Sequence[int] | None", default))
                    call.append(f"axis_mask({arg}, x)")
                elif param in PREFIXES:
                    args.append((arg, "str | int", default))
                    call.append(f'constant("{PREFIXES[param]}", {arg})')
                elif param == "stride" and default == "None":
                    args.append((arg, "int | None", default))
                    call.append("window if stride is None else stride")
                else:
                    note = "bool" if default in ("True", "False") else NUMBERS[kind]
                    args.append((arg, note, default))
                    call.append(arg)
            else:
                return False
            i += 1
        # from the first default on everything has one, in C's order
        seen, text = False, []
        for arg, note, default in args:
            if default is not None:
                seen = True
            elif seen:
                if text and "*" not in [t.strip() for t in text]:
                    text.append("*")
                text.append(f"{arg}: {note}")
                continue
            text.append(f"{arg}: {note}" + (f" = {default}" if default is not None else ""))
        if keywords or result == "layer":
            if "*" not in text:
                text.append("*")
            text += [f"{f}: {n}" + (" = False" if n == "bool" else " = None") for f, n in keywords]
        if result == "layer":
            text.append("name: str | None = None")
        if result == "model":
            if "*" not in text:
                text.append("*")
            text.append("context: Context | None = None")
        getter = params.startswith("const ") and not rest and ret not in ("void", "kd_status")
        self.emit_method(name, py, text, before, call, outs, ret, result, indent, hidden, getter, tail)
        return True

    def emit_method(self, name, py, text, before, call, outs, ret, result, indent, hidden, getter, tail):
        call_text = f"lib.{name}({', '.join(call)})"
        if result == "op":
            note = "Tensor" if not outs else "tuple[" + ", ".join(["Tensor"] * (len(outs) + 1)) + "]"
            lines = [f"return self._out({call_text})"]
            if outs:
                lines = [f"y = self._out({call_text})",
                         "return y, " + ", ".join(f"self._out({o}.value)" for o in outs)]
        elif result == "layer":
            note, lines = "Layer", [f"return self._layer({call_text})"]
        elif result == "model":
            note, lines = "Model", ["model = c_void_p()", f"check({call_text})", "return Model._adopt(model.value, context)"]
        elif ret == "kd_status":
            note, lines = "None", [f"check({call_text})"]
        elif ret == "void":
            note, lines = "None", [call_text]
        elif ret == "const char *":
            note, lines = "str", [f"return decode({call_text})"]
        else:
            note, lines = NUMBERS[ret], [f"return {call_text}"]
            if ret == "int32_t" and getter:
                note, lines = "bool", [f"return {call_text} != 0"]
        if self.as_functions:
            names = [t.split(":")[0] for t in text if t != "*"]
            passed = ", ".join(f"{n}={n}" if "*" in text and text.index("*") < [t.split(":")[0] for t in text].index(n) else n
                               for n in names)
            tensors = ", ".join(t.split(":")[0] for t in text if "TensorLike" in t)
            lines, before, tail = [f"return Tape.{py}(tape_of({tensors}), {passed})"], [], []
        first = "" if result == "model" or self.as_functions else "self"
        head = f"{indent}def {py}({', '.join(filter(None, [first] + text))}) -> {note}:"
        if getter:
            self.out.append(indent + "@property")
        self.out += wrap_def(head, indent)
        lines += tail
        self.docstring(self.api.docs[name], name, indent + "    ", hidden)
        self.out += [line for part in before + lines for line in wrap_code(indent + "    " + part)]
        self.out.append("")

    def docstring(self, words, name, indent, struct=None):
        words = words.replace("\\", "\\\\")
        lines = [line for line in words.splitlines()] or [name]
        if struct:
            lines += ["", *self.field_doc(struct)]
        lines += ["", f"C: {name}"]
        text = []
        for paragraph in runs(lines):
            if max(map(len, paragraph)) > 118:
                lead = re.match(r"\s*", paragraph[0])[0]
                text += textwrap.wrap(" ".join(paragraph), 118, subsequent_indent=lead + ("    " if lead else ""),
                                      break_long_words=False)
            else:
                text += paragraph
        first, rest = text[0], text[1:]
        self.out.append(f'{indent}"""{first}')
        self.out += [(indent + line).rstrip() for line in rest]
        self.out.append(f'{indent}"""')

    # -- the file

    def write(self):
        api = self.api
        self.out += [
            '"""_methods.py - methods that follow from the headers by rule.  Made by src/python/gen_api.py; do not edit.', "",
            "SPDX-License-Identifier: MIT", '"""', "from __future__ import annotations", "",
            "from ctypes import byref, c_void_p", "from typing import TYPE_CHECKING, Sequence", "",
            "from ._native import axis_mask, check, constant, decode, describe, encode, encode_path, lib, pair, size_array", "",
            "if TYPE_CHECKING:", "    from ._buffers import ArrayLike",
            "    from .context import Context",
            "    from .tensor import Tensor, TensorLike", "    from .tape import Tape", "    from .model import Layer, Model",
            "    from .optimizer import Ema, Optimizer", "    from .data import Dataset, Loader",
            "    from .losses import LossDistill, LossFeature",
            "", "    from typing_extensions import TypedDict      # every type checker knows it; nothing imports it when run", ""]
        self.typed_fields()
        self.group("TapeOps", "The differentiable ops, as methods of a tape.  Ops run at once; an error raises at once, and the\n"
                   "    tape then refuses everything until reset().",
                   [(n, n[3:], ["self._h"], "op") for n, (ret, params) in api.functions.items()
                    if ret == "kd_tensor *" and params.startswith("kd_tape *tape, ")])
        self.group("LayerBuilders", "Builders: each adds a layer below this one and returns it.",
                   [(n, n[len("kd_layer_"):], ["self._h", "encode(name)"], "layer") for n, (ret, params) in api.functions.items()
                    if ret == "kd_layer *" and re.match(r"kd_layer \*\w+, const char \*name", params)])
        nouns = {m[1] for m in (re.match(r"kd_(\w+)$", h) for h in api.opaque)}
        for noun in sorted(nouns - {"tensor", "safetensors"}):   # these two by hand
            todo = []
            for n, (ret, params) in api.functions.items():
                first = split(params)[:1]
                if first and first[0][0] in (f"kd_{noun} *", f"const kd_{noun} *") and n.startswith(f"kd_{noun}_") \
                        and (ret in NUMBERS or ret in ("void", "const char *")) and not n.endswith(("_free", "_close")):
                    todo.append((n, n[len(f"kd_{noun}_"):], ["self._h"], None))
            self.group(class_of("kd_" + noun) + "Methods", f"What follows by rule of kd_{noun}.", todo, noun)
        return self.text()

    def typed_fields(self):
        """The fields of each descriptor that a class takes as keyword arguments, for type checkers."""
        for struct in self.api.structs:
            if f"kd_{struct[3:-5]}_create" in self.api.functions or struct == "kd_schedule_desc":
                self.out += [f"    class {fields_of(struct)}(TypedDict, total=False):"]
                self.out += [f"        {field}: {note}" for field, note in self.fields(struct) if field not in EXPLICIT[struct]]
                self.out.append("")
        self.out.append("")

    def write_ops(self):
        self.out += ['"""ops - the ops as functions: ops.matmul(a, b) is a.tape.matmul(a, b), on the tape of its first argument',
                     "that has one.  Made by src/python/gen_api.py; do not edit.", "", "SPDX-License-Identifier: MIT", '"""',
                     "from __future__ import annotations", "", "from typing import TYPE_CHECKING, Sequence", "",
                     "from .tape import Tape, tape_of", "",
                     "if TYPE_CHECKING:", "    from .tensor import Tensor, TensorLike", ""]
        ops = [n for n, (ret, params) in self.api.functions.items()
               if ret == "kd_tensor *" and params.startswith("kd_tape *tape, ") and n not in HAND]
        self.out += [*wrap_tuple("__all__", [n[3:] for n in ops]), ""]
        self.as_functions = True
        for n in ops:
            self.out.append("")
            self.method(n, n[3:], ["self._h"], indent="", result="op")
        return self.text()

    def write_zoo(self):
        self.out += ['"""zoo - finished models, by name.  Made by src/python/gen_api.py; do not edit.', "",
                     "SPDX-License-Identifier: MIT", '"""', "from __future__ import annotations", "",
                     "from ctypes import byref, c_void_p", "from typing import Sequence", "",
                     "from ._native import check, constant, describe, encode, lib, size_array", "from .context import Context",
                     "from .model import Model", "", ""]
        for n in self.api.functions:
            if n.startswith("kd_zoo_") and n not in ("kd_zoo_count", "kd_zoo_name"):
                self.method(n, n[len("kd_zoo_"):], ["byref(model)", "Context._of(context)"], indent="", result="model")
                self.out.append("")
        self.out += ["", "def names() -> list[str]:", '    """What `create` makes."""',
                     "    return [lib.kd_zoo_name(i).decode() for i in range(lib.kd_zoo_count())]", ""]
        return self.text()

    def text(self):
        text = "\n".join(self.out)
        text = re.sub(r"\n{4,}", "\n\n\n", text)
        return text.rstrip("\n") + "\n"

    def group(self, title, doc, todo, noun=None):
        todo = [t for t in todo if t[0] not in HAND]
        self.out += [f"class {title}:", f'    """{doc}"""', "", "    __slots__ = ()", ""]
        if noun:
            create = self.api.functions.get(f"kd_{noun}_create", ("", ""))[1]
            if f"const kd_{noun}_desc *desc" in create:
                fields = self.fields(f"kd_{noun}_desc")
                self.out += wrap_def("    def _describe(self, *, " + ", ".join(f"{f}: {n} = None" for f, n in fields) + "):",
                                     "    ")
                self.docstring(f"The descriptor as keyword arguments; what is not given keeps the library's default.\n"
                               f"{self.api.struct_docs[f'kd_{noun}_desc']}", f"kd_{noun}_desc", "        ", f"kd_{noun}_desc")
                table = ", ".join(f"{f}={f}" for f, _ in fields)
                self.out += wrap_code(f'        return describe("kd_{noun}_desc", {table})')
                self.out.append("")
        for name, py, selfs, result in todo:
            self.method(name, py, selfs, result=result)
        self.out.append("")


def runs(lines):
    """Lines that may be filled together; an indented line stands alone."""
    out = []
    for line in lines:
        if line.strip() and not line.startswith(" ") and out and out[-1][-1].strip() and not out[-1][0].startswith(" "):
            out[-1].append(line)
        else:
            out.append([line])
    return out


def is_array(kind):
    """A pointer to numbers, or to shapes."""
    return kind == "const kd_feature_shape *" or kind.endswith("*") and kind.replace("const", "").replace("*", "").strip() in NUMBERS


def count_field(fields, i):
    """The length of an array stands behind it, or behind the arrays it shares it with: the next field, if it is a size_t."""
    while i < len(fields) and is_array(fields[i][1]):
        i += 1
    return fields[i][0] if i < len(fields) and fields[i][1] == "size_t" else None


def fields_of(struct):
    """LossDistillFields of kd_loss_distill_desc."""
    return class_of(struct[:-len("_desc")]) + "Fields"


def class_of(handle):
    return "".join(part.capitalize() for part in handle[3:].split("_"))


def wrap_def(line, indent):
    if len(line) <= 130:
        return [line]
    head = line.split("(", 1)[0]
    glued = re.sub(r"\) -> (.*)$", lambda m: ")~->~" + m[1].replace(" ", "~"), line)
    glued = glued.replace(" | ", "~|~").replace(" = ", "~=~").replace(": ", ":~")
    lines = textwrap.wrap(glued, 126, subsequent_indent=indent + " " * (len(head.strip()) + 1), break_long_words=False,
                          break_on_hyphens=False)
    return [part.replace("~", " ") for part in lines]


def wrap_code(line):
    if len(line) <= 130:
        return [line]
    lead = re.match(r"\s*", line)[0]
    return textwrap.wrap(line, 128, subsequent_indent=lead + "        ", break_long_words=False, break_on_hyphens=False)


def main():
    api = Api()
    files = {OUT / "_api.py": write_api(api), OUT / "_methods.py": Writer(api).write(),
             OUT / "zoo.py": Writer(api).write_zoo(), OUT / "ops.py": Writer(api).write_ops()}
    if "--check" in sys.argv[1:]:
        bad = [p.name for p, text in files.items() if not p.exists() or p.read_text() != text]
        if bad:
            raise SystemExit(f"{', '.join(bad)}: not what the headers say; run python3 src/python/gen_api.py")
        return
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
