"""libkd - knowledge distillation: a trained network, the teacher, teaches a smaller one, the student.

    import libkd
    from libkd import loss
    r = loss.kd(student_logits, teacher_logits, labels, temperature=4.0, grad=True)   # NumPy, torch or plain arrays
    r.loss, r.grad

Objects: Model (and zoo), Tape with the ops as methods, LossDistill, LossFeature, Optimizer, Schedule, Ema, Dataset,
Loader, io, Checkpoint; methods() lists what the losses can be.
libkd.torch has KDLoss and FeatureLoss for PyTorch programs.  libkd.lib is the C interface itself, by name.

Nothing but the standard library is needed; arrays of others are taken where they lie.  Long calls release the GIL and stop on
Ctrl-C.  Errors are KdError and its kinds.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import loss
from ._api import VERSION as __version__
from ._native import lib
from .context import (Context, build_info, cancel, cancelled, isa, library_path, resume, shutdown, status_name, threads, version,
                      version_number)
from .errors import (KdArgumentError, KdCancelled, KdError, KdFormatError, KdIOError, KdMemoryError, KdNumericError, KdRangeError,
                     KdStateError, KdTypeError, KdUnsupported)
from .losses import (FeatureResult, LossDistill, LossFeature, LossResult, Method, Terms, find_method, methods)

if TYPE_CHECKING:
    from . import io, ops, rng, zoo
    from .data import Dataset, Loader
    from .io import Checkpoint
    from .model import Layer, Model, Parameter
    from .optimizer import Ema, Optimizer, Schedule, clip_grad_norm
    from .rng import Rng
    from .tape import Tape
    from .tensor import Tensor, dtype_name, dtype_size

# imported when first used: a program that wants one loss does not pay for the rest
_LATE = {
    "Dataset": "data", "Loader": "data", "Checkpoint": "io", "Layer": "model", "Model": "model", "Parameter": "model",
    "Ema": "optimizer", "Optimizer": "optimizer", "Schedule": "optimizer", "clip_grad_norm": "optimizer", "Rng": "rng",
    "Tape": "tape", "Tensor": "tensor", "dtype_name": "tensor", "dtype_size": "tensor",
}
_MODULES = ("data", "io", "model", "ops", "optimizer", "rng", "torch", "zoo", "demo")

__all__ = [
    "Checkpoint", "Context", "Dataset", "Ema", "FeatureResult", "KdArgumentError", "KdCancelled", "KdError", "KdFormatError",
    "KdIOError", "KdMemoryError", "KdNumericError", "KdRangeError", "KdStateError", "KdTypeError", "KdUnsupported", "Layer",
    "Loader", "LossDistill", "LossFeature", "LossResult", "Method", "Model", "Optimizer", "Parameter", "Rng", "Schedule",
    "Tape", "Tensor", "Terms", "build_info", "cancel", "cancelled", "clip_grad_norm", "dtype_name", "dtype_size",
    "find_method", "io", "isa", "lib", "library_path", "loss", "methods", "ops", "resume", "rng", "shutdown", "status_name",
    "threads", "version", "version_number", "zoo",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LATE:
        value = getattr(importlib.import_module("." + _LATE[name], __name__), name)
    elif name in _MODULES:
        value = importlib.import_module("." + name, __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
