"""io - safetensors, NPY, IDX, CSV and checkpoints.  Reading distrusts every byte, writing replaces a file atomically.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p, c_size_t, c_void_p, sizeof
from typing import Any, Iterator, Mapping, NamedTuple

from ._buffers import borrow
from ._methods import CheckpointMethods
from ._native import Box, Object, check, check_path, decode, encode, encode_path, lib, struct
from .context import Context, deps
from .tensor import Tensor, TensorLike

__all__ = ["open_safetensors", "load_safetensors", "save_safetensors", "load_npy", "save_npy", "load_idx", "load_csv",
           "SafeFile", "Info",
           "Checkpoint"]

_NOT_FOUND = c_size_t(-1).value


class Info(NamedTuple):
    """One tensor of a safetensors file."""

    name: str
    dtype: str                 #: as in the file: "F32", "BF16"
    shape: "tuple[int, ...]"
    offset: int                #: absolute position in the file
    bytes: int


class SafeFile(Object):
    """A safetensors file, its header checked: a mapping from names to tensors, which are read when asked for.

    F32, F64, I32, I64 and U8 come as they are; F16 and BF16 become f32; BOOL becomes u8.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike, *, lenient: bool = False, context: Context | None = None) -> None:
        out = c_void_p()
        check_path(lib.kd_safetensors_open(byref(out), Context._of(context), encode_path(path), 1 if lenient else 0), path)
        self._box = Box(out.value, lib.kd_safetensors_close, *deps(context))
        self.path = path

    def __len__(self) -> int:
        return lib.kd_safetensors_count(self._h)

    def infos(self) -> list[Info]:
        """In the order of the data."""
        return [self._at(i) for i in range(len(self))]

    def _at(self, i: int) -> Info:
        info = struct("kd_safetensors_info")()
        info.struct_size = sizeof(info)
        check(lib.kd_safetensors_at(self._h, i, byref(info)))
        shape = tuple((c_size_t * info.rank).from_address(info.shape)) if info.rank else ()
        return Info(decode(info.name), decode(info.dtype), shape, info.offset, info.bytes)

    def keys(self) -> list[str]:
        return [info.name for info in self.infos()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: str) -> bool:
        return lib.kd_safetensors_find(self._h, encode(name)) != _NOT_FOUND

    def _find(self, name: str) -> int:
        i = lib.kd_safetensors_find(self._h, encode(name))
        if i == _NOT_FOUND:
            raise KeyError(f"{os.fspath(self.path)!r} has no tensor {name!r}")
        return i

    def info(self, name: str) -> Info:
        return self._at(self._find(name))

    def read(self, name: str, out: Any = None) -> Tensor:
        """A new tensor, or `out`, an array of the same shape that is filled, converting."""
        ptr = c_void_p()
        check_path(lib.kd_safetensors_read(self._h, self._find(name), byref(ptr)), self.path)
        tensor = Tensor._from(ptr.value, Box(ptr.value, lib.kd_tensor_free, self._held))
        if out is None:
            return tensor
        borrow(out, "out", writable=True)
        target = Tensor.wrap(out)
        target.copy(tensor)
        return out

    __getitem__ = read

    def metadata(self, key: str) -> str | None:
        """The value of a __metadata__ key; None if there is none."""
        return decode(lib.kd_safetensors_metadata(self._h, encode(key)))

    def __repr__(self) -> str:
        return f"<libkd.SafeFile {os.fspath(self.path)!r}{' closed' if self.closed else ''}>"


def open_safetensors(path: str | os.PathLike, *, lenient: bool = False, context: Context | None = None) -> SafeFile:
    """Open a safetensors file: `with libkd.io.open_safetensors(path) as f: w = f["fc.weight"]`.

    lenient: accept white space around the header that the format does not allow
    KdIOError, KdFormatError with the byte offset.
    """
    return SafeFile(path, lenient=lenient, context=context)


def load_safetensors(path: str | os.PathLike, *, context: Context | None = None) -> dict[str, Tensor]:
    """Every tensor of a file, by name."""
    with SafeFile(path, context=context) as file:
        return {name: file.read(name) for name in file.keys()}


def save_safetensors(path: str | os.PathLike, tensors: Mapping[str, TensorLike], metadata: Mapping[str, str] | None = None, *,
                     context: Context | None = None) -> None:
    """Write arrays under their names, atomically.  Names are unique, valid UTF-8, not "__metadata__"."""
    names = (c_char_p * len(tensors))(*(encode(name) for name in tensors))
    held = [Tensor.wrap(x) for x in tensors.values()]
    handles = (c_void_p * len(held))(*(t._h for t in held))
    words = [encode(word) for item in (metadata or {}).items() for word in item]
    check_path(lib.kd_safetensors_save(Context._of(context), encode_path(path), names, handles, len(held),
                                       (c_char_p * len(words))(*words) if words else None, len(words)), path)


