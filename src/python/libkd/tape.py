"""tape - Tape: runs ops at once and remembers them, to go back through them for gradients.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import weakref
from ctypes import byref, c_void_p, sizeof
from typing import Any, Callable, Sequence

from . import _buffers
from ._interrupt import long_call
from ._methods import TapeMethods, TapeOps
from ._native import Box, Object, callback, carry, check, constant_name, encode, error_of, lib, size_array, struct
from .context import Context, deps
from .errors import KdError, KdStateError
from .rng import Rng
from .tensor import Tensor, TensorLike, dtype_number

__all__ = ["Tape"]

_tapes: "weakref.WeakValueDictionary[int, Tape]" = weakref.WeakValueDictionary()
_MODES = {"train": 1, "infer": 2, "eval": 3}


class Tape(Object, TapeOps, TapeMethods):
    """Every differentiable op is a method: tape.matmul(a, b), tape.relu(x).  Arguments are tensors, or arrays, which are taken
    where they lie (float32; see Tensor.wrap) and kept until reset().

    mode: "train" records for backward(), dropout drops, batch norm uses the batch; "infer" records nothing; "eval" records, with
        layers as in "infer"
    check_finite: a NaN or infinity in a result is KdNumericError naming the op

    The first error in an op raises; the tape then refuses everything until reset().  One thread at a time.
    """

    __slots__ = ("_generation", "_arrays", "_context", "_status")

    def __init__(self, mode: str = "train", *, check_finite: bool = False, context: Context | None = None) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(_MODES)}")
        out = c_void_p()
        check(lib.kd_tape_create(byref(out), Context._of(context), _MODES[mode] | (16 if check_finite else 0)))
        self._box = Box(out.value, lib.kd_tape_free, *deps(context))
        self._generation = 1
        self._arrays: list = []
        self._context = context
        self._status = lib.kd_tape_status
        _tapes[out.value] = self

    @classmethod
    def _at(cls, ptr: int) -> "Tape":
        """The tape at an address, in a callback: the caller's, or one that C made for itself (a summary)."""
        tape = _tapes.get(ptr)
        if tape is None or tape._box is None:
            tape = cls.__new__(cls)
            tape._box, tape._generation, tape._arrays, tape._context = Box(ptr, None), 1, [], None
            tape._status = lib.kd_tape_status
        return tape

    # -- what the generated methods use

    def _in(self, x: TensorLike | None) -> int | None:
        if type(x) is Tensor:
            # not the tape's own: the tape uses it until reset
            if x._tape is not self:
                self._arrays.append(x._box)
            return x._h
        if x is None:
            return None
        return self._wrapped(x)._h

    def _wrapped(self, x: Any) -> Tensor:
        t = x if isinstance(x, Tensor) else \
            Tensor(x, dtype="f32" if _real(x) else None) if isinstance(x, (int, float, list, tuple)) else Tensor.wrap(x)
        self._arrays.append(t._box)
        return t

    def _handles(self, parts: Sequence[TensorLike]) -> Any:
        return (c_void_p * len(parts))(*(self._in(part) for part in parts))

    def _out(self, ptr: int) -> Tensor:
        status = self._status(self._h)
        if status < 0:
            raise error_of(status)
        return Tensor._from(ptr, self._box, self)

    # -- life

    def reset(self) -> None:
        """Forget everything, keep the memory, clear the error.  The tape's tensors can no longer be used."""
        lib.kd_tape_reset(self._h)
        self._generation += 1
        self._arrays.clear()

    def __enter__(self) -> "Tape":
        self._h
        return self

    def __exit__(self, *exception: object) -> None:
        """A `with` block is one step: the tape is reset, not closed."""
        if self._box is not None:
            self.reset()

    @property
    def mode(self) -> str:
        return constant_name("KD_TAPE_", lib.kd_tape_mode(self._h))

    @property
    def status(self) -> int:
        """0, or the status of the first error since the last reset."""
        return lib.kd_tape_status(self._h)

    @property
    def rng(self) -> Rng:
        """The position of the stream of the random ops (dropout); set it to go on from there."""
        state = lib.kd_tape_rng(self._h)
        return Rng.from_state(state.key, state.index)

    @rng.setter
    def rng(self, rng: Rng) -> None:
        lib.kd_tape_set_rng(self._h, rng._state)

    # -- tensors and gradients

    def tensor(self, shape: Sequence[int], dtype: str | int = "f32") -> Tensor:
        """A tensor of the tape, its elements not set: an output for custom(), an input to fill."""
        return self._out(lib.kd_tape_tensor(self._h, dtype_number(dtype), len(shape), size_array(shape)))

    def constant(self, x: Any) -> Tensor:
        """A copy of float32 data (an array without gaps, or numbers) on the tape."""
        if not isinstance(x, (int, float, list, tuple)):
            b = _buffers.borrow(x, "x", dtype=_buffers.F32, contiguous=True)
        else:
            b = Tensor(x, dtype="f32")._borrow()
        return self._out(lib.kd_tape_constant(self._h, len(b.shape), size_array(b.shape), b.ptr))

    def requires_grad(self, x: TensorLike) -> Tensor:
        """Ask for the gradient of x (f32): a tensor or array of yours, or a result of this tape, whose gradient is then kept.
        Returns x as a tensor of this tape, until reset()."""
        t = x if isinstance(x, Tensor) else self._wrapped(x)
        self._out(lib.kd_requires_grad(self._h, self._in(t)))
        return t if t._tape is self else Tensor._from(t._h, t._box, self)

    def grad(self, x: Tensor) -> memoryview | None:
        """The gradient of x after backward(), in its shape; None if none reached it.  The tape's memory: it lives until reset()."""
        ptr = lib.kd_grad(self._h, x._h)
        return _buffers.view_of(ptr, x.shape, _buffers.F32, self._box) if ptr else None

    def backward(self, loss: Tensor) -> None:
        """d loss / d everything that asks for it.  Parameters add into their model's gradients; other gradients are grad(x)."""
        status = long_call(Context._of(self._context), lib.kd_backward, self._h, loss._h)
        if status < 0:
            raise error_of(status)

    # -- an op of your own

    def custom(self, forward: Callable[..., None], inputs: Sequence[TensorLike], outputs: Sequence[Sequence[int]],
               backward: Callable[..., None] | None = None, name: str = "custom") -> tuple[Tensor, ...]:
        """Run an op of your own.  `outputs` are the shapes of its results.

        forward(inputs, outputs): fill the outputs; both are lists of float32 memoryviews
        backward(inputs, outputs, output_grads, input_grads): add d loss / d inputs[i] into input_grads[i], given output_grads[i];
            either is None where there is none.  None: no gradient passes
        An exception in either is raised from here, or from Tape.backward.  At most 16 inputs and 16 outputs.

        C: kd_custom
        """
        made = [self.tensor(shape) for shape in outputs]
        views = _Views()

        def run(in_, n_in, out, n_out, user):
            try:
                forward(views(in_, n_in), views(out, n_out))
                return 0
            except BaseException as error:
                carry(error)
                return error.status if isinstance(error, KdError) else -1

        def back(in_, n_in, out, n_out, out_grads, in_grads, user):
            try:
                backward(views(in_, n_in), views(out, n_out), views.grads(out_grads, out, n_out), views.grads(in_grads, in_, n_in))
                return 0
            except BaseException as error:
                carry(error)
                return error.status if isinstance(error, KdError) else -1

        op = struct("kd_custom_op")()
        op.struct_size = sizeof(op)
        op.name = encode(name)
        op.forward = callback("kd_custom_op.forward")(run)
        if backward is not None:
            op.backward = callback("kd_custom_op.backward")(back)
        self._arrays += [op, op.forward, op.backward, op.name]       # the tape calls them until reset
        ins = self._handles(inputs)
        outs = (c_void_p * len(made))(*(t._h for t in made))
        self._out(lib.kd_custom(self._h, byref(op), ins, len(ins), outs, len(outs), None))
        return tuple(made)

    def __repr__(self) -> str:
        return "<libkd.Tape closed>" if self.closed else f"<libkd.Tape {self.mode}, {self.bytes} bytes>"


