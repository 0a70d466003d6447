"""loss - losses and softmax on arrays of any kind: NumPy, torch (CPU), array.array, memoryview, Tensor.

Logits are float32 [.., classes], taken where they lie.  Results are of the kind of the first argument.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import weakref
from ctypes import c_double
from typing import Any

from ._buffers import F32, I32, ArrayLike, Buf, borrow, new_like, row_stride
from ._native import check, constant, lib
from .context import Context
from .losses import LossDistill, LossResult

__all__ = ["kd", "distill", "cross_entropy", "softmax", "log_softmax", "kl_divergence", "softmax_rows", "cross_entropy_rows",
           "distill_rows", "LossResult"]

# Losses are immutable: each is made once, for the process default and for each context as long as that lives.
_made: dict[Any, LossDistill] = {}
_made_in: Any = weakref.WeakKeyDictionary()


_NO_TEACHER = ("tfkd", "uskd", "label_smoothing", constant("KD_DISTILL_", "tfkd"), constant("KD_DISTILL_", "uskd"),
               constant("KD_DISTILL_", "label_smoothing"))


def _cache(context: Context | None) -> dict[Any, LossDistill]:
    if context is None:
        return _made
    context._h                                 # a closed one is an error
    return _made_in.setdefault(context, {})


def _keep(cache: dict, key: Any, loss: LossDistill) -> LossDistill:
    if len(cache) >= 64:
        cache.clear()
    cache[key] = loss
    return loss


def _loss(context: Context | None, fields: dict) -> LossDistill:
    """The loss of these fields."""
    cache, key = _cache(context), tuple(fields.items())
    try:
        found = cache.get(key)
    except TypeError:                          # class_weights is an array
        return LossDistill(context=context, **fields)
    return found or _keep(cache, key, LossDistill(context=context, **fields))


def distill(student: ArrayLike, teacher: ArrayLike | None = None, labels: Any = None, *, grad: Any = None, row_weights: Any = None,
            row_loss: Any = None, more: dict | None = None, context: Context | None = None, **fields: Any) -> LossResult:
    """Any method of LossDistill on arrays, value and gradient in one pass: see LossDistill for the fields, LossDistill.eval for the
    arguments.  With no labels hard_weight defaults to 0, with no teacher soft_weight does, unless the method is one without.

        r = loss.distill(student, teacher, labels, method="dkd", temperature=4.0, grad=True)
        r.loss, r.grad, r.n_valid

    more: further arguments of LossDistill.eval, for methods with two heads, several teachers or sparse ones
    A method that learns while it runs (taid, ctkd) wants a LossDistill of its own.
    """
    if labels is None and "hard_weight" not in fields:
        fields["hard_weight"] = 0.0
    if teacher is None and "soft_weight" not in fields and fields.get("method") not in _NO_TEACHER:
        fields["soft_weight"] = 0.0
    return _loss(context, fields).eval(student, teacher, labels, grad=grad, row_weights=row_weights, row_loss=row_loss,
                                      **(more or {}))


def kd(student: ArrayLike, teacher: ArrayLike, labels: Any = None, *, temperature: float = 4.0, hard_weight: float | None = None,
       soft_weight: float = 0.9, direction: str = "forward", scale_t2: bool = True, reduction: str = "mean_rows",
       ignore_index: int = -100, grad: Any = None, row_weights: Any = None, row_loss: Any = None, context: Context | None = None,
       **fields: Any) -> LossResult:
    """The loss of Hinton, Vinyals and Dean (2015):

        hard_weight * CE(student, labels) + soft_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    temperature: T > 0
    hard_weight: default 0.1; 0 where there are no labels
    direction: "forward", "reverse" or "js"
    scale_t2: the factor T^2
    reduction: "mean_rows" (PyTorch's batchmean), "sum", "none", "mean_elements"
    ignore_index: the label of a row that is left out
    Other arguments, results and errors: LossDistill.eval; further fields: LossDistill.
    """
    if hard_weight is None:
        hard_weight = 0.1 if labels is not None else 0.0
    cache = _made if context is None else _cache(context)
    key = (temperature, hard_weight, soft_weight, direction, scale_t2, reduction, ignore_index)
    found = cache.get(key) if not fields else None
    if found is None:
        fields.update(temperature=temperature, hard_weight=hard_weight, soft_weight=soft_weight, direction=direction,
                      temperature_squared=int(scale_t2), reduction=reduction, ignore_index=ignore_index)
        found = _keep(cache, key, LossDistill(context=context, **fields)) if len(fields) == len(key) else _loss(context, fields)
    return found.eval(student, teacher, labels, grad=grad, row_weights=row_weights, row_loss=row_loss)


def cross_entropy(logits: ArrayLike, labels: Any, *, ignore_index: int = -100, label_smoothing: float = 0.0,
                  reduction: str = "mean_rows", grad: Any = None, row_weights: Any = None, row_loss: Any = None,
                  context: Context | None = None, **fields: Any) -> LossResult:
    """-log softmax(logits)[label], or of soft labels; arguments and results as kd's."""
    fields.update(hard_weight=1.0, soft_weight=0.0, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction)
    return _loss(context, fields).eval(logits, None, labels, grad=grad, row_weights=row_weights, row_loss=row_loss)


# ---- the kernels of kd/kernels.h, row by row ---------------------------------------------------------------------------------


def _matrix(x: ArrayLike, name: str) -> tuple[Buf, int, int, int]:
    """Memory, rows, classes and stride of logits [.., classes]."""
    b = borrow(x, name, dtype=F32)
    if not b.shape:
        raise ValueError(f"{name}: needs at least one axis, the classes")
    rows = 1
    for size in b.shape[:-1]:
        rows *= size
    return b, rows, b.shape[-1], row_stride(b, name)


def _out(out: Any, like: ArrayLike, shape: tuple, name: str = "out") -> tuple[Any, Buf]:
    if out is None:
        return new_like(like, shape)
    b = borrow(out, name, dtype=F32, writable=True)
    if b.shape != tuple(shape):
        raise ValueError(f"{name} {list(b.shape)}: the result is {list(shape)}")
    return out, b


def softmax(x: ArrayLike, *, temperature: float = 1.0, out: Any = None, context: Context | None = None) -> Any:
    """exp(x / T) / sum exp(x / T) over the last axis.  out: an array to fill; x itself will do.

    C: kd_softmax_rows
    """
    return _softmax(lib.kd_softmax_rows, x, temperature, out, context)


def log_softmax(x: ArrayLike, *, temperature: float = 1.0, out: Any = None, context: Context | None = None) -> Any:
    """x / T - log sum exp(x / T) over the last axis.

    C: kd_log_softmax_rows
    """
    return _softmax(lib.kd_log_softmax_rows, x, temperature, out, context)


def _softmax(function: Any, x: ArrayLike, temperature: float, out: Any, context: Context | None) -> Any:
    b, rows, classes, stride = _matrix(x, "x")
    out, o = _out(out, x, b.shape)
    check(function(Context._of(context), rows, classes, b.ptr, stride, temperature, o.ptr, row_stride(o, "out")))
    return out


softmax_rows = softmax


def kl_divergence(p_logits: ArrayLike, q_logits: ArrayLike, *, temperature: float = 1.0, grad: Any = None, out: Any = None,
                  context: Context | None = None) -> tuple[Any, Any]:
    """KL(p || q) of each row, p = softmax(p_logits / T), q = softmax(q_logits / T), without T^2: (values [..], gradient
    with respect to q_logits or None).  grad: True, or an array to fill.

    C: kd_kl_divergence_rows
    """
    p, rows, classes, p_stride = _matrix(p_logits, "p_logits")
    q, _, _, q_stride = _matrix(q_logits, "q_logits")
    if p.shape != q.shape:
        raise ValueError(f"p_logits {list(p.shape)} and q_logits {list(q.shape)} differ in shape")
    out, o = _out(out, p_logits, p.shape[:-1])
    grad, g = _grad(grad, q_logits, q.shape)
    check(lib.kd_kl_divergence_rows(Context._of(context), rows, classes, p.ptr, p_stride, q.ptr, q_stride, temperature, o.ptr,
                                    g and g.ptr, row_stride(g, "grad") if g else 0))
    return out, grad


def _grad(grad: Any, like: ArrayLike, shape: tuple) -> tuple[Any, Buf | None]:
    if grad is None or grad is False:
        return None, None
    return _out(None if grad is True else grad, like, shape, "grad")


def _int32(labels: Any, shape: tuple) -> Buf:
    if isinstance(labels, (list, tuple, range)):
        from array import array

        labels = array("i", labels)
    y = borrow(labels, "labels", dtype=I32, contiguous=True)
    if y.shape != shape:
        raise ValueError(f"labels {list(y.shape)}: needs {list(shape)}, one label a row")
    return y


def cross_entropy_rows(logits: ArrayLike, labels: Any, *, ignore_index: int = -100, grad: Any = None, out: Any = None,
                       context: Context | None = None) -> tuple[Any, Any]:
    """-log softmax(logits)[label] of each row: (values [..], gradient or None).  labels: int32, or a list.

    C: kd_cross_entropy_rows
    """
    b, rows, classes, stride = _matrix(logits, "logits")
    y = _int32(labels, b.shape[:-1])
    out, o = _out(out, logits, b.shape[:-1])
    grad, g = _grad(grad, logits, b.shape)
    check(lib.kd_cross_entropy_rows(Context._of(context), rows, classes, b.ptr, stride, y.ptr, ignore_index, o.ptr, g and g.ptr,
                                    row_stride(g, "grad") if g else 0))
    return out, grad


def distill_rows(student: ArrayLike, teacher: ArrayLike, labels: Any = None, *, ignore_index: int = -100, temperature: float = 4.0,
                 hard_weight: float = 0.1, soft_weight: float = 0.9, grad: Any = None,
                 context: Context | None = None) -> LossResult:
    """Hinton's loss by the plain kernel: the same numbers as kd().  labels: int32, a list, or None if hard_weight is 0.

    C: kd_distill_rows
    """
    s, rows, classes, s_stride = _matrix(student, "student")
    t, _, _, t_stride = _matrix(teacher, "teacher")
    if s.shape != t.shape:
        raise ValueError(f"teacher {list(t.shape)} and student {list(s.shape)} differ in shape")
    y = None if labels is None else _int32(labels, s.shape[:-1])
    grad, g = _grad(grad, student, s.shape)
    values = (c_double * 4)()
    check(lib.kd_distill_rows(Context._of(context), rows, classes, s.ptr, s_stride, t.ptr, t_stride, y and y.ptr, ignore_index,
                              temperature, hard_weight, soft_weight, g and g.ptr, row_stride(g, "grad") if g else 0, values))
    n = int(values[3])
    return LossResult(values[0], grad, n, values[1], values[2], n, n)
