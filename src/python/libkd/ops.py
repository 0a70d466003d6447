"""ops - the ops as functions: ops.matmul(a, b) is a.tape.matmul(a, b), on the tape of its first argument that has one.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import functools
from typing import Any

from ._methods import TapeOps
from .errors import KdStateError
from .tape import Tape
from .tensor import Tensor

__all__ = [name for name in vars(TapeOps) if not name.startswith("_")]


def _tape_of(args: Any) -> Tape:
    for x in args:
        if isinstance(x, (list, tuple)):
            x = next((part for part in x if isinstance(part, Tensor)), None)
        if isinstance(x, Tensor) and x.tape is not None:
            return x.tape
    raise KdStateError(-16, "none of the arguments is on a tape: use the methods of Tape")


def _function(method: Any) -> Any:
    @functools.wraps(method)
    def op(*args: Any, **keywords: Any) -> Any:
        return method(_tape_of((*args, *keywords.values())), *args, **keywords)

    op.__module__ = __name__
    return op


for _name in __all__:
    globals()[_name] = _function(getattr(TapeOps, _name))
