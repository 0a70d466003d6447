"""libkd.torch - libkd's losses in PyTorch programs on the CPU, and models back and forth.

    criterion = libkd.torch.KDLoss(temperature=4.0, hard_weight=0.1, soft_weight=0.9)
    loss = criterion(student_logits, teacher_logits, labels)       # a tensor of torch; loss.backward() as ever

One call into C gives value and gradient; backward only scales it.  Only first derivatives.  What is not contiguous is copied
(`.contiguous()`), what is not float32 is converted to it and the gradient back; what is not on the CPU is refused.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .context import Context
from .errors import KdArgumentError
from .losses import LossDistill, LossFeature, LossResult
from .model import Model
from .tape import Tape
from .tensor import Tensor

__all__ = ["KDLoss", "FeatureLoss", "FeatureDistance", "to_torch", "state_dict", "load_state_dict", "load_module"]


def _plain(x: torch.Tensor | None, name: str) -> torch.Tensor | None:
    """float32, contiguous, on the CPU, without its graph: itself where it is that already."""
    if x is None:
        return None
    if x.device.type != "cpu":
        raise TypeError(f"{name} is on {x.device}; libkd computes on the CPU: call .cpu()")
    if not x.is_floating_point():
        raise TypeError(f"{name}: needs floating point numbers, these are {x.dtype}")
    return x.detach().to(torch.float32).contiguous()


def _labels(y: torch.Tensor | None) -> torch.Tensor | None:
    """Class indices or soft labels."""
    if y is None:
        return None
    if y.device.type != "cpu":
        raise TypeError(f"labels is on {y.device}; libkd computes on the CPU: call .cpu()")
    if y.is_floating_point():
        return _plain(y, "labels")
    return y.detach().contiguous() if y.dtype in (torch.int32, torch.int64) else y.detach().to(torch.int64).contiguous()


# ---- losses on outputs -------------------------------------------------------------------------------------------------------


class _Distill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: Any, labels: Any, row_weights: Any, module: "KDLoss") -> torch.Tensor:
        s, wanted = _plain(student, "student"), ctx.needs_input_grad[0]
        rows = module.reduction == "none"
        result = module._loss.eval(s, _plain(teacher, "teacher"), _labels(labels), row_weights=_plain(row_weights, "row_weights"),
                                   grad=wanted, row_loss=rows)
        module.last = result._replace(grad=None, row_loss=None)
        if wanted:
            ctx.save_for_backward(result.grad)
            ctx.dtype = student.dtype
        if rows:
            return result.row_loss.to(student.dtype)
        return student.new_tensor(result.loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: torch.Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        up = up.to(torch.float32)
        return (grad * (up.unsqueeze(-1) if up.dim() else up)).to(ctx.dtype), None, None, None, None


class KDLoss(nn.Module):
    """The distillation loss of Hinton, Vinyals and Dean (2015), or any other method of libkd.LossDistill:

        hard_weight * CE(student, labels) + soft_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    The keyword arguments are those of LossDistill (method, temperature, hard_weight, soft_weight, direction, js_beta,
    temperature_squared, reduction, teacher_form, label_smoothing, ignore_index, unlabelled_index, class_weights, check_input, ..).
    The field's alpha, the weight of the true-label term, is hard_weight=alpha, soft_weight=1 - alpha.  What is not given is the
    method's: T 4, 0.1 and 0.9 for "kd".

    `last` holds the terms and counts of the last call, a LossResult without arrays.
    """

    last: LossResult | None

    def __init__(self, temperature: float | None = None, hard_weight: float | None = None, soft_weight: float | None = None, *,
                 reduction: str = "mean_rows", context: Context | None = None, **fields: Any) -> None:
        super().__init__()
        given = dict(temperature=temperature, hard_weight=hard_weight, soft_weight=soft_weight)
        self.fields = {**{k: v for k, v in given.items() if v is not None}, "reduction": reduction, **fields}
        self.reduction = reduction
        self.last = None
        self._context = context
        self._make()

    def _make(self) -> None:
        self._loss = LossDistill(context=self._context, **self.fields)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor | None = None, labels: torch.Tensor | None = None,
                row_weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        student: [.., classes]; the gradient goes here
        teacher: the same shape; a constant: it gets no gradient.  None if soft_weight is 0
        labels: class indices [..], or soft labels [.., classes].  None if hard_weight is 0
        row_weights: [..] >= 0
        Returns a scalar, or [..] with reduction="none".  TypeError (device), ValueError (shapes), KdRangeError (a label).
        """
        return _Distill.apply(student, *(x if x is None else x.detach() for x in (teacher, labels, row_weights)), self)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.fields.items())

    def __getstate__(self) -> dict:
        if self._context is not None:
            raise TypeError("a KDLoss in a context of its own cannot be pickled")
        state = self.__dict__.copy()
        del state["_loss"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._make()

    def __deepcopy__(self, memo: Any) -> "KDLoss":
        return KDLoss(context=self._context, **self.fields)


# ---- losses on features ------------------------------------------------------------------------------------------------------


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, module: "FeatureDistance") -> torch.Tensor:
        s, t = _plain(student, "student"), _plain(teacher, "teacher")
        if s.shape != t.shape:
            raise ValueError(f"teacher {list(t.shape)} and student {list(s.shape)} differ in shape: bring them together with an "
                             "adapter, a layer of your own")
        tape = Tape("train", context=module._context)
        x = Tensor.wrap(s)
        if ctx.needs_input_grad[0]:
            x = tape.requires_grad(x)
        y = module._compute(tape, x, Tensor.wrap(t))
        value = student.new_tensor(y.item())
        if ctx.needs_input_grad[0]:
            y.backward()
            grad = tape.grad(x)
            ctx.save_for_backward(torch.zeros_like(s) if grad is None else
                                  torch.frombuffer(grad.cast("B"),
                                                   dtype=torch.float32).reshape(s.shape).clone() if s.numel() else s)
            ctx.dtype = student.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: torch.Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return (grad * up.to(torch.float32)).to(ctx.dtype), None, None


