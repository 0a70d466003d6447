"""model - Model: a tree of named layers with its parameters in one block.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import itertools
import os
from ctypes import byref, c_char_p, c_size_t, c_void_p, create_string_buffer, sizeof
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from . import _buffers
from ._interrupt import long_call
from ._methods import LayerBuilders, LayerMethods, ModelMethods
from ._native import (Box, Object, callback, carry, check, check_path, decode, encode, encode_path, error_of, lib, numbers,
                      size_array,
                      struct)
from .context import Context, deps
from .errors import KdArgumentError, KdError, KdStateError
from .tape import Tape
from .tensor import Tensor, TensorLike

__all__ = ["Model", "Layer", "Parameter"]

_LINEAR, _CONV, _BUFFER = 1, 2, 8


class Parameter(NamedTuple):
    """One parameter or buffer of a model."""

    name: str                          #: "layer1.0.conv1.weight"
    tensor: Tensor                     #: the model's own; write through it, then Model.touch()
    grad: "memoryview | None"          #: its part of the gradients, in its shape; None for a buffer
    kind: int                          #: KD_PARAM_*: how it is stored in files
    offset: int                        #: of its first float in Model.weights (or Model.buffers)

    @property
    def is_buffer(self) -> bool:
        """State that is saved but not trained."""
        return bool(self.kind & _BUFFER)

    @property
    def file_axes(self) -> "tuple[int, ...]":
        """Axis i in files, and in PyTorch, is axis file_axes[i] here."""
        rank = self.tensor.rank
        kind = self.kind & ~_BUFFER
        if kind == _LINEAR and rank == 2:
            return (1, 0)
        if kind == _CONV:
            return (rank - 1, rank - 2, *range(rank - 2))
        return tuple(range(rank))


class Layer(Object, LayerBuilders, LayerMethods):
    """A node of a model's tree; the model owns it.  Its methods add layers below it, in order.

    `name` is one component of a dotted path, unique in its parent; None: the layer's position, as in PyTorch's Sequential.
    """

    __slots__ = ("_model",)

    def __init__(self) -> None:
        raise TypeError("layers come from Model.root and its methods")

    @classmethod
    def _from(cls, ptr: int, box: Box, model: "Model | None") -> "Layer":
        layer = cls.__new__(cls)
        layer._box, layer._model = Box(ptr, None, box), model
        return layer

    def _layer(self, ptr: int) -> "Layer":
        # builders are sticky in C: after an error all they return is a layer without a path, and finish says why
        if not lib.kd_layer_path(ptr):
            if self._model is None:
                raise KdStateError(-16, "layers cannot be added while the model runs")
            check(lib.kd_model_finish(self._model._h, 0))
        return Layer._from(ptr, self._held, self._model)

    def block(self, forward: "Callable[[Layer, Tape, Tensor], Tensor]", *, name: str | None = None, type: str = "block") -> "Layer":
        """A block of your own: forward(layer, tape, x) returns a tensor of `tape`, made by ops, the block's parameters
        (layer.parameter("weight")) and its children (layer.child("0").forward(tape, y)).  Add these to the layer that is returned:
        add_parameter, add_buffer, linear, ..  An exception in it is raised from Model.forward.

        C: kd_layer_block
        """
        return self._layer(_make_block(self, forward, name, type))

    def add_parameter(self, name: str, shape: Sequence[int], init: str | int = "zeros", a: float = 0.0, b: float = 0.0) -> None:
        """A parameter of a block.  init: "zeros", "ones", "constant" (a), "uniform" [a, b), "normal" (mean a, deviation b),
        "trunc_normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "fan_in_uniform".
        An error is raised by Model.finish.

        C: kd_layer_add_parameter
        """
        LayerMethods.add_parameter(self, name, shape, init, a, b)

    def add_buffer(self, name: str, shape: Sequence[int], value: float = 0.0) -> None:
        """A buffer of a block: state that is saved but not trained.  An error is raised by Model.finish.

        C: kd_layer_add_buffer
        """
        LayerMethods.add_buffer(self, name, shape, value)

    def parameter(self, name: str) -> Tensor:
        """The parameter or buffer of this layer by its own name, once the model is finished."""
        ptr = lib.kd_layer_parameter(self._h, encode(name))
        if not ptr:
            raise KdArgumentError(-1, f"layer {self.path!r} has no parameter {name!r}, or the model is not finished")
        return Tensor._from(ptr, self._held)

    def child(self, path: str) -> "Layer":
        """A layer below this one: "0.conv1"."""
        ptr = lib.kd_layer_child(self._h, encode(path))
        if not ptr:
            raise KdArgumentError(-1, f"layer {self.path!r} has no {path!r}")
        return Layer._from(ptr, self._held, self._model)

    def forward(self, tape: Tape, x: TensorLike) -> Tensor:
        """Run this layer alone.

        C: kd_layer_forward
        """
        tape._arrays.append(self._held)
        return tape._out(long_call(Context._of(tape._context), lib.kd_layer_forward, self._h, tape._h, tape._in(x)))

    def __repr__(self) -> str:
        return f"<libkd.Layer {self.path!r}>"


class Model(Object, ModelMethods):
    """An empty model.  Add layers to `root`, then finish(seed):

        model = libkd.Model()
        model.root.linear(64, 32, name="fc1")
        model.root.activation("relu")
        model.root.linear(32, 10, name="fc2")
        model.finish(seed=1)

    Finished ones are in libkd.zoo.  Images are [batch, height, width, channels], sequences [batch, steps, features].
    """

    __slots__ = ("_context",)

    def __init__(self, *, context: Context | None = None) -> None:
        out = c_void_p()
        check(lib.kd_model_create(byref(out), Context._of(context)))
        self._set(out.value, context)

    def _set(self, ptr: int, context: Context | None, *more: Any) -> "Model":
        self._box = Box(ptr, lib.kd_model_free, *deps(context), *more)
        self._context = context
        return self

    @classmethod
    def _adopt(cls, ptr: int, context: Context | None) -> "Model":
        return cls.__new__(cls)._set(ptr, context)

    # -- building

    @property
    def root(self) -> Layer:
        """The root: a sequence."""
        return Layer._from(lib.kd_model_root(self._h), self._held, self)

    def finish(self, seed: int = 0) -> "Model":
        """Allocate and initialise the parameters from streams of `seed`; after it layers can no longer be added.  Returns self."""
        check(lib.kd_model_finish(self._h, seed))
        return self

    def clone(self) -> "Model":
        """A second model with the same architecture, parameters, buffers and taps; not frozen."""
        out = c_void_p()
        check(lib.kd_model_clone(byref(out), self._h))
        return Model.__new__(Model)._set(out.value, self._context)

    # -- running

    def forward(self, tape: Tape, x: TensorLike) -> Tensor:
        """Run the model on a tape.  Shapes and lifetime of the result as for any op; errors name the layer.  Ctrl-C stops it.

        C: kd_model_forward
        """
        tape._arrays.append(self._held)
        return tape._out(long_call(Context._of(tape._context), lib.kd_model_forward, self._h, tape._h, tape._in(x)))

    __call__ = forward

    def predict(self, x: TensorLike) -> Tensor:
        """forward() on an "infer" tape of its own; the result is yours."""
        tape = Tape("infer", context=self._context)
        return self.forward(tape, x).clone()

    def tapped(self, tape: Tape, path: str) -> Tensor:
        """The output of the layer at `path` in the last forward on `tape`; tap(path) must have asked for it before."""
        return tape._out(lib.kd_model_tapped(self._h, tape._h, encode(path)))

    def summary(self, input_shape: Sequence[int]) -> str:
        """A table: layer, type, output shape, parameters, multiply-adds.  The first size of the shape is the batch."""
        sizes = size_array(input_shape)
        need = lib.kd_model_summary(self._h, len(input_shape), sizes, None, 0)
        if not need:
            raise error_of(-1)
        text = create_string_buffer(need + 1)
        lib.kd_model_summary(self._h, len(input_shape), sizes, text, len(text))
        return text.value.decode()

    def layer(self, path: str) -> Layer:
        """The layer at a dotted path; "" is the root."""
        return self.root.child(path) if path else self.root

    # -- parameters

    def parameter_at(self, i: int) -> Parameter:
        info = struct("kd_param_info")()
        info.struct_size = sizeof(info)
        check(lib.kd_model_parameter_at(self._h, i, byref(info)))
        return self._parameter(info)

    def find(self, name: str) -> Parameter:
        """A parameter or buffer by its full name."""
        info = struct("kd_param_info")()
        info.struct_size = sizeof(info)
        check(lib.kd_model_find(self._h, encode(name), byref(info)))
        return self._parameter(info)

    def _parameter(self, info: Any) -> Parameter:
        tensor = Tensor._from(info.tensor, self._held)
        grad = _buffers.view_of(info.grad, tensor.shape, _buffers.F32, self._held) if info.grad else None
        return Parameter(decode(info.name), tensor, grad, info.kind, info.offset)

    def parameters(self, buffers: bool = False) -> dict[str, Tensor]:
        """Name to tensor, in the tree's order.  The tensors are the model's own: after writing to one call touch()."""
        return {p.name: p.tensor for p in self.parameter_infos() if buffers or not p.is_buffer}

    def parameter_infos(self) -> list[Parameter]:
        """Everything about each parameter, then each buffer."""
        return [self.parameter_at(i) for i in range(self.parameter_count)]

    def grad(self, name: str) -> memoryview:
        """The gradient of the parameter `name`, in its shape; the model's memory."""
        tensor = self.find(name).tensor
        ptr = lib.kd_model_grad(self._h, encode(name))
        if not ptr:
            raise KdArgumentError(-1, f"{name!r} has no gradient: it is a buffer")
        return _buffers.view_of(ptr, tensor.shape, _buffers.F32, self._held)

    def _floats(self, function: Callable) -> memoryview:
        count = c_size_t()
        ptr = function(self._h, byref(count))
        if not ptr and not count.value and not self.parameter_count:
            raise KdStateError(-16, "the model is not finished")
        return _buffers.view_of(ptr, (count.value,), _buffers.F32, self._held)

    @property
    def weights(self) -> memoryview:
        """All parameters as one array of floats (each begins at a multiple of 16, the gaps are zeros): for an all-reduce, a
        hash, an optimizer of your own.  After writing call touch()."""
        return self._floats(lib.kd_model_weights)

    @property
    def grads(self) -> memoryview:
        """All gradients, laid out as `weights`."""
        return self._floats(lib.kd_model_grads)

    @property
    def buffers(self) -> memoryview:
        """All buffers (running means and variances) as one array of floats."""
        return self._floats(lib.kd_model_buffers)

    def copy(self, source: "Model") -> None:
        """Parameters and buffers of another model into this one; names and shapes must agree."""
        check(lib.kd_model_copy(self._h, source._h))

    def set_input_norm(self, mean: Any = None, std: Any = None) -> None:
        """forward computes (x - mean) / std over the last axis first; saved with the model.  Numbers, or one for each channel;
        none given: no normalisation."""
        if mean is None and std is None:
            check(lib.kd_model_set_input_norm(self._h, 0, None, None))
            return
        mean, std = numbers("float *", 0.0 if mean is None else mean), numbers("float *", 1.0 if std is None else std)
        if len(mean) != len(std):
            raise ValueError(f"set_input_norm: {len(mean)} means and {len(std)} deviations")
        check(lib.kd_model_set_input_norm(self._h, len(mean), mean, std))

    def state(self) -> dict[str, Tensor]:
        """Name to tensor of every parameter and buffer, in PyTorch's layout (linear [out, in], convolution [out, in, kh, kw]):
        contiguous copies, yours."""
        return {p.name: p.tensor.transpose(*p.file_axes).clone() for p in self.parameter_infos()}

    def load_state(self, state: Mapping[str, TensorLike], *, missing_ok: bool = False, extra_ok: bool = False) -> None:
        """Parameters and buffers from arrays in PyTorch's layout, by name: all or nothing.  "num_batches_tracked" entries are
        passed over; other dtypes are converted.  KdArgumentError lists the names that are missing, unexpected or
        of another shape."""
        infos = {p.name: p for p in self.parameter_infos()}
        given = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
        wrong = []
        if not missing_ok:
            wrong += [f"missing: {name}" for name in infos if name not in given]
        if not extra_ok:
            wrong += [f"unexpected: {name}" for name in given if name not in infos]
        pairs = []
        for name in given:
            if name in infos:
                p = infos[name]
                source = Tensor.wrap(given[name])
                want = tuple(p.tensor.shape[axis] for axis in p.file_axes)
                if source.shape != want:
                    wrong.append(f"{name}: shape {list(source.shape)}, the model needs {list(want)}")
                pairs.append((p, source))
        if wrong:
            raise KdArgumentError(-2, "load_state: " + "; ".join(wrong))
        for p, source in pairs:
            p.tensor.transpose(*p.file_axes).copy(source)
        self.touch()

    # -- files

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file in PyTorch's layout, buffers included.  Atomic.  KdIOError."""
        check_path(lib.kd_model_save(self._h, encode_path(path)), path)

    def load(self, path: str | os.PathLike, *, missing_ok: bool = False, extra_ok: bool = False,
             resize_positions: bool = False) -> None:
        """Read a safetensors file, libkd's or PyTorch's: all or nothing.  KdArgumentError and KdFormatError list what is missing,
        unexpected or of another shape.

        missing_ok: parameters the file lacks keep their values
        extra_ok: tensors the model lacks are passed over
        resize_positions: "pos_embed" of another grid is interpolated
        """
        flags = (1 if missing_ok else 0) | (2 if extra_ok else 0) | (4 if resize_positions else 0)
        check_path(lib.kd_model_load(self._h, encode_path(path), flags), path)

    def __repr__(self) -> str:
        return "<libkd.Model closed>" if self.closed else f"<libkd.Model, {self.size} parameters>"