class _Views:
    """float32 memoryviews of what a custom op is given."""

    @staticmethod
    def _shape(handle: int) -> tuple[int, ...]:
        return tuple(lib.kd_tensor_size(handle, i) for i in range(lib.kd_tensor_rank(handle)))

    def __call__(self, handles: int, count: int) -> list[memoryview]:
        tensors = (c_void_p * count).from_address(handles) if count else ()
        return [_buffers.view_of(lib.kd_tensor_data(h), self._shape(h), _buffers.F32, None) for h in tensors]

    def grads(self, grads: int, handles: int, count: int) -> list[memoryview | None]:
        if not count:
            return []
        tensors, pointers = (c_void_p * count).from_address(handles), (c_void_p * count).from_address(grads)
        return [_buffers.view_of(p, self._shape(h), _buffers.F32, None) if p else None for h, p in zip(tensors, pointers)]


def _real(x: Any) -> bool:
    """Whether numbers, maybe nested, hold a float."""
    if isinstance(x, (list, tuple)):
        return any(_real(part) for part in x)
    return isinstance(x, float)


def tape_of(*args: Any) -> Tape:
    """The tape of the first argument that has one."""
    for x in args:
        if isinstance(x, (list, tuple)):
            x = next((part for part in x if isinstance(part, Tensor)), None)
        if isinstance(x, Tensor) and x.tape is not None:
            return x.tape
    raise KdStateError(-16, "none of the arguments is on a tape: use the methods of Tape")
