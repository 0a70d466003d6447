"""context - where things live and how work is run.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import byref, c_void_p, cast
from typing import TYPE_CHECKING, Any, Callable

from . import _native
from ._methods import ContextMethods
from ._native import Box, Object, callback, carry_log, check, constant, lib

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._methods import ContextFields

__all__ = ["Context"]


class Context(Object, ContextMethods):
    """Threads, instruction set, allocator, log, cancellation.  Everything takes `context=None`: the process default.

    isa: "auto", "scalar", "neon", "avx2" or "avx512": the best one that CPU and cap allow is used
    threads: 1 to 256; None or 0: KD_NUM_THREADS, else the CPUs this process may use
    log: called as log(level, text) for each line, on any thread; what it raises is raised by the next checked call
    log_level: "error", "warn" (default), "info", "debug": the most detailed level passed on
    parallel: a parallel loop of your own, called as parallel(n, task); it calls task(i) for each i in range(n) and returns when all
        are done
    allocator: (alloc, free), called as alloc(bytes, align) -> address or 0, and free(address, bytes), on any thread

    `with Context(threads=1) as ctx:` closes it at the end; objects made in it keep it alive.
    """

    __slots__ = ()

    def __init__(self, *, log: Callable[[int, str], None] | None = None, log_level: str | int | None = None,
                 parallel: Callable[[int, Callable[[int], None]], None] | None = None,
                 allocator: tuple[Callable[[int, int], int], Callable[[int, int], None]] | None = None,
                 **fields: "Unpack[ContextFields]") -> None:
        desc, keep = self._describe(log_level=constant("KD_LOG_", log_level), **fields)
        if log is not None:
            desc.log = _log_callback(log)
            keep.append(desc.log)
        if parallel is not None:
            desc.parallel = _parallel_callback(parallel)
            keep.append(desc.parallel)
        if allocator is not None:
            desc.allocator.alloc = callback("kd_allocator.alloc")(lambda size, align, user: allocator[0](size, align))
            desc.allocator.free = callback("kd_allocator.free")(lambda ptr, size, user: allocator[1](ptr, size))
            keep += [desc.allocator.alloc, desc.allocator.free]
        out = c_void_p()
        check(lib.kd_context_create(byref(out), byref(desc)))
        self._box = Box(out.value, lib.kd_context_free, *keep)

    @staticmethod
    def _of(context: "Context | None") -> int | None:
        return None if context is None else context._h

    def __repr__(self) -> str:
        return "<libkd.Context closed>" if self.closed else f"<libkd.Context {self.isa}, {self.threads} threads>"


def deps(context: Context | None) -> tuple:
    """What an object made in `context` must keep."""
    return () if context is None else (context._held,)


def _log_callback(log: Callable[[int, str], None]) -> Any:
    def call(level: int, text: bytes, user: int) -> None:
        try:
            log(level, text.decode("utf-8", "replace"))
        except BaseException as error:         # it cannot pass through C
            carry_log(error)

    return callback("kd_log_fn")(call)


def _parallel_callback(parallel: Callable) -> Any:
    from ctypes import CFUNCTYPE, c_size_t

    kind = CFUNCTYPE(None, c_size_t, c_void_p)

    def call(n: int, task: int, arg: int, user: int) -> None:
        function = cast(task, kind)
        done = set()

        def one(i: int) -> None:
            done.add(i)
            function(i, arg)

        try:
            parallel(n, one)
        except BaseException as error:
            carry_log(error)
        for i in range(n):                     # every task is owed, whatever the loop did
            if i not in done:
                function(i, arg)

    return callback("kd_parallel_fn")(call)


# ---- the process -------------------------------------------------------------------------------------------------------------


def version() -> str:
    """Version of the library that runs: "0.1.0"."""
    return lib.kd_version_string().decode()


def version_number() -> int:
    """10000 major + 100 minor + patch."""
    return lib.kd_version()


def build_info() -> str:
    """One line about the build: version, compiler, the instruction sets compiled in, BLIS or not."""
    return lib.kd_build_info().decode()


def isa() -> str:
    """The instruction set of the process default: "scalar", "neon", "avx2", "avx512"."""
    return lib.kd_context_isa(None).decode()


def threads() -> int:
    """Threads of the process default."""
    return lib.kd_context_threads(None)


def cancel() -> None:
    """Ask whatever runs in the process default to stop, as Context.cancel does.  Stays so until resume()."""
    lib.kd_context_cancel(None)


def resume() -> None:
    lib.kd_context_resume(None)


def cancelled() -> bool:
    return lib.kd_context_cancelled(None) != 0


def shutdown() -> None:
    """Join and release the process default's threads and cached memory; no other call may be running.  It works again on its next
    use."""
    lib.kd_shutdown()


def status_name(status: int) -> str:
    """status_name(-2) is "KD_ERR_SHAPE"."""
    return lib.kd_status_name(status).decode()


def library_path() -> str:
    """The file that was loaded."""
    return _native.lib.path