class FeatureDistance(nn.Module):
    """The distance of the student's features to the teacher's, of the same shape; the teacher's are a constant.

    kind: "mse"          (s - t)^2
          "smooth_l1"    Huber's, with `beta`
          "cosine"       1 - cosine similarity over dim 1 (channels of [n, c, ..]) or over the last dim of [.., c]: see `dim`
    normalize: scale both to length 1 along `dim` first (FitNets-style losses often do)
    dim: the feature dimension; default 1 for [n, c, h, w], the last one otherwise
    reduction: "mean" over elements ("cosine": over positions), "sum", or "batchmean": the sum over the first size
    weight: a factor on the result
    """

    def __init__(self, kind: str = "mse", *, beta: float = 1.0, normalize: bool = False, dim: int | None = None,
                 reduction: str = "mean", weight: float = 1.0, eps: float = 1e-8, context: Context | None = None) -> None:
        super().__init__()
        if kind not in ("mse", "smooth_l1", "cosine"):
            raise ValueError(f"kind {kind!r} is none of mse, smooth_l1, cosine")
        if reduction not in ("mean", "sum", "batchmean"):
            raise ValueError(f"reduction {reduction!r} is none of mean, sum, batchmean")
        self.kind, self.beta, self.normalize, self.dim = kind, beta, normalize, dim
        self.reduction, self.weight, self.eps = reduction, weight, eps
        self._context = context

    def _compute(self, tape: Tape, s: Tensor, t: Tensor) -> Tensor:
        if self.normalize or self.kind == "cosine":
            dim = self.dim if self.dim is not None else (1 if s.rank == 4 else s.rank - 1)
            dim %= s.rank
            if dim != s.rank - 1:                   # libkd's features are innermost
                perm = [*range(dim), *range(dim + 1, s.rank), dim]
                s, t = tape.permute(s, perm), tape.permute(t, perm)
            if self.normalize:
                s, t = tape.l2_normalize(s, self.eps), tape.l2_normalize(t, self.eps)
        if self.kind == "cosine":
            similarity = tape.cosine_similarity(s, t, self.eps)
            total, count = tape.scale(tape.sum(similarity), -1.0, similarity.count), similarity.count
        else:
            total = tape.mse(s, t, "sum") if self.kind == "mse" else tape.smooth_l1(s, t, self.beta, "sum")
            count = s.count
        over = {"mean": count, "sum": 1, "batchmean": s.shape[0]}[self.reduction]
        return tape.scale(total, self.weight / over if over else float("nan"))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """student, teacher: the same shape; the gradient goes to the student.  Returns a scalar."""
        return _Distance.apply(student, teacher.detach(), self)

    def extra_repr(self) -> str:
        return f"{self.kind!r}, reduction={self.reduction!r}, weight={self.weight}, normalize={self.normalize}"


class _Feature(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: "FeatureLoss", others: dict, teacher: list, count: int, *inputs: Any) -> torch.Tensor:
        student = [_plain(x, f"student[{i}]") for i, x in enumerate(inputs[:count])]
        wanted = ctx.needs_input_grad[4:]
        result = module._loss.eval(student, [_plain(x, f"teacher[{i}]") for i, x in enumerate(teacher)], grad=any(wanted),
                                   train=module.training, student_logits=_plain(inputs[count], "student_logits"), **others)
        grads = [*result.grads, result.grad_logits]
        for own in module._own if module.training else ():
            grads.append(torch.frombuffer(own.grad.cast("B"), dtype=torch.float32).reshape(own.tensor.shape).clone())
        if module._own and module.training:
            module._model.zero_grads()
        grads += [None] * (len(inputs) - len(grads))
        ctx.grads = [g if w else None for g, w in zip(grads, wanted)]
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        first = next(x for x in inputs if x is not None)
        return first.new_tensor(result.loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: torch.Tensor) -> Any:
        up = up.to(torch.float32)
        return (None, None, None, None, *(None if g is None else (g * up).to(t) for g, t in zip(ctx.grads, ctx.dtypes)))


