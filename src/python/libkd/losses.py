"""losses - LossDistill on outputs and LossFeature on features, as objects: on a tape, or on arrays; the list of methods.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import addressof, byref, c_double, c_int64, c_void_p, create_string_buffer, sizeof
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

from . import _buffers
from ._buffers import F32, I32, I64, ArrayLike, Buf, borrow, new_like, row_stride
from ._methods import LossDistillMethods, LossFeatureMethods
from ._native import Box, Object, check, decode, encode, error_of, lib, struct
from .context import Context, deps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._methods import LossDistillFields, LossFeatureFields
    from .model import Model
    from .tape import Tape
    from .tensor import Tensor, TensorLike

__all__ = ["LossDistill", "LossFeature", "LossResult", "FeatureResult", "Terms", "Method", "methods", "find_method"]

_Batch: Any = struct("kd_distill_batch")
_Terms: Any = struct("kd_distill_terms")
_Inputs: Any = struct("kd_distill_inputs")
_FeatureInputs: Any = struct("kd_feature_inputs")
_FeatureBatch: Any = struct("kd_feature_batch")
_Info: Any = struct("kd_method_info")
_BATCH_SIZE, _TERMS_SIZE = sizeof(_Batch), sizeof(_Terms)


# ---- the list of methods -----------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A method of LossDistill (kind "distill") or LossFeature ("feature")."""

    name: str            #: "dkd"
    kind: str
    number: int          #: KD_DISTILL_* or KD_FEATURE_*
    source: str          #: authors, year, paper
    formula: str         #: what it computes, in one line


def _method(info: Any) -> Method:
    kind = "distill" if info.kind == 1 else "feature"
    return Method(decode(info.name), kind, info.method, decode(info.source), decode(info.formula))


def methods(kind: str | None = None) -> list[Method]:
    """All methods; of one kind, "distill" or "feature"."""
    out = []
    for i in range(lib.kd_method_count()):
        info = _Info(sizeof(_Info))
        check(lib.kd_method_at(i, byref(info)))
        out.append(_method(info))
    return [m for m in out if kind in (None, m.kind)]


def find_method(name: str) -> Method:
    """A method by its name.  KdArgumentError names the nearest."""
    info = _Info(sizeof(_Info))
    check(lib.kd_method_find(encode(name), byref(info)))
    return _method(info)


def _told(call: Callable[[Any, int], int]) -> str:
    """The text of a function that writes into (buffer, size) and returns the whole length, 0 on error."""
    size = 4096
    while True:
        buffer = create_string_buffer(size)
        length = call(buffer, size)
        if not length:
            raise error_of(-1)
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1


def _model(ptr: int | None, owner: Box) -> Model | None:
    """A model that a loss owns."""
    if not ptr:
        return None
    from .model import Model

    model = Model.__new__(Model)
    model._box, model._context = Box(ptr, None, owner), None
    return model


def _tensors(*arrays: Any) -> list:
    """Arrays or numbers as tensors, None as it is."""
    from .tensor import Tensor

    def one(x: Any) -> Any:
        if x is None or isinstance(x, Tensor):
            return x
        return Tensor(list(x)) if isinstance(x, (list, tuple, range)) else Tensor.wrap(x)

    return [one(x) for x in arrays]


# ---- outputs -----------------------------------------------------------------------------------------------------------------


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
    grad_second: Any = None  #: d loss / d student_second, where asked for


