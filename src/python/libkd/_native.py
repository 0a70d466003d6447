"""_native.py - finding the library, its functions as the headers declare them, and errors.

Prototypes come from the tables in _api.py and are set up when a function is first used.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from ctypes import CFUNCTYPE, Structure, byref, c_char_p, c_size_t, c_void_p, sizeof
from typing import Any, Callable, Iterator

from . import _api
from .errors import KdStateError, error_for

_NAMES = {"darwin": ("libkd.%d.dylib" % _api.ABI, "libkd.dylib"), "win32": ("libkd-%d.dll" % _api.ABI, "kd.dll")}.get(
    sys.platform, ("libkd.so.%d" % _api.ABI, "libkd.so"))


# ---- the library -------------------------------------------------------------------------------------------------------------


def _candidates() -> Iterator[str]:
    """Where the library may be, in order; names without a folder are left to the system's loader."""
    chosen = os.environ.get("LIBKD_PATH")
    if chosen:                                  # an explicit choice: nothing else is tried
        if os.path.isdir(chosen):
            yield from (os.path.join(chosen, name) for name in _NAMES)
        else:
            yield os.path.abspath(chosen)
        return
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (os.path.join(here, "_lib"), os.path.join(here, "..", "..", "..", "lib")):
        yield from (os.path.normpath(os.path.join(folder, name)) for name in _NAMES)
    from ctypes.util import find_library       # imported late: it is slow, and rarely needed

    found = find_library("kd")
    if found:
        yield found
    yield from _NAMES


def _load() -> ctypes.CDLL:
    tried = []
    for name in _candidates():
        if os.path.isabs(name) and not os.path.exists(name):
            tried.append(f"{name}: no such file")
            continue
        try:
            dll = ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            tried.append(f"{name}: {error}")
            continue
        if not hasattr(dll, "kd_abi_version"):
            raise ImportError(f"{name} is not libkd, or one without kd_abi_version; this package needs ABI {_api.ABI}")
        abi = dll.kd_abi_version()
        if abi != _api.ABI:
            raise ImportError(f"{name} has ABI {abi}, this package needs ABI {_api.ABI}: install a libkd of version "
                              f"{_api.VERSION}, or set LIBKD_PATH to one")
        return dll
    raise ImportError("libkd is not to be found; tried:\n  " + "\n  ".join(tried) +
                      "\nSet LIBKD_PATH to the library or its folder, or build it: make")


# ---- types -------------------------------------------------------------------------------------------------------------------

_PLAIN = {
    "void": None, "size_t": c_size_t, "ptrdiff_t": ctypes.c_ssize_t, "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "float": ctypes.c_float, "double": ctypes.c_double,
    "const char *": c_char_p, **{name: ctypes.c_int for name in _api.ENUMS},
}
_types: dict[str, Any] = {}


def _ctype(kind: str) -> Any:
    """The ctypes type of a C type as the tables write it."""
    found = _PLAIN.get(kind, c_void_p)
    if found is not c_void_p:
        return found
    if kind.endswith("]"):
        base, size = kind[:-1].split("[")
        return _PLAIN[base] * int(size)
    if kind in _api.CALLBACKS:
        return callback(kind)
    if kind in _api.STRUCTS:
        return struct(kind)
    return c_void_p


def _params(text: str) -> list[Any]:
    out = []
    for part in filter(None, text.replace("void (*task)(size_t i, void *arg)", "void *task").split(", ")):
        if part.endswith("]"):
            out.append(c_void_p)
        else:
            out.append(_ctype(part[:len(part) - len(part.split("*")[-1].split(" ")[-1])].strip()))
    return out


def struct(name: str) -> Any:
    """The ctypes.Structure of a struct of the headers."""
    if name not in _types:
        fields = [(field, _ctype(kind)) for field, kind, _ in _api.STRUCTS[name]]
        _types[name] = type(name, (Structure,), {"_fields_": fields})
    return _types[name]


def callback(name: str) -> Any:
    """The function type of a callback: "kd_log_fn", "kd_custom_op.forward"."""
    if name not in _types:
        result, params = _api.CALLBACKS[name]
        result = _ctype(result) if result in _PLAIN else c_void_p
        # strings stay pointers: they are only valid during the call, and may be NULL
        _types[name] = CFUNCTYPE(result, *_params(params))
    return _types[name]