# ---- blocks ------------------------------------------------------------------------------------------------------------------

# What C holds until it calls `free`: the callbacks of each block, by the number that C calls `user`.
_blocks: dict[int, Any] = {}
_block_numbers = itertools.count(1)
_block_free: Any = None


def _make_block(parent: Layer, forward: Callable, name: str | None, kind: str) -> int:
    global _block_free
    if _block_free is None:
        _block_free = callback("kd_block_desc.free")(lambda user: _blocks.pop(user, None) and None)

    def run(layer: int, tape: int, x: int, user: int) -> int | None:
        borrowed = Tape._at(tape)
        try:
            y = forward(Layer._from(layer, None, None), borrowed, Tensor._from(x, borrowed._box, borrowed))
            if not isinstance(y, Tensor):
                raise TypeError(f"block {kind!r}: forward returned {type(y).__name__}, not a Tensor")
            return y._h
        except BaseException as error:
            if not (isinstance(error, KdError) and borrowed.status < 0):     # the tape has it, and will add the layer's name
                carry(error)
            return None

    number = next(_block_numbers)
    desc = struct("kd_block_desc")()
    desc.struct_size = sizeof(desc)
    desc.type = c_char_p(encode(kind))
    desc.forward = callback("kd_block_desc.forward")(run)
    desc.free = _block_free
    desc.user = number
    _blocks[number] = desc.forward
    return lib.kd_layer_block(parent._h, encode(name), byref(desc))
