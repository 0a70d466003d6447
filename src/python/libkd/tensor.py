"""tensor - Tensor: a typed, strided, multi-dimensional array in libkd's hands, or yours.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import ctypes
from array import array
from ctypes import byref, c_double, c_ssize_t, c_void_p, create_string_buffer
from typing import TYPE_CHECKING, Any, Sequence, Union

from . import _buffers
from ._buffers import DTYPES, NAMES, SIZES, TYPESTRS, ArrayLike, Buf, borrow
from ._native import Box, Object, check, error_of, lib, size_array
from .context import Context, deps
from .errors import KdStateError

if TYPE_CHECKING:
    from .tape import Tape

__all__ = ["Tensor", "TensorLike"]

TensorLike = Union["Tensor", ArrayLike]


def dtype_number(dtype: str | int) -> int:
    if isinstance(dtype, int):
        return dtype
    try:
        return DTYPES[dtype]
    except KeyError:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}") from None


def dtype_size(dtype: str | int) -> int:
    """Bytes of one element."""
    return lib.kd_dtype_size(dtype_number(dtype))


def dtype_name(dtype: int) -> str:
    """"f32" for KD_F32."""
    return lib.kd_dtype_name(dtype).decode()


class Tensor(Object):
    """An array of "f32", "f64", "i32", "i64" or "u8".

    Tensor([[1, 2], [3, 4]])            from numbers, a copy
    Tensor(array, dtype="f32")          from any array (see wrap), a converted copy
    Tensor.zeros((2, 3), dtype="i64")
    Tensor.wrap(array)                  over the array's own memory, nothing is copied

    What an op returns belongs to its tape until Tape.reset(); using it later is KdStateError.  Its operators (+ - * / @ and
    unary -) are ops of that tape.  Parameters belong to their model.

    x.view() is its memory as a writable memoryview; numpy.asarray(x) shares it too (for a tape's tensors it is a copy, so that
    it survives the reset); x.tolist() and x.item() are plain numbers.
    """

    __slots__ = ("_ptr", "_tape", "_generation", "_shape", "_dtype", "_readonly")

    def __init__(self, data: Any, *, dtype: str | int | None = None, context: Context | None = None) -> None:
        shape, code, source = _source(data)
        wanted = code if dtype is None else dtype_number(dtype)
        self._adopt(*_create(shape, wanted, context))
        check(lib.kd_tensor_copy(self._ptr, source._ptr))

    def _adopt(self, ptr: int, box: Box, tape: "Tape | None" = None) -> "Tensor":
        self._ptr, self._box, self._tape = ptr, box, tape
        self._generation = 0 if tape is None else tape._generation
        self._shape = self._dtype = None
        self._readonly = False
        return self

    @classmethod
    def _from(cls, ptr: int, box: Box, tape: "Tape | None" = None) -> "Tensor":
        return cls.__new__(cls)._adopt(ptr, box, tape)

    # -- making

    @classmethod
    def zeros(cls, shape: Sequence[int], dtype: str | int = "f32", *, context: Context | None = None) -> "Tensor":
        """A new tensor of zeros, contiguous."""
        return cls._from(*_create(tuple(shape), dtype_number(dtype), context))

    @classmethod
    def full(cls, shape: Sequence[int], value: float, dtype: str | int = "f32", *, context: Context | None = None) -> "Tensor":
        made = cls.zeros(shape, dtype, context=context)
        made.fill(value)
        return made

    @classmethod
    def wrap(cls, x: ArrayLike, *, context: Context | None = None) -> "Tensor":
        """A tensor over the memory of a torch tensor (CPU), NumPy array, array.array, memoryview, or what offers DLPack.
        Nothing is copied; the array is kept alive.  Any strides that count whole elements will do.  Read-only memory makes a
        tensor that can be read only."""
        if isinstance(x, Tensor):
            return x
        b = borrow(x, "array")
        strides = None if b.strides is None else (c_ssize_t * len(b.strides))(*b.strides)
        out = c_void_p()
        check(lib.kd_tensor_wrap(byref(out), Context._of(context), b.dtype, len(b.shape), size_array(b.shape), strides,
                                 b.ptr or None))
        made = cls._from(out.value, Box(out.value, lib.kd_tensor_free, b.keep, *deps(context)))
        made._readonly = b.readonly
        return made

    # -- what it is

    @property
    def _h(self) -> int:
        if self._box is None:
            raise KdStateError(-16, "Tensor is closed")
        if self._tape is not None and self._generation != self._tape._generation:
            raise KdStateError(-16, "this tensor went with Tape.reset(): use it before, or keep a copy (Tensor(x))")
        return self._ptr

    @property
    def shape(self) -> tuple[int, ...]:
        if self._shape is None:
            h = self._h
            self._shape = tuple(lib.kd_tensor_size(h, i) for i in range(lib.kd_tensor_rank(h)))
        return self._shape

    @property
    def dtype(self) -> str:
        """"f32", "f64", "i32", "i64" or "u8"."""
        return NAMES[self._code]

    @property
    def _code(self) -> int:
        if self._dtype is None:
            self._dtype = lib.kd_tensor_dtype(self._h)
        return self._dtype

    @property
    def rank(self) -> int:
        return lib.kd_tensor_rank(self._h)

    ndim = rank

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        h = self._h
        return tuple(lib.kd_tensor_stride(h, i) for i in range(lib.kd_tensor_rank(h)))

    @property
    def count(self) -> int:
        """Elements, all axes."""
        return lib.kd_tensor_count(self._h)

    @property
    def contiguous(self) -> bool:
        """Row-major without gaps."""
        return lib.kd_tensor_contiguous(self._h) != 0

    @property
    def data_address(self) -> int:
        """The address of element [0, .., 0]."""
        return lib.kd_tensor_data(self._h) or 0

    @property
    def f32_address(self) -> int:
        """The same of a tensor of float32; KdTypeError for any other."""
        ptr = lib.kd_tensor_f32(self._h)
        if not ptr and self._code != _buffers.F32:
            raise error_of(-3)
        return ptr or 0

    @property
    def tape(self) -> "Tape | None":
        """The tape it belongs to."""
        return self._tape

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a tensor of rank 0")
        return self.shape[0]

    # -- values

    def item(self) -> float | int:
        """The value of a tensor with exactly one element."""
        if self.count != 1:
            raise ValueError(f"item(): shape {list(self.shape)} has {self.count} elements")
        value = lib.kd_tensor_item(self._h)
        return value if self._code in (_buffers.F32, _buffers.F64) else int(value)

    __float__ = item

    def __int__(self) -> int:
        return int(self.item())

    def get(self, *index: int) -> float:
        """The element at an index, as a float."""
        self._check_index(index)
        out = c_double()
        check(lib.kd_tensor_get(self._h, size_array(index), byref(out)))
        return out.value

    def set(self, *index_and_value: float) -> None:
        """set(i, j, .., value)"""
        self._may_write()
        index = index_and_value[:-1]
        self._check_index(index)
        check(lib.kd_tensor_set(self._h, size_array(index), index_and_value[-1]))

    def _check_index(self, index: Sequence[Any]) -> None:
        if len(index) != len(self.shape):
            raise ValueError(f"an index of {len(index)} numbers for shape {list(self.shape)}")

    def _may_write(self) -> None:
        if self._readonly:
            raise ValueError("a tensor over read-only memory")

    def fill(self, value: float) -> None:
        """Every element = value."""
        self._may_write()
        check(lib.kd_tensor_fill(self._h, value))

    def copy(self, source: TensorLike) -> None:
        """self[i] = source[i], converting.  Shapes must match; a float that does not fit an integer is KdRangeError."""
        self._may_write()
        check(lib.kd_tensor_copy(self._h, Tensor.wrap(source)._h))

    def clone(self) -> "Tensor":
        """A new contiguous tensor with the same elements, yours."""
        made = self._owned(lib.kd_tensor_clone)
        made._tape, made._readonly = None, False
        return made

    def tolist(self) -> Any:
        """Nested lists of numbers."""
        flat = self.flat_view() if self.contiguous else self.clone().flat_view()
        values = flat.tolist()
        for size in reversed(self.shape[1:]):
            values = [values[i:i + size] for i in range(0, len(values), size)] if size else [[] for _ in range(self._rows())]
        return values if self.shape else values[0]

    def _rows(self) -> int:
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows

    def view(self) -> memoryview:
        """The tensor's own memory as a memoryview in its shape, writable unless it was wrapped over read-only memory;
        ValueError for a strided one (clone() it).  A tape's
        memory is used again after reset()."""
        return _buffers.shaped(self.flat_view(), self.shape, self._code)

    def flat_view(self) -> memoryview:
        """The same, [count]."""
        if not self.contiguous:
            raise ValueError("a strided tensor has no view; clone() it first")
        view = _buffers.view_of(self.data_address, (self.count,), self._code, self._box)
        return view.toreadonly() if self._readonly else view

    def _borrow(self) -> Buf:
        return Buf(self.data_address, self.shape, None if self.contiguous else self.strides, self._code, self._readonly, self._box)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy

        source = self if self.contiguous else self.clone()
        # frombuffer shares the memory and keeps its owner, whatever becomes of this object
        shared = numpy.frombuffer(source.flat_view(), TYPESTRS[self._code]).reshape(self.shape)
        if self._tape is not None and copy is None or copy:
            shared = shared.copy()
        return shared if dtype is None else shared.astype(dtype, copy=False)

    # -- other views of it

    def _owned(self, function: Any, *args: Any) -> "Tensor":
        out = c_void_p()
        check(function(byref(out), self._h, *args))
        made = Tensor._from(out.value, Box(out.value, lib.kd_tensor_free, self._box), self._tape)
        made._readonly = self._readonly
        return made

    def alias(self) -> "Tensor":
        """A tensor of its own over the same memory; a constant for tapes."""
        return self._owned(lib.kd_tensor_view)

    def reshape(self, *shape: int) -> "Tensor":
        """The same memory in another shape; one size may be -1.  Of a tape's tensor it is the op."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if self._tape is not None:
            return self._tape.reshape(self, sizes)
        return self._owned(lib.kd_tensor_reshape, len(sizes), size_array(sizes))

    def slice(self, axis: int, begin: int, end: int, step: int = 1) -> "Tensor":
        """Indices [begin, end) of an axis, every step-th; the same memory.  Of a tape's tensor it is the op, with step 1 only."""
        if self._tape is not None:
            if step != 1:
                raise ValueError(f"slice: step {step} of a tape's tensor")
            return self._tape.slice(self, axis, begin, end)
        return self._owned(lib.kd_tensor_slice, axis, begin, end, step)

    def transpose(self, *perm: int) -> "Tensor":
        """Axis i of the result is axis perm[i]; none given: all reversed.  The same memory.  Of a tape's tensor it is the op."""
        if self._tape is not None:
            return self._tape.permute(self, perm or tuple(reversed(range(self.rank))))
        return self._owned(lib.kd_tensor_transpose, size_array(perm) if perm else None)

    # -- on its tape

    def requires_grad(self) -> "Tensor":
        """Ask its tape for the gradient of this tensor (see Tape.requires_grad)."""
        return self._on_tape().requires_grad(self)

    @property
    def grad(self) -> memoryview | None:
        """The gradient after Tape.backward, if requires_grad asked for it; a view that lives until the tape is reset."""
        return self._on_tape().grad(self)

    def backward(self) -> None:
        """d self / d everything that asks for it (Tape.backward)."""
        self._on_tape().backward(self)

    def _on_tape(self) -> "Tape":
        if self._tape is None:
            raise KdStateError(-16, "this tensor is on no tape: use the methods of Tape")
        return self._tape

    def _binary(self, other: Any, op: str, reverse: bool = False) -> Any:
        tape = self._tape
        if isinstance(other, Tensor):
            tape = tape or other._tape
        if tape is None:
            return NotImplemented
        if isinstance(other, (int, float)):
            if op == "add":
                return tape.scale(self, 1.0, other)
            if op == "sub":
                return tape.scale(self, -1.0, other) if reverse else tape.scale(self, 1.0, -other)
            if op == "mul":
                return tape.scale(self, other)
            if op == "div" and not reverse:
                return tape.div(self, [float(other)])
            other = Tensor([float(other)])
        function = getattr(tape, op)
        return function(other, self) if reverse else function(self, other)

    def __add__(self, other: Any) -> "Tensor":
        return self._binary(other, "add")

    def __radd__(self, other: Any) -> "Tensor":
        return self._binary(other, "add", True)

    def __sub__(self, other: Any) -> "Tensor":
        return self._binary(other, "sub")

    def __rsub__(self, other: Any) -> "Tensor":
        return self._binary(other, "sub", True)

    def __mul__(self, other: Any) -> "Tensor":
        return self._binary(other, "mul")

    def __rmul__(self, other: Any) -> "Tensor":
        return self._binary(other, "mul", True)

    def __truediv__(self, other: Any) -> "Tensor":
        return self._binary(other, "div")

    def __rtruediv__(self, other: Any) -> "Tensor":
        return self._binary(other, "div", True)

    def __matmul__(self, other: Any) -> "Tensor":
        return self._binary(other, "matmul")

    def __rmatmul__(self, other: Any) -> "Tensor":
        return self._binary(other, "matmul", True)

    def __neg__(self) -> "Tensor":
        return self._on_tape().neg(self)

    __array_ufunc__ = None     # numpy_array * tensor comes here

    # -- text

    def __str__(self) -> str:
        h = self._h
        text = create_string_buffer(lib.kd_tensor_format(h, None, 0) + 1)
        lib.kd_tensor_format(h, text, len(text))
        return text.value.decode()

    def __repr__(self) -> str:
        try:
            return f"<libkd.Tensor {self}>"
        except KdStateError as error:
            return f"<libkd.Tensor: {error}>"

    def close(self) -> None:
        """Give the memory back (a tensor of your own), once its views are gone."""
        self._box = None


