"""_buffers.py - arrays of others, taken as they lie in memory: torch, NumPy, the buffer protocol, DLPack.

Nothing is imported from them and nothing is copied.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import ctypes
import sys
from array import array
from typing import Any, Sequence, Union

__all__ = ["ArrayLike", "Buf", "borrow", "new_like", "DTYPES"]

#: a libkd.Tensor, a torch tensor on the CPU, a NumPy array, array.array, memoryview, bytearray, or what offers __dlpack__
ArrayLike = Any

F32, F64, I32, I64, U8 = 1, 2, 3, 4, 5
DTYPES = {"f32": F32, "f64": F64, "i32": I32, "i64": I64, "u8": U8}
NAMES = {number: name for name, number in DTYPES.items()}
SIZES = {F32: 4, F64: 8, I32: 4, I64: 8, U8: 1}
FORMATS = {F32: "f", F64: "d", I32: "i", I64: "q", U8: "B"}
TYPESTRS = {F32: "<f4", F64: "<f8", I32: "<i4", I64: "<i8", U8: "|u1"}
_SWAP = "" if sys.byteorder == "little" else ">"
_TYPESTR = {"<f4": F32, "<f8": F64, "<i4": I32, "<i8": I64, "|u1": U8} if not _SWAP else {
    ">f4": F32, ">f8": F64, ">i4": I32, ">i8": I64, "|u1": U8}
_FORMAT = {"f": F32, "d": F64, "i": I32, "q": I64, "B": U8}
_FORMAT["l"] = I64 if ctypes.sizeof(ctypes.c_long) == 8 else I32
_DLPACK = {(2, 32): F32, (2, 64): F64, (0, 32): I32, (0, 64): I64, (1, 8): U8}
_TORCH_NAMES = {"torch.float32": F32, "torch.float64": F64, "torch.int32": I32, "torch.int64": I64, "torch.uint8": U8}
_torch: dict[Any, int] = {}


class Buf:
    """Borrowed memory: an address, a shape, strides in elements (None: contiguous), a dtype, and who keeps it alive."""

    __slots__ = ("ptr", "shape", "strides", "dtype", "readonly", "keep")

    def __init__(self, ptr: int, shape: tuple, strides: Any, dtype: int, readonly: bool, keep: Any) -> None:
        self.ptr, self.shape, self.strides, self.dtype, self.readonly, self.keep = ptr, shape, strides, dtype, readonly, keep


class _PyBuffer(ctypes.Structure):
    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
                ("readonly", ctypes.c_int), ("ndim", ctypes.c_int), ("format", ctypes.c_char_p),
                ("shape", ctypes.POINTER(ctypes.c_ssize_t)), ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
                ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)), ("internal", ctypes.c_void_p)]


class _Held:
    """A buffer that is held until this object goes: for read-only memory, of which ctypes gives no address."""

    def __init__(self, view: memoryview) -> None:
        self.view = _PyBuffer()
        if ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(self.view), 0):
            raise BufferError("the buffer cannot be had")

    def __del__(self, release: Any = ctypes.pythonapi.PyBuffer_Release, byref: Any = ctypes.byref) -> None:
        release(byref(self.view))


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


def _wrong_type(name: str, what: object) -> TypeError:
    return TypeError(f"{name}: element type {what} is none of {', '.join(DTYPES)}; convert it")


def _from_torch(x: Any, name: str) -> Buf:
    if not x.is_cpu:
        raise TypeError(f"{name} is on {x.device}; call .cpu()")
    dtype = _torch.get(x.dtype)
    if dtype is None:
        dtype = _TORCH_NAMES.get(str(x.dtype))
        if dtype is None:
            raise _wrong_type(name, x.dtype)
        _torch[x.dtype] = dtype
    return Buf(x.data_ptr(), tuple(x.shape), None if x.is_contiguous() else x.stride(), dtype, False, x)


def _from_interface(x: Any, name: str) -> Buf:
    described = x.__array_interface__
    dtype = _TYPESTR.get(described["typestr"])
    if dtype is None:
        raise _wrong_type(name, described["typestr"])
    strides = described.get("strides")
    if strides is not None:
        size = SIZES[dtype]
        if any(s % size for s in strides):
            raise ValueError(f"{name}: its strides are no multiples of its elements; call numpy.ascontiguousarray({name})")
        strides = tuple(s // size for s in strides)
    ptr, readonly = described["data"]
    return Buf(ptr, described["shape"], strides, dtype, readonly, x)


def _from_dlpack(x: Any, name: str) -> Buf:
    if x.__dlpack_device__()[0] != 1:
        raise TypeError(f"{name} is on DLPack device {x.__dlpack_device__()}; only the CPU's memory can be used")
    capsule = x.__dlpack__()
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    t = _DLTensor.from_address(get(capsule, b"dltensor"))
    dtype = _DLPACK.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        raise _wrong_type(name, f"(DLPack code {t.code}, {t.bits} bits)")
    strides = tuple(t.strides[:t.ndim]) if t.strides else None
    # the capsule, never consumed, gives the memory back when it goes
    return Buf((t.data or 0) + t.byte_offset, tuple(t.shape[:t.ndim]), strides, dtype, False, capsule)


def _from_buffer(x: Any, name: str) -> Buf:
    try:
        view = x if type(x) is memoryview else memoryview(x)
    except TypeError:
        raise TypeError(f"{name}: {type(x).__name__} is no array: pass a libkd.Tensor, NumPy array, torch tensor, array.array or "
                        "memoryview") from None
    dtype = _FORMAT.get(view.format.lstrip("@=<" if not _SWAP else "@=>"))
    if dtype is None or view.itemsize != SIZES[dtype]:
        raise _wrong_type(name, repr(view.format))
    if not view.c_contiguous:
        raise ValueError(f"{name} is not contiguous; copy it")
    if view.readonly:
        held = _Held(view)
        return Buf(held.view.buf or 0, view.shape, None, dtype, True, held)
    if not view.nbytes:
        return Buf(0, view.shape, None, dtype, False, view)
    chars = (ctypes.c_char * view.nbytes).from_buffer(view)      # it also keeps the owner from being resized
    return Buf(ctypes.addressof(chars), view.shape, None, dtype, False, chars)


def _from_gpu(x: Any, name: str) -> Buf:
    raise TypeError(f"{name} is in a GPU's memory; copy it to the CPU")


def _from_own(x: Any, name: str) -> Buf:
    return x._borrow()


# How the arrays of a type are taken, found once for each type.
_ways: dict[type, Any] = {}


def _way(x: Any) -> Any:
    for mark, way in (("_borrow", _from_own), ("data_ptr", _from_torch), ("__array_interface__", _from_interface),
                      ("__dlpack__", _from_dlpack), ("__cuda_array_interface__", _from_gpu)):
        if hasattr(x, mark):
            break
    else:
        way = _from_buffer
    if len(_ways) < 256:
        _ways[type(x)] = way
    return way


def borrow(x: ArrayLike, name: str = "array", *, dtype: Union[int, Sequence[int], None] = None, ndim: int | None = None,
           writable: bool = False, contiguous: bool = False) -> Buf:
    """The memory of an array.

    dtype: the dtype, or dtypes, that will do; None: any of f32, f64, i32, i64, u8
    writable: refuse read-only memory
    contiguous: refuse gaps
    Raises TypeError (no array, element type, not in the CPU's memory) and ValueError (dimensions, strides, read-only).
    """
    way = _ways.get(type(x)) or _way(x)
    b = way(x, name)
    if dtype is not None and b.dtype != dtype and (type(dtype) is int or b.dtype not in dtype):
        wanted = " or ".join(NAMES[d] for d in ((dtype,) if type(dtype) is int else dtype))
        raise TypeError(f"{name}: needs elements of type {wanted}, these are {NAMES[b.dtype]}")
    if ndim is not None and len(b.shape) != ndim:
        raise ValueError(f"{name}: needs {ndim} dimensions, shape is {list(b.shape)}")
    if writable and b.readonly:
        raise ValueError(f"{name} is read-only")
    if contiguous and b.strides is not None and not _no_gaps(b):
        raise ValueError(f"{name} is not contiguous; call .contiguous() or numpy.ascontiguousarray()")
    return b


def _no_gaps(b: Buf) -> bool:
    step = 1
    for size, stride in zip(reversed(b.shape), reversed(b.strides)):
        if size == 0:
            return True
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def row_stride(b: Buf, name: str) -> int:
    """Elements between the rows of a matrix [.., columns] whose rows are contiguous and evenly spaced."""
    columns = b.shape[-1]
    if b.strides is None or _no_gaps(b):
        return columns
    if len(b.shape) == 2 and (b.strides[1] == 1 or columns == 1) and b.strides[0] >= columns:
        return b.strides[0]
    raise ValueError(f"{name}: its rows are not contiguous; call .contiguous() or numpy.ascontiguousarray()")


def new_like(x: ArrayLike, shape: Sequence[int], dtype: int = F32) -> tuple[Any, Buf]:
    """A new array of the kind of `x`: torch for torch, NumPy for NumPy, else a memoryview; and its memory."""
    if hasattr(x, "data_ptr"):
        torch = sys.modules["torch"]
        made = torch.empty(tuple(shape), dtype=getattr(torch, {F32: "float32", F64: "float64", I32: "int32", I64: "int64",
                                                               U8: "uint8"}[dtype]))
        return made, _from_torch(made, "out")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(x, numpy.ndarray):
        made = numpy.empty(tuple(shape), TYPESTRS[dtype])
        return made, _from_interface(made, "out")
    made = new_view(shape, dtype)
    return made, _from_buffer(made, "out")


def new_view(shape: Sequence[int], dtype: int = F32) -> memoryview:
    """A new memoryview of zeros."""
    count = 1
    for size in shape:
        count *= size
    flat = memoryview(array(FORMATS[dtype], bytes(count * SIZES[dtype])))
    return shaped(flat, shape, dtype)


def shaped(flat: memoryview, shape: Sequence[int], dtype: int) -> memoryview:
    """A flat view in a shape; memoryview knows no sizes of 0 and no rank 0 with a format, so these stay flat."""
    if len(shape) <= 1 or 0 in shape:
        return flat
    return flat.cast("B").cast(FORMATS[dtype], tuple(shape))


def view_of(ptr: int, shape: Sequence[int], dtype: int, keep: Any) -> memoryview:
    """C memory as a writable memoryview that keeps its owner alive."""
    count = 1
    for size in shape:
        count *= size
    if not count or not ptr:
        return memoryview(array(FORMATS[dtype]))
    chars = (ctypes.c_char * (count * SIZES[dtype])).from_address(ptr)
    chars.keep = keep
    return shaped(memoryview(chars).cast("B").cast(FORMATS[dtype]), shape, dtype)