class FeatureLoss(nn.Module):
    """A method of libkd.LossFeature between inner outputs of student and teacher:

        hint = FeatureLoss("fitnet", student=[(16,)], teacher=[(64,)])
        optimizer = torch.optim.Adam([*student.parameters(), *hint.parameters()])
        loss = criterion(..) + hint(student_features, teacher_features)

    student, teacher: the shapes of the taps without their batch, as LossFeature's: maps are (height, width, channels), so that a map
        of torch is given as x.permute(0, 2, 3, 1)
    The other keyword arguments are LossFeature's.  Its adapters are parameters of this module; in train() they use the batch's
    statistics, in eval() their running ones.  A step's gradients are those of its last call.

    FeatureLoss("mse" | "smooth_l1" | "cosine", ..) without shapes is a FeatureDistance, as before there were methods.
    """

    def __new__(cls, method: str = "mse", **fields: Any) -> Any:
        if method in ("mse", "smooth_l1") or not (fields.get("student") or fields.get("teacher") or fields.get("classes")):
            kind = fields.pop("kind", method)
            return FeatureDistance(kind, **fields)
        return super().__new__(cls)

    def __init__(self, method: str, *, context: Context | None = None, **fields: Any) -> None:
        super().__init__()
        self.method = method
        self._loss = LossFeature(method, context=context, adapters_external=1, **fields)
        model = self._loss.adapters
        self._model = model
        self._own = [] if model is None else [p for p in model.parameter_infos() if not p.is_buffer]
        for own in self._own:
            shared = torch.frombuffer(own.tensor.flat_view().cast("B"), dtype=torch.float32).reshape(own.tensor.shape)
            self.register_parameter(own.name.replace(".", "_"), nn.Parameter(shared))

    def forward(self, student: Any = (), teacher: Any = (), *, labels: Any = None, indices: Any = None, mask: Any = None,
                student_logits: torch.Tensor | None = None, teacher_logits: torch.Tensor | None = None) -> torch.Tensor:
        """student, teacher: a tap or a list of taps [n, shape..]; the gradient goes to the student's, and to student_logits.  Returns a
        scalar."""
        s = list(student) if isinstance(student, (list, tuple)) else [student]
        t = [x.detach() for x in (teacher if isinstance(teacher, (list, tuple)) else [teacher])]
        if self._model is not None:
            self._model.touch()                       # an optimizer of torch may have moved them
        others = dict(labels=None if labels is None else labels.detach().to(torch.int32).contiguous(),
                      indices=None if indices is None else indices.detach().to(torch.int32).contiguous(),
                      mask=_plain(mask, "mask"), teacher_logits=_plain(teacher_logits, "teacher_logits"))
        return _Feature.apply(self, others, t, len(s), *s, student_logits, *self.parameters())

    def extra_repr(self) -> str:
        return repr(self.method)


# ---- models ------------------------------------------------------------------------------------------------------------------

_TORCH = {"f32": torch.float32, "f64": torch.float64, "i32": torch.int32, "i64": torch.int64, "u8": torch.uint8}


def to_torch(x: Tensor) -> torch.Tensor:
    """A libkd tensor as one of torch: the same memory; of a tape's tensor a copy, since reset() takes it back."""
    source = x if x.contiguous else x.clone()
    if not source.count:
        return torch.empty(x.shape, dtype=_TORCH[x.dtype])
    made = torch.frombuffer(source.flat_view().cast("B"), dtype=_TORCH[x.dtype]).reshape(x.shape)
    return made.clone() if x.tape is not None else made


def state_dict(model: Model) -> dict[str, torch.Tensor]:
    """Every parameter and buffer of a libkd model by name, in PyTorch's layout: for module.load_state_dict(..).  Exact copies.
    "num_batches_tracked" entries, which libkd has not, are left as they are by load_module, or by strict=False."""
    return {name: to_torch(tensor) for name, tensor in model.state().items()}


def load_state_dict(model: Model, state: Mapping[str, torch.Tensor], *, missing_ok: bool = False, extra_ok: bool = False) -> None:
    """A torch state dict into a libkd model of the same architecture and names, exactly.  All or nothing; see Model.load_state.
    Note that PyTorch flattens images in the order c, h, w: rows of a linear layer behind a flatten must be permuted."""
    plain = {}
    for name, x in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if x.device.type != "cpu":
            raise TypeError(f"{name} is on {x.device}: call .cpu()")
        plain[name] = x.detach().to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x.detach()
    model.load_state(plain, missing_ok=missing_ok, extra_ok=extra_ok)


def load_module(module: nn.Module, model: Model) -> None:
    """A libkd model into a torch module of the same architecture and names, exactly.  KdArgumentError names what does not fit."""
    state = state_dict(model)
    own = module.state_dict()
    wrong = [f"missing: {name}" for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong += [f"unexpected: {name}" for name in state if name not in own]
    wrong += [f"{name}: shape {list(state[name].shape)}, the module needs {list(own[name].shape)}" for name in state
              if name in own and state[name].shape != own[name].shape]
    if wrong:
        raise KdArgumentError(-2, "load_module: " + "; ".join(wrong))
    module.load_state_dict({**own, **state})