def _load(function: Any, path: str | os.PathLike, out: Any, context: Context | None, *args: Any) -> Any:
    ptr = c_void_p()
    check_path(function(byref(ptr), Context._of(context), encode_path(path), *args), path)
    tensor = Tensor._from(ptr.value, Box(ptr.value, lib.kd_tensor_free, *deps(context)))
    if out is None:
        return tensor
    borrow(out, "out", writable=True)
    Tensor.wrap(out).copy(tensor)
    return out


def load_npy(path: str | os.PathLike, out: Any = None, *, context: Context | None = None) -> Tensor:
    """A NumPy .npy file (C order; f4 f8 i4 i8 u1 b1).  Never unpickles.  out: an array to fill."""
    return _load(lib.kd_npy_load, path, out, context)


def load_idx(path: str | os.PathLike, out: Any = None, *, context: Context | None = None) -> Tensor:
    """An IDX file (MNIST): u8, i32, f32, f64."""
    return _load(lib.kd_idx_load, path, out, context)


def load_csv(path: str | os.PathLike, separator: str = ",", skip_lines: int = 0, *, context: Context | None = None) -> Tensor:
    """Numbers in text: f32 [rows, columns].  A space as the separator stands for any run of spaces and tabs."""
    return _load(lib.kd_csv_load, path, None, context, ord(separator), skip_lines)


def save_npy(path: str | os.PathLike, x: TensorLike) -> None:
    """Write one array as .npy (version 1.0), atomically."""
    t = Tensor.wrap(x)
    kind = {"f32": "<f4", "f64": "<f8", "i32": "<i4", "i64": "<i8", "u8": "|u1"}[t.dtype]
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {t.shape!r}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    data = (t if t.contiguous else t.clone()).flat_view()
    part = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1"))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        try:
            os.unlink(part)
        except OSError:
            pass
        raise


class Checkpoint(Object, CheckpointMethods):
    """One file with everything a run needs.

        cp = Checkpoint(student=model, opt=optimizer, batches=loader, tape=tape)
        cp.save("run.kd");  cp.load("run.kd")

    Objects are registered under names of your choice; save and load any number of times.  load is all or nothing.  A run that loads
    it continues to the same bits as one that never stopped.
    """

    __slots__ = ()

    def __init__(self, *, context: Context | None = None, **objects: Any) -> None:
        out = c_void_p()
        check(lib.kd_checkpoint_create(byref(out), Context._of(context)))
        self._box = Box(out.value, lib.kd_checkpoint_free, *deps(context))
        for name, thing in objects.items():
            self.add(name, thing)

    def add(self, name: str, thing: Any) -> None:
        """Register a Model, Optimizer, Ema, Loader, Tape, LossDistill, LossFeature, or a writable buffer of plain bytes of
        yours (bytearray, array.array: an epoch counter, a best accuracy)."""
        if isinstance(thing, Object):
            kind = type(thing).__mro__
            for known in kind:
                method = getattr(self, "add_" + _ADD.get(known.__name__, ""), None)
                if method is not None:
                    method(name, thing)
                    return
            raise TypeError(f"{name}: a {type(thing).__name__} has no state to keep")
        self.add_bytes(name, thing)

    def add_bytes(self, name: str, data: Any) -> None:
        """Plain bytes of yours: a writable buffer, which load() writes into."""
        view = memoryview(data)
        if view.readonly:
            raise TypeError(f"{name}: read-only buffer; use bytearray or array.array")
        memory = (ctypes.c_char * view.nbytes).from_buffer(view)
        check(lib.kd_checkpoint_add_bytes(self._h, encode(name), memory, view.nbytes))
        self._held.deps.append(memory)

    def save(self, path: str | os.PathLike) -> None:
        """Atomic.  KdIOError."""
        check_path(lib.kd_checkpoint_save(self._h, encode_path(path)), path)

    def load(self, path: str | os.PathLike) -> None:
        """All or nothing.  KdIOError, KdFormatError (broken, cut short, checksum, newer version), KdArgumentError naming the
        section and the parameter that differs: then nothing has changed."""
        check_path(lib.kd_checkpoint_load(self._h, encode_path(path)), path)


# class to the end of its add_ method, which the headers give
_ADD = {"Model": "model", "Optimizer": "optimizer", "Ema": "ema", "Loader": "loader", "Tape": "tape", "LossDistill": "loss",
        "LossFeature": "feature_loss"}