def _create(shape: tuple, dtype: int, context: Context | None) -> tuple[int, Box]:
    out = c_void_p()
    check(lib.kd_tensor_create(byref(out), Context._of(context), dtype, len(shape), size_array(shape)))
    return out.value, Box(out.value, lib.kd_tensor_free, *deps(context))


def _source(data: Any) -> tuple[tuple, int, Tensor]:
    """Shape, dtype and a tensor over `data`: an array, or numbers in nested sequences."""
    if isinstance(data, (int, float)):
        values, shape = [data], ()
    elif isinstance(data, (list, tuple, range)):
        shape = _shape_of(data)
        values = _flat(data, shape)
    else:
        t = Tensor.wrap(data)
        return t.shape, t._code, t
    real = not values or any(isinstance(v, float) for v in values)
    flat = array("d" if real else "q", values)
    code = _buffers.F32 if real else _buffers.I64
    out, sizes = c_void_p(), size_array(shape)
    memory = (ctypes.c_char * max(len(flat) * flat.itemsize, 1)).from_buffer(flat) if len(flat) else None
    check(lib.kd_tensor_wrap(byref(out), None, _buffers.F64 if real else _buffers.I64, len(shape), sizes, None,
                             ctypes.addressof(memory) if memory is not None else None))
    return shape, code, Tensor._from(out.value, Box(out.value, lib.kd_tensor_free, memory))


def _shape_of(data: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(data, (list, tuple, range)):
        shape.append(len(data))
        if not len(data):
            break
        data = data[0]
    return tuple(shape)


def _flat(data: Any, shape: tuple) -> list:
    level = [data]
    for size in shape:
        if any(not isinstance(part, (list, tuple, range)) or len(part) != size for part in level):
            raise ValueError("nested lists of unequal lengths")
        level = [value for part in level for value in part]
    return level
