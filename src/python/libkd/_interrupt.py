"""_interrupt.py - Ctrl-C during a long call.

Python runs its signal handlers between bytecodes of the main thread, hence not while that thread is inside C.  Its C handler does
write the signal's number to the "wakeup fd" at once; during a long call that is a pipe of ours, read by a small thread, which then
asks the call's context to stop.  The call returns KD_ERR_CANCELLED, Python's handler runs, and KeyboardInterrupt is raised.

Only where Ctrl-C means KeyboardInterrupt: with a handler of your own, the call runs to its end and the handler runs then.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import os
import threading
from typing import Any, Callable

from ._native import lib

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None
_call: "_Call | None" = None          # the call under way on the main thread


class _Call:
    __slots__ = ("context", "before", "fired")

    def __init__(self, context: int | None) -> None:
        self.context, self.before, self.fired = context, -1, False


def _watch(fd: int) -> None:
    import signal

    while True:
        try:
            data = os.read(fd, 64)
        except OSError:
            return
        if not data:
            return
        with _lock:
            call = _call
            if call is None:
                continue
            if call.before >= 0:              # whoever had the wakeup fd, asyncio for one, hears of it too
                try:
                    os.write(call.before, data)
                except OSError:
                    pass
            if signal.SIGINT in data and not call.fired:
                call.fired = True
                lib.kd_context_cancel(call.context)


def _start() -> int:
    global _pipe
    if _pipe is None:
        _pipe = os.pipe()
        for fd in _pipe:
            os.set_blocking(fd, fd == _pipe[0])
        threading.Thread(target=_watch, args=(_pipe[0],), name="libkd Ctrl-C", daemon=True).start()
    return _pipe[1]


def _forked() -> None:
    """The child has no such thread."""
    global _pipe, _call, _lock
    if _pipe is not None:
        for fd in _pipe:
            os.close(fd)
    _pipe, _call, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def long_call(context: int | None, function: Callable, *args: Any) -> Any:
    """function(*args), which runs in this context and must not raise anything of its own; Ctrl-C stops it."""
    global _call
    import signal                             # late: it is slow to import, and not every program makes long calls

    if (threading.current_thread() is not threading.main_thread() or _call is not None
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
        return function(*args)
    call = _Call(context)
    try:
        fd = _start()
        call.before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    except (ValueError, RuntimeError):        # a subinterpreter: signals are the main one's
        return function(*args)
    _call = call
    try:
        return function(*args)
    finally:
        with _lock:
            _call = None
        signal.set_wakeup_fd(call.before, warn_on_full_buffer=False)
        if call.fired:
            lib.kd_context_resume(context)
