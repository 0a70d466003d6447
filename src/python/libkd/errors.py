"""errors - one exception for each kind of kd_status; each is also the builtin a Python program expects.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

__all__ = ["KdError", "KdArgumentError", "KdTypeError", "KdRangeError", "KdFormatError", "KdIOError", "KdMemoryError",
           "KdUnsupported", "KdCancelled", "KdNumericError", "KdStateError", "error_for"]


class KdError(RuntimeError):
    """A call into libkd failed.

    status: the kd_status, a negative number
    message: the library's text: which function and argument, which shapes, which file and offset
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class KdArgumentError(KdError, ValueError):
    """An argument is out of its range, contradicts another, or shapes do not fit (KD_ERR_ARG, KD_ERR_SHAPE)."""


class KdTypeError(KdError, TypeError):
    """A dtype the call does not take (KD_ERR_DTYPE)."""


class KdRangeError(KdError, IndexError):
    """A value in the data is out of range: a label, an index (KD_ERR_RANGE)."""


class KdFormatError(KdError, ValueError):
    """A file that is cut short, broken, too large, of a newer version or with a wrong checksum."""


class KdMemoryError(KdError, MemoryError):
    """The allocator returned NULL (KD_ERR_NOMEM)."""


class KdUnsupported(KdError, NotImplementedError):
    """Well formed, but not served by this build (KD_ERR_UNSUPPORTED)."""


class KdCancelled(KdError):
    """Context.cancel() was called (KD_ERR_CANCELLED)."""


class KdNumericError(KdError, ArithmeticError):
    """A NaN or infinity where finite numbers were asked for (KD_ERR_NUMERIC)."""


class KdStateError(KdError):
    """Right call, wrong moment: a tensor after Tape.reset(), an object after close() (KD_ERR_STATE)."""


class KdIOError(KdError, OSError):
    """The operating system refused.  errno and filename as in OSError (KD_ERR_IO)."""

    def __init__(self, status: int, message: str, errno: int | None = None, filename: str | None = None) -> None:
        KdError.__init__(self, status, message)
        self.errno = errno or None
        self.filename = filename

    def __reduce__(self):
        return type(self), (self.status, self.message, self.errno, self.filename)


# KdError and OSError lay out their memory differently on CPython only if __new__ mixes them: OSError's takes what it gets.
_KINDS = {
    -1: KdArgumentError, -2: KdArgumentError, -3: KdTypeError, -4: KdRangeError, -5: KdMemoryError, -6: KdIOError,
    -7: KdFormatError, -8: KdFormatError, -9: KdUnsupported, -10: KdFormatError, -11: KdFormatError, -12: KdNumericError,
    -13: KdFormatError, -14: KdFormatError, -15: KdCancelled, -16: KdStateError,
}


def error_for(status: int, message: str, errno: int = 0, filename: str | None = None) -> KdError:
    """The exception for a kd_status."""
    kind = _KINDS.get(status, KdError)
    if kind is KdIOError:
        return KdIOError(status, message, errno, filename)
    return kind(status, message)
