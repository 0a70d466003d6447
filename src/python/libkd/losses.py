"""losses - LossDistill, the distillation loss as an object: on a tape, or on arrays.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import addressof, byref, c_int64, c_void_p, sizeof
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _buffers
from ._buffers import F32, I32, I64, ArrayLike, Buf, borrow, new_like, row_stride
from ._methods import LossDistillMethods
from ._native import Box, Object, check, error_of, lib, struct
from .context import Context, deps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._methods import LossDistillFields
    from .tape import Tape
    from .tensor import Tensor, TensorLike

__all__ = ["LossDistill", "LossResult", "Terms"]

_Batch: Any = struct("kd_distill_batch")
_Terms: Any = struct("kd_distill_terms")
_BATCH_SIZE, _TERMS_SIZE = sizeof(_Batch), sizeof(_Terms)


class Terms(NamedTuple):
    """What a batch came to."""

    loss: float          #: hard_weight * hard + soft_weight * soft; under reduction "none" the sum over rows
    hard: float          #: the hard term before its weight; 0 if no row is labelled
    soft: float          #: the soft term before its weight, T^2 included if on; 0 if no row is taught
    hard_rows: int       #: rows in the hard term
    soft_rows: int       #: rows in the soft term
    masked_rows: int     #: rows whose student or teacher was -inf throughout


class LossResult(NamedTuple):
    """Value and gradient of a loss on arrays."""

    loss: float
    grad: Any            #: d loss / d student, or None if it was not asked for
    n_valid: int         #: rows that counted: in the soft term, or in the hard one where that is all there is
    hard: float = 0.0    #: the terms before their weights
    soft: float = 0.0
    hard_rows: int = 0
    soft_rows: int = 0
    masked_rows: int = 0
    row_loss: Any = None  #: [rows], where asked for: each row's weighted loss before any division


class LossDistill(Object, LossDistillMethods):
    """LossDistill(method="kd", temperature=4.0, hard_weight=0.1, soft_weight=0.9, ..):

        loss = hard_weight * CE(student, label) + soft_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    The keyword arguments are the fields of kd_loss_distill_desc (kd/distill.h has the formulas); names stand for their constants:
    method="hard", direction="reverse", reduction="sum", teacher_form="probs".  The field's alpha, the weight of the true-label
    term, is hard_weight=alpha, soft_weight=1 - alpha.
    Immutable; any number of threads may share it.
    """

    __slots__ = ()

    def __init__(self, *, context: Context | None = None, **fields: "Unpack[LossDistillFields]") -> None:
        desc, keep = self._describe(**fields)
        out = c_void_p()
        check(lib.kd_loss_distill_create(byref(out), Context._of(context), byref(desc)))
        self._box = Box(out.value, lib.kd_loss_distill_free, *deps(context))

    def apply(self, tape: Tape, student: TensorLike, teacher: TensorLike | None = None, labels: TensorLike | None = None,
              row_weights: TensorLike | None = None) -> Tensor:
        """The loss of a batch, recorded on `tape`: a scalar (reduction "none": [rows]).

        student: f32 [.., classes]; gradients flow here
        teacher: f32, same shape; a constant, whichever tape made it; None if soft_weight is 0
        labels: i32 or i64 [..], or f32 [.., classes] (soft labels); None if hard_weight is 0
        row_weights: f32 [..] >= 0: both terms become sum w D / sum w
        KdArgumentError (shapes), KdTypeError, KdRangeError (row and value of a label), KdNumericError.

        C: kd_loss_distill_apply, kd_loss_distill_apply_weighted
        """
        tape._arrays.append(self._held)
        args = (self._h, tape._h, tape._in(student), tape._in(teacher), tape._in(labels))
        if row_weights is None:
            return tape._out(lib.kd_loss_distill_apply(*args))
        return tape._out(lib.kd_loss_distill_apply_weighted(*args, tape._in(row_weights)))

    __call__ = apply

    @staticmethod
    def terms(loss: Tensor) -> Terms:
        """The terms of a loss that apply() returned, for logging both apart.

        C: kd_loss_distill_terms
        """
        terms = _Terms(_TERMS_SIZE)
        check(lib.kd_loss_distill_terms(loss._on_tape()._h, loss._h, byref(terms)))
        return Terms(terms.loss, terms.hard, terms.soft, terms.hard_rows, terms.soft_rows, terms.masked_rows)

    def eval(self, student: ArrayLike, teacher: ArrayLike | None = None, labels: Any = None, *,
             row_weights: ArrayLike | None = None,
             grad: Any = None, row_loss: Any = None) -> LossResult:
        """Value, gradient and counts of a batch of arrays in one pass; nothing is copied.

        student, teacher: f32 [.., classes]; rows may be apart ([rows, classes] with a row stride), classes are neighbours
        labels: int32 or int64 [..] or a list of integers, or f32 [.., classes] (soft labels)
        row_weights: f32 [..]
        grad: True: a new array of the student's kind; or an array f32 like student to fill (may be student itself)
        row_loss: True, or an array f32 [..] to fill
        The GIL is released meanwhile: do not change the arrays from other threads.
        TypeError, ValueError (an array that cannot be used as it lies), KdArgumentError, KdRangeError (a label), KdNumericError.
        """
        s = borrow(student, "student", dtype=F32)
        shape = s.shape
        if not shape:
            raise ValueError("student: needs at least one axis, the classes")
        classes = shape[-1]
        rows = 1
        for size in shape[:-1]:
            rows *= size
        batch = _Batch(_BATCH_SIZE, rows, classes, s.ptr, classes if s.strides is None else row_stride(s, "student"))
        if teacher is not None:
            t = borrow(teacher, "teacher", dtype=F32)
            if t.shape != shape:
                raise ValueError(f"teacher {list(t.shape)} and student {list(shape)} differ in shape")
            batch.teacher, batch.teacher_stride = t.ptr, classes if t.strides is None else row_stride(t, "teacher")
        if labels is not None:
            held = _labels(batch, labels, shape)
        if row_weights is not None:
            w = borrow(row_weights, "row_weights", dtype=F32, contiguous=True)
            if w.shape != shape[:-1]:
                raise ValueError(f"row_weights {list(w.shape)} for student {list(shape)}")
            batch.row_weights = w.ptr
        if grad is not None and grad is not False:
            if grad is True:
                grad, g = new_like(student, shape)
            else:
                g = borrow(grad, "grad", dtype=F32, writable=True)
                if g.shape != shape:
                    raise ValueError(f"grad {list(g.shape)} and student {list(shape)} differ in shape")
            batch.grad, batch.grad_stride = g.ptr, classes if g.strides is None else row_stride(g, "grad")
        else:
            grad = None
        if row_loss is not None and row_loss is not False:
            if row_loss is True:
                row_loss, r = new_like(student, shape[:-1])
            else:
                r = borrow(row_loss, "row_loss", dtype=F32, writable=True, contiguous=True)
                if r.shape != shape[:-1]:
                    raise ValueError(f"row_loss {list(r.shape)} for student {list(shape)}")
            batch.row_loss = r.ptr
        else:
            row_loss = None
        terms = _Terms(_TERMS_SIZE)
        box = self._held                       # whatever another thread closes meanwhile
        status = _eval(box.ptr, byref(batch), byref(terms))
        if status < 0:
            raise error_of(status)
        soft_rows, hard_rows = terms.soft_rows, terms.hard_rows
        return LossResult(terms.loss, grad, soft_rows if soft_rows or not hard_rows else hard_rows, terms.hard, terms.soft,
                          hard_rows,
                          soft_rows, terms.masked_rows, row_loss)


_eval = lib.kd_loss_distill_eval


def _labels(batch: Any, labels: Any, shape: tuple) -> Any:
    """Labels into the batch; returns who keeps them alive."""
    if isinstance(labels, (list, tuple, range)):
        try:
            numbers = (c_int64 * len(labels))(*labels)
        except TypeError:
            raise TypeError("labels: a list holds integers; for soft labels pass a float32 array") from None
        y = Buf(addressof(numbers), (len(labels),), None, I64, False, numbers)
    else:
        y = borrow(labels, "labels", dtype=(I64, I32, F32))
    if y.dtype == F32:
        if y.shape != shape:
            raise ValueError(f"soft labels {list(y.shape)} and student {list(shape)} differ in shape")
        batch.soft_labels, batch.soft_label_stride = y.ptr, row_stride(y, "labels")
        return y
    if y.shape != shape[:-1]:
        raise ValueError(f"labels {list(y.shape)} for student {list(shape)}: one label a row")
    if y.strides is not None and not _buffers._no_gaps(y):
        raise ValueError("labels is not contiguous; call .contiguous() or numpy.ascontiguousarray()")
    if y.dtype == I64:
        batch.labels64 = y.ptr
    else:
        batch.labels = y.ptr
    return y