class Library:
    """The C functions, by name: lib.kd_tensor_rank(handle).  Anything the headers declare, with its prototype; nothing is checked
    for you here (see `check`)."""

    def __init__(self) -> None:
        self._dll = _load()

    def __getattr__(self, name: str) -> Any:
        try:
            result, params = _api.FUNCTIONS[name]
        except KeyError:
            raise AttributeError(f"no function {name} in the headers of libkd {_api.VERSION}") from None
        function = self._dll[name]              # an item, not an attribute: a function object of our own
        function.restype = _ctype(result)
        function.argtypes = _params(params)
        self.__dict__[name] = function
        return function

    def __dir__(self) -> list[str]:
        return list(_api.FUNCTIONS)

    @property
    def path(self) -> str:
        """The file that was loaded."""
        return self._dll._name


lib = Library()
_last_error = lib.kd_last_error


# ---- errors ------------------------------------------------------------------------------------------------------------------

# Exceptions raised in callbacks: of this thread's call, and of the log function, which may run on any thread.
_raised = threading.local()
_log_raised: list[BaseException] = []


def carry(error: BaseException) -> None:
    """Keep an exception that cannot pass through C; `check` raises it when the call has returned."""
    _raised.error = error


def carry_log(error: BaseException) -> None:
    _log_raised.append(error)


def check(status: int, filename: str | None = None) -> int:
    """Raise what a negative status stands for; KD_OK and KD_END are returned."""
    if status >= 0:
        if _log_raised:
            raise _log_raised.pop(0)
        return status
    raise error_of(status, filename)


def error_of(status: int, filename: str | None = None) -> BaseException:
    errno = ctypes.get_errno()
    error = getattr(_raised, "error", None)
    if error is not None:
        _raised.error = None
        return error
    return error_for(status, _last_error().decode("utf-8", "replace"), errno, filename)


def check_path(status: int, path: str | os.PathLike) -> int:
    return check(status, os.fspath(path)) if status < 0 else status


# ---- arguments ---------------------------------------------------------------------------------------------------------------


def encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8")


def encode_path(path: str | os.PathLike) -> bytes:
    return os.fsencode(path)


def decode(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "replace")


def size_array(sizes: Any) -> Any:
    """size_t[n]; None stays NULL.  -1, a size to be inferred, becomes (size_t)-1."""
    if sizes is None:
        return None
    return (c_size_t * len(sizes))(*sizes)


def pair(value: Any) -> Any:
    """uint32_t[2] from one number or two."""
    return (ctypes.c_uint32 * 2)(*((value, value) if isinstance(value, int) else value))


def axis_mask(axes: Any, x: Any) -> int:
    """Bit i for axis i; negative axes count from the end; None: all."""
    if axes is None:
        return 0
    mask = 0
    for axis in (axes,) if isinstance(axes, int) else axes:
        if axis < 0:
            axis += _rank(x)
        if not 0 <= axis < 32:
            raise ValueError(f"axes: {axes} for a tensor of rank {_rank(x)}")
        mask |= 1 << axis
    if not mask:
        raise ValueError("axes: none given; None means all")
    return mask


def _rank(x: Any) -> int:
    rank = 0
    while isinstance(x, (list, tuple)) and x:
        x, rank = x[0], rank + 1
    return rank or len(x.shape if hasattr(x, "shape") else memoryview(x).shape)


def constant(prefix: str, value: Any) -> int:
    """The number of a name: constant("KD_ACT_", "relu"), or a number as it is."""
    if not isinstance(value, str):
        return value
    found = _api.CONSTANTS.get(prefix + value.upper())
    if found is None:
        names = sorted(name[len(prefix):].lower() for name in _api.CONSTANTS if name.startswith(prefix))
        raise ValueError(f"{value!r} is none of {', '.join(names)}")
    return found


def constant_name(prefix: str, value: int) -> str:
    for name, number in _api.CONSTANTS.items():
        if number == value and name.startswith(prefix):
            return name[len(prefix):].lower()
    return str(value)


def describe(name: str, **values: Any) -> tuple[Any, list]:
    """A descriptor with the library's defaults and these fields; the second value keeps what it points to alive."""
    desc = struct(name)()
    method = values.get("method")
    if method is not None and name + "_for" in _api.FUNCTIONS:      # the defaults of a method
        prefix = next(entry[2] for entry in _api.STRUCTS[name] if entry[0] == "method")
        check(getattr(lib, name + "_for")(byref(desc), sizeof(desc), constant(prefix, method)))
    else:
        init = getattr(lib, name + "_init")
        init(byref(desc), sizeof(desc))
    return desc, fill(desc, name, values)