class LossDistill(Object, LossDistillMethods):
    """LossDistill(method="kd", temperature=4.0, hard_weight=0.1, soft_weight=0.9, ..):

        loss = hard_weight * CE(student, label) + soft_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    The keyword arguments are the fields of kd_loss_distill_desc (kd/distill.h has the formulas); names stand for their constants:
    method="dkd", direction="reverse", reduction="sum", teacher_form="probs".  What is not given has the method's own default: the
    numbers of its paper.  The field's alpha, the weight of the true-label term, is hard_weight=alpha, soft_weight=1 - alpha.
    Any number of threads may share it, unless one changes it (set_weights, set_temperature, advance) or the method keeps a state.
    """

    __slots__ = ("_any_width",)

    def __init__(self, *, context: Context | None = None, **fields: "Unpack[LossDistillFields]") -> None:
        desc, keep = self._describe(**fields)
        self._any_width = desc.method in (_ULD, _TOP_K)
        out = c_void_p()
        check(lib.kd_loss_distill_create(byref(out), Context._of(context), byref(desc)))
        self._box = Box(out.value, lib.kd_loss_distill_free, *deps(context))

    @property
    def adapters(self) -> Model | None:
        """What the method trains beside the student (ctkd's temperature), for an Optimizer; None if it has nothing."""
        return _model(lib.kd_loss_distill_adapters(self._h), self._held)

    def explain(self, student: TensorLike, teacher: TensorLike | None = None, labels: Any = None, *, row_weights: Any = None,
                student_second: Any = None, teacher_second: Any = None, more_teachers: Sequence = (), teacher_classes: Any = None,
                student_tape: Tape | None = None, teacher_tape: Tape | None = None) -> str:
        """What the loss comes to on a batch, in words: terms, weights, divisors, gradients; and a line "warning: .." for each of
        the usual mistakes.  Tensors or arrays; the tapes they were made on, if any.  Changes nothing.

        C: kd_loss_explain
        """
        held = _tensors(student, student_second, teacher, teacher_second, teacher_classes, labels, row_weights)
        more = _tensors(*more_teachers)
        handles = (c_void_p * len(more))(*(x._h for x in more))
        s, second, t, t2, classes, y, w = (None if x is None else x._h for x in held)
        inputs = _Inputs(sizeof(_Inputs), s, second, t, t2, addressof(handles) if more else None, len(more), classes, y, w)
        tapes = (student_tape._h if student_tape else None, teacher_tape._h if teacher_tape else None)
        return _told(lambda out, cap: lib.kd_loss_explain(self._h, byref(inputs), *tapes, out, cap))

    def apply(self, tape: Tape, student: TensorLike, teacher: TensorLike | None = None, labels: TensorLike | None = None,
              row_weights: TensorLike | None = None, *, student_second: TensorLike | None = None,
              teacher_second: TensorLike | None = None, more_teachers: Sequence[TensorLike] = (),
              teacher_classes: TensorLike | None = None) -> Tensor:
        """The loss of a batch, recorded on `tape`: a scalar (reduction "none": [rows]).

        student: f32 [.., classes]; gradients flow here
        teacher: f32, same shape; a constant, whichever tape made it; None if soft_weight is 0
        labels: i32 or i64 [..], or f32 [.., classes] (soft labels); None if hard_weight is 0
        row_weights: f32 [..] >= 0: both terms become sum w D / sum w
        student_second, teacher_second: a second head or view, for methods that have one; gradients flow to the student's
        more_teachers: beside `teacher`
        teacher_classes: of a sparse teacher, whose row then is the values of these classes
        KdArgumentError (shapes), KdTypeError, KdRangeError (row and value of a label), KdNumericError.

        C: kd_loss_distill_apply, kd_loss_distill_apply_weighted, kd_loss_distill_apply_inputs
        """
        tape._arrays.append(self._held)
        if student_second is not None or teacher_second is not None or more_teachers or teacher_classes is not None:
            more = tape._handles(more_teachers)
            inputs = _Inputs(sizeof(_Inputs), tape._in(student), tape._in(student_second), tape._in(teacher),
                             tape._in(teacher_second), addressof(more) if more_teachers else None, len(more),
                             tape._in(teacher_classes), tape._in(labels), tape._in(row_weights))
            return tape._out(lib.kd_loss_distill_apply_inputs(self._h, tape._h, byref(inputs)))
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
             row_weights: ArrayLike | None = None, grad: Any = None, row_loss: Any = None, student_second: ArrayLike | None = None,
             grad_second: Any = None, teacher_second: ArrayLike | None = None, more_teachers: Sequence[ArrayLike] = (),
             teacher_classes: ArrayLike | None = None) -> LossResult:
        """Value, gradient and counts of a batch of arrays in one pass; nothing is copied.

        student, teacher: f32 [.., classes]; rows may be apart ([rows, classes] with a row stride), classes are neighbours
        labels: int32 or int64 [..] or a list of integers, or f32 [.., classes] (soft labels)
        row_weights: f32 [..]
        grad: True: a new array of the student's kind; or an array f32 like student to fill (may be student itself)
        row_loss: True, or an array f32 [..] to fill
        student_second, teacher_second: f32 like student; grad_second as grad
        more_teachers: each like teacher, with its rows as far apart
        teacher_classes: int32 like teacher, of a sparse one (method "top_k")
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
            if t.shape[:-1] != shape[:-1] or not t.shape or (t.shape != shape and not self._any_width):
                raise ValueError(f"teacher {list(t.shape)} and student {list(shape)} differ in shape")
            batch.teacher, batch.teacher_stride = t.ptr, t.shape[-1] if t.strides is None else row_stride(t, "teacher")
            batch.teacher_width = t.shape[-1]
            if more_teachers or teacher_classes is not None:
                keep = _more(batch, more_teachers, teacher_classes, t)
        if student_second is not None or teacher_second is not None:
            grad_second, *seconds = _second(batch, student_second, teacher_second, grad_second, shape)
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
                          soft_rows, terms.masked_rows, row_loss, grad_second if student_second is not None else None)


_eval = lib.kd_loss_distill_eval
_ULD, _TOP_K = find_method("uld").number, find_method("top_k").number


def _second(batch: Any, student: Any, teacher: Any, grad: Any, shape: tuple) -> tuple:
    """Second heads into the batch; the gradient, and who keeps them alive."""
    held = []
    for name, x in (("student_second", student), ("teacher_second", teacher)):
        if x is None:
            continue
        b = borrow(x, name, dtype=F32)
        if b.shape != shape:
            raise ValueError(f"{name} {list(b.shape)} and student {list(shape)} differ in shape")
        held.append(b)
        setattr(batch, name, b.ptr)
        setattr(batch, name + "_stride", row_stride(b, name))
    if student is None or grad is None or grad is False:
        return (None, *held)
    if grad is True:
        grad, g = new_like(student, shape)
    else:
        g = borrow(grad, "grad_second", dtype=F32, writable=True)
        if g.shape != shape:
            raise ValueError(f"grad_second {list(g.shape)} and student {list(shape)} differ in shape")
    batch.grad_second, batch.grad_second_stride = g.ptr, row_stride(g, "grad_second")
    return (grad, g, *held)


def _more(batch: Any, teachers: Sequence, classes: Any, first: Buf) -> list:
    """Further teachers and a sparse one's classes into the batch; who keeps them alive."""
    held: list = []
    for i, x in enumerate(teachers):
        b = borrow(x, f"more_teachers[{i}]", dtype=F32)
        if b.shape != first.shape or row_stride(b, "more_teachers") != batch.teacher_stride:
            raise ValueError(f"more_teachers[{i}] {list(b.shape)}: its shape and the distance of its rows must be the teacher's")
        held.append(b)
    if held:
        pointers = (c_void_p * len(held))(*(b.ptr for b in held))
        batch.more_teachers, batch.more_teacher_count = addressof(pointers), len(pointers)
        held.append(pointers)
    if classes is not None:
        b = borrow(classes, "teacher_classes", dtype=I32)
        if b.shape != first.shape:
            raise ValueError(f"teacher_classes {list(b.shape)} and teacher {list(first.shape)} differ in shape")
        batch.teacher_classes, batch.teacher_classes_stride = b.ptr, row_stride(b, "teacher_classes")
        held.append(b)
    return held


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


