"""optimizer - Optimizer, Schedule, Ema and gradient clipping.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import byref, c_double, c_void_p
from typing import TYPE_CHECKING, Any, Iterable

from ._interrupt import long_call
from ._methods import EmaMethods, OptimizerMethods
from ._native import Box, Object, check, error_of, lib
from ._native import describe
from .context import Context, deps
from .model import Model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._methods import OptimizerFields, ScheduleFields

__all__ = ["Optimizer", "Schedule", "Ema", "clip_grad_norm"]


class Schedule:
    """A factor on the learning rate as a function of the step.

    kind: "constant", "step" (gamma, period), "multi_step" (gamma, milestones), "cosine" or "linear" (total_steps, final_factor)
    warmup_steps, warmup_start: in front of any: from warmup_start to 1 in so many steps; total_steps counts from there

    The fields are those of kd_schedule_desc in kd/optimizer.h, with the formulas.
    """

    def __init__(self, kind: str = "constant", **fields: "Unpack[ScheduleFields]") -> None:
        self._fields = {"kind": kind, **fields}
        _known("kd_schedule_desc", self._fields)
        self._desc, self._keep = describe("kd_schedule_desc", **self._fields)

    def factor(self, step: int) -> float:
        """The factor at a step; NaN for fields that make no schedule."""
        return lib.kd_schedule_factor(byref(self._desc), step)

    def __repr__(self) -> str:
        return f"Schedule({', '.join(f'{k}={v!r}' for k, v in self._fields.items())})"


def _known(struct: str, fields: dict) -> None:
    from ._api import STRUCTS

    names = [entry[0] for entry in STRUCTS[struct]]
    for field in fields:
        if field not in names or field == "struct_size":
            raise TypeError(f"unexpected keyword argument {field!r}; {struct} has {', '.join(names[1:])}")


class Optimizer(Object, OptimizerMethods):
    """Optimizer("sgd" | "adam" | "adamw", model, .., lr=0.1, ..): PyTorch's formulas over whole models.

    The keyword arguments are the fields of kd_optimizer_desc: lr, momentum, dampening, nesterov, beta1, beta2, eps, weight_decay,
    max_grad_norm (0: no clipping).  schedule: a Schedule.
    """

    __slots__ = ("_context",)

    def __init__(self, method: str | int, *models: Model, schedule: Schedule | None = None, context: Context | None = None,
                 **fields: "Unpack[OptimizerFields]") -> None:
        desc, keep = self._describe(method=_method(method), **fields)
        out = c_void_p()
        check(lib.kd_optimizer_create(byref(out), Context._of(context), byref(desc)))
        self._box = Box(out.value, lib.kd_optimizer_free, *deps(context))
        self._context = context
        for model in models:
            self.add(model)
        if schedule is not None:
            self.set_schedule(schedule)

    def add(self, model: Model) -> None:
        """Train this model too; before the first step."""
        self._depend(model)
        check(lib.kd_optimizer_add(self._h, model._h))

    def set_schedule(self, schedule: Schedule) -> None:
        check(lib.kd_optimizer_set_schedule(self._h, byref(schedule._desc)))

    def step(self) -> None:
        """One update of every model that is not frozen; then the gradients are zero.  On error nothing changed.

        C: kd_optimizer_step
        """
        status = long_call(Context._of(self._context), lib.kd_optimizer_step, self._h)
        if status < 0:
            raise error_of(status)


def _method(method: Any) -> int:
    from ._native import constant

    return constant("KD_OPT_", method)


class Ema(Object, EmaMethods):
    """Exponential moving average of a model's weights and buffers: e = decay e + (1 - decay) w.

    update() after each step; swap() exchanges the average and the model's weights, and swap() again takes it back.
    `with ema:` swaps for the block.
    """

    __slots__ = ()

    def __init__(self, model: Model, decay: float) -> None:
        out = c_void_p()
        check(lib.kd_ema_create(byref(out), model._h, decay))
        self._box = Box(out.value, lib.kd_ema_free, model._held)

    def __enter__(self) -> "Ema":
        self.swap()
        return self

    def __exit__(self, *exception: object) -> None:
        self.swap()


def clip_grad_norm(models: Model | Iterable[Model], max_norm: float) -> float:
    """Scale all gradients of the models by min(1, max_norm / (norm + 1e-6)); returns the norm before.  For loops of your own:
    Optimizer.step does it when max_grad_norm is set."""
    models = [models] if isinstance(models, Model) else list(models)
    norm = c_double()
    check(lib.kd_clip_grad_norm((c_void_p * len(models))(*(m._h for m in models)), len(models), max_norm, byref(norm)))
    return norm.value