def fill(desc: Any, name: str, values: dict[str, Any]) -> list:
    keep: list = []
    fields = _api.STRUCTS[name]
    for field, kind, prefix in fields:
        value = values.get(field)
        if value is None:
            continue
        if isinstance(value, str) and prefix:
            value = constant(prefix, value)
        elif kind == "const char *":
            value = encode(value)
            keep.append(value)
        elif kind.endswith("]"):
            value = type(getattr(desc, field))(*((value, value) if isinstance(value, int) else value))
        elif kind.endswith("*"):
            array = numbers(kind, value)
            keep.append(array)
            count = _count_field(fields, field)
            if count:
                if values.get(count) is None and getattr(desc, count) not in (0, len(array)):
                    raise ValueError(f"{field}: {len(array)} numbers, where others say that {count} is {getattr(desc, count)}")
                setattr(desc, count, len(array))
            value = ctypes.addressof(array)
        elif isinstance(value, str) and len(value) == 1:
            value = ord(value)                  # a separator
        try:
            setattr(desc, field, value)
        except TypeError as error:
            raise TypeError(f"{field}: {error}") from None
    return keep


def numbers(kind: str, value: Any) -> Any:
    """A ctypes array of what `const float *` and the like point to, from any sequence of numbers."""
    if kind == "const kd_feature_shape *":
        made = (struct("kd_feature_shape") * len(value))()
        for one, sizes in zip(made, value):
            if not 1 <= len(sizes) <= 4:
                raise ValueError(f"a tap's shape {list(sizes)}, without its batch, has 1 to 4 sizes")
            one.rank = len(sizes)
            one.size[:len(sizes)] = sizes
        return made
    if kind == "const float *const *":
        parts = [None if part is None else numbers("const float *", part) for part in value]
        made = (c_void_p * len(parts))(*(part and ctypes.addressof(part) for part in parts))
        made.parts = parts
        return made
    base = _PLAIN[kind.replace("const", "").replace("*", "").strip()]
    value = tuple(_flat(value))
    return (base * len(value))(*value)


def _flat(value: Any) -> Iterator[Any]:
    """Numbers, however nested."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (int, float)):
        yield value
        return
    for part in value:
        yield from _flat(part) if not isinstance(part, (int, float)) else (part,)


def _count_field(fields: Any, field: str) -> str | None:
    """The length of an array: the next field that is no array, if it is a size_t (the rule of gen_api.py)."""
    i = [entry[0] for entry in fields].index(field)
    while i < len(fields) and fields[i][1].endswith("*"):
        i += 1
    return fields[i][0] if i < len(fields) and fields[i][1] == "size_t" else None


# ---- objects -----------------------------------------------------------------------------------------------------------------


class Box:
    """Owns one C object and keeps what it depends on alive: freed when nobody holds it any more.  `deps` is a list so that it can
    grow; the finalizer holds it, hence an object can never go before one that needs it.  At exit nothing is freed: a daemon
    thread may be inside a call, and the system takes everything back."""

    __slots__ = ("ptr", "deps", "__weakref__")

    def __init__(self, ptr: int, free: Callable | None, *deps: Any) -> None:
        self.ptr = ptr
        self.deps = list(deps)
        if free is not None:
            weakref.finalize(self, _release, free, ptr, self.deps).atexit = False


def _release(free: Callable, ptr: int, deps: list) -> None:
    free(ptr)


class Object:
    """What every class over a C object has: close(), `with`, and a clear error after it."""

    __slots__ = ("_box", "__weakref__")
    _box: Box | None

    @property
    def _h(self) -> int:
        box = self._box
        if box is None:
            raise KdStateError(-16, f"{type(self).__name__} is closed")
        return box.ptr

    def _depend(self, other: Any) -> None:
        """This C object uses that one from now on."""
        if other is not None:
            self._held.deps.append(other._held)

    @property
    def _held(self) -> Box:
        if self._box is None:
            raise KdStateError(-16, f"{type(self).__name__} is closed")
        return self._box

    @property
    def closed(self) -> bool:
        return self._box is None

    def close(self) -> None:
        """Give the C object back now, or as soon as nothing else needs it.  A second call does nothing."""
        self._box = None

    def __enter__(self):
        self._h
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __copy__(self):
        raise TypeError(f"{type(self).__name__} cannot be copied this way")

    def __reduce__(self):
        raise TypeError(f"{type(self).__name__} cannot be pickled: save it to a file")