# ---- features ----------------------------------------------------------------------------------------------------------------


class FeatureResult(NamedTuple):
    """Value and gradients of a feature loss on arrays."""

    loss: float
    grads: list             #: d loss / d student[i], None where not asked for
    grad_logits: Any = None  #: d loss / d student_logits


def _list(x: Any) -> list:
    return list(x) if isinstance(x, (list, tuple)) else [] if x is None else [x]


class LossFeature(Object, LossFeatureMethods):
    """LossFeature("rkd", student=[(64,)], teacher=[(128,)], ..): a loss between inner outputs (taps) of student and teacher.

    method: a name of methods("feature")
    student, teacher: the shapes of the taps without their batch, in the order they will be given: (height, width, channels),
        (tokens, width), (heads, tokens, tokens) or (width,)
    The other keyword arguments are the fields of kd_loss_feature_desc; what is not given has the method's own default.

        loss = LossFeature("fitnet", student=[(16,)], teacher=[(64,)])
        optimizer = Optimizer("adam", student, loss.adapters)
        value = loss(tape, student.tapped(tape, "fc1"), teacher.tapped(look, "fc1"))
    """

    __slots__ = ("_student", "_teacher", "_classes")

    def __init__(self, method: str | int, student: Sequence[Sequence[int]] = (), teacher: Sequence[Sequence[int]] = (), *,
                 context: Context | None = None, **fields: "Unpack[LossFeatureFields]") -> None:
        desc, keep = self._describe(method=method, student=student or None, teacher=teacher or None, **fields)
        out = c_void_p()
        check(lib.kd_loss_feature_create(byref(out), Context._of(context), byref(desc)))
        self._box = Box(out.value, lib.kd_loss_feature_free, *deps(context))
        self._student, self._teacher = [tuple(s) for s in student], [tuple(t) for t in teacher]
        self._classes = desc.classes

    @property
    def adapters(self) -> Model | None:
        """What the loss trains beside the student, for an Optimizer; None if the method has none.  It is the loss's own.

        C: kd_loss_feature_adapters
        """
        return _model(lib.kd_loss_feature_adapters(self._h), self._held)

    def apply(self, tape: Tape, student: Any = (), teacher: Any = (), *, labels: TensorLike | None = None,
              indices: TensorLike | None = None, mask: TensorLike | None = None, student_logits: TensorLike | None = None,
              teacher_logits: TensorLike | None = None) -> Tensor:
        """The weighted loss of a batch, a scalar of the tape.

        student, teacher: a tap or a list of taps, f32 [n, shape..] each; gradients flow to the student's
        labels, indices: i32 or i64 [n]; mask: f32 [n, tokens]; student_logits, teacher_logits: f32 [n, classes]: what the method
            needs
        KdArgumentError, KdTypeError, KdRangeError, KdStateError (adapters that no optimizer holds).

        C: kd_loss_feature_apply
        """
        tape._arrays.append(self._held)
        s, t = _list(student), _list(teacher)
        ours, theirs = tape._handles(s), tape._handles(t)
        inputs = _FeatureInputs(sizeof(_FeatureInputs), addressof(ours) if s else None, len(s),
                                addressof(theirs) if t else None, len(t),
                                tape._in(labels), tape._in(indices), tape._in(mask), tape._in(student_logits),
                                tape._in(teacher_logits))
        return tape._out(lib.kd_loss_feature_apply(self._h, tape._h, byref(inputs)))

    __call__ = apply

    def explain(self, student: Any = (), teacher: Any = (), *, labels: Any = None, indices: Any = None, mask: Any = None,
                student_logits: Any = None, teacher_logits: Any = None, student_tape: Tape | None = None,
                teacher_tape: Tape | None = None) -> str:
        """What the loss comes to on a batch, in words, and a line "warning: .." for each of the usual mistakes.  Changes nothing.

        C: kd_loss_feature_explain
        """
        s, t = _tensors(*_list(student)), _tensors(*_list(teacher))
        ours, theirs = (c_void_p * len(s))(*(x._h for x in s)), (c_void_p * len(t))(*(x._h for x in t))
        held = _tensors(labels, indices, mask, student_logits, teacher_logits)
        inputs = _FeatureInputs(sizeof(_FeatureInputs), addressof(ours) if s else None, len(s),
                                addressof(theirs) if t else None, len(t),
                                *(None if x is None else x._h for x in held))
        tapes = (student_tape._h if student_tape else None, teacher_tape._h if teacher_tape else None)
        return _told(lambda out, cap: lib.kd_loss_feature_explain(self._h, byref(inputs), *tapes, out, cap))

    def eval(self, student: Any = (), teacher: Any = (), *, labels: Any = None, indices: Any = None, mask: Any = None,
             student_logits: Any = None, teacher_logits: Any = None, grad: bool = False, train: bool = False) -> FeatureResult:
        """Value and gradients of a batch of arrays without gaps; nothing is copied.

        student, teacher: an array or a list of arrays f32 [n, shape..]
        labels, indices: int32 [n]; mask: f32 [n, tokens]; logits: f32 [n, classes], with `classes` given to the constructor
        grad: make the gradients of the student's taps, and of its logits if they are given
        train: as on a TRAIN tape: the gradients of the adapters are added to theirs

        C: kd_loss_feature_eval
        """
        s, t = _list(student), _list(teacher)
        batch = _FeatureBatch(sizeof(_FeatureBatch))
        rows = None
        sides = []
        for side, arrays, shapes in (("student", s, self._student), ("teacher", t, self._teacher)):
            if len(arrays) != len(shapes):
                raise ValueError(f"{len(arrays)} {side} taps, the loss has {len(shapes)}")
            bufs = [borrow(x, f"{side}[{i}]", dtype=F32, contiguous=True) for i, x in enumerate(arrays)]
            for i, (b, shape) in enumerate(zip(bufs, shapes)):
                rows = b.shape[0] if rows is None and b.shape else rows
                if b.shape != (rows, *shape):
                    raise ValueError(f"{side}[{i}] {list(b.shape)}: needs [{rows}, {', '.join(map(str, shape))}]")
            sides.append((bufs, (c_void_p * len(bufs))(*(b.ptr for b in bufs))))
        held = []
        for name, x, dtype, width in (("labels", labels, I32, 0), ("indices", indices, I32, 0), ("mask", mask, F32, self._tokens),
                                      ("student_logits", student_logits, F32, self._classes),
                                      ("teacher_logits", teacher_logits, F32, self._classes)):
            if x is None:
                continue
            b = borrow(x, name, dtype=dtype, contiguous=True)
            rows = b.shape[0] if rows is None and b.shape else rows
            if name.endswith("logits") and not width:
                raise ValueError(f"{name}: the loss was made without classes=")
            if b.shape != ((rows, width) if dtype == F32 else (rows,)):
                raise ValueError(f"{name} {list(b.shape)} for {rows} rows" + (f" of {width}" if width else ""))
            held.append(b)
            setattr(batch, name, b.ptr)
        batch.rows, batch.train = rows or 0, int(train)
        batch.student, batch.teacher = (addressof(side[1]) if side[0] else None for side in sides)
        grads: list = [None] * len(s)
        grad_logits = None
        if grad:
            made = [new_like(x, b.shape) for x, b in zip(s, sides[0][0])]
            grads = [g for g, _ in made]
            pointers = (c_void_p * len(made))(*(b.ptr for _, b in made))
            batch.grad = addressof(pointers) if made else None
            if student_logits is not None:
                grad_logits, g = new_like(student_logits, (rows, self._classes))
                batch.grad_logits = g.ptr
        value = c_double()
        check(lib.kd_loss_feature_eval(self._h, byref(batch), byref(value)))
        return FeatureResult(value.value, grads, grad_logits)

    @property
    def _tokens(self) -> int:
        first = self._student[0] if self._student else ()
        return first[-2] if len(first) > 1 else 1
