"""rng - random numbers that are the same on every machine: Philox4x32-10.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import byref, c_uint32
from typing import Sequence

from ._native import lib, struct

__all__ = ["Rng", "philox"]


class Rng:
    """A stream of random numbers.  Number i of a stream is a function of (key, i) alone.

    Rng(seed) is the stream of a seed, at its beginning; `key` and `index` are its whole state, and it can be pickled.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int = 0) -> None:
        self._state = lib.kd_rng_make(seed)

    @classmethod
    def from_state(cls, key: int, index: int) -> "Rng":
        """The stream `key` at number `index`."""
        rng = cls.__new__(cls)
        rng._state = struct("kd_rng")(key, index)
        return rng

    @property
    def key(self) -> int:
        return self._state.key

    @property
    def index(self) -> int:
        return self._state.index

    def split(self, id: int) -> "Rng":
        """A stream of its own for each `id`, independent of how much was drawn from this one."""
        rng = Rng.__new__(Rng)
        rng._state = lib.kd_rng_split(byref(self._state), id)
        return rng

    def u32(self) -> int:
        """The next 32 random bits."""
        return lib.kd_rng_u32(byref(self._state))

    def uniform(self) -> float:
        """The next number uniform in [0, 1): a multiple of 2^-24."""
        return lib.kd_rng_uniform(byref(self._state))

    def below(self, n: int) -> int:
        """The next number uniform in [0, n), without bias."""
        if n <= 0:
            raise ValueError(f"below({n}): needs n >= 1")
        return lib.kd_rng_below(byref(self._state), n)

    def normal(self) -> float:
        """The next standard normal number."""
        return lib.kd_rng_normal(byref(self._state))

    def shuffle(self, items: list) -> None:
        """Put a list in a random order, in place (Fisher-Yates)."""
        for i in range(len(items), 1, -1):
            j = self.below(i)
            items[i - 1], items[j] = items[j], items[i - 1]

    def __repr__(self) -> str:
        return f"Rng.from_state({self.key:#x}, {self.index})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rng) and (self.key, self.index) == (other.key, other.index)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self):
        return Rng.from_state, (self.key, self.index)


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """One block of the generator itself: four words from a 128-bit counter and a 64-bit key, ten rounds."""
    if len(counter) != 4 or len(key) != 2:
        raise ValueError("philox: a counter of 4 words and a key of 2")
    out = (c_uint32 * 4)()
    lib.kd_rng_philox(out, (c_uint32 * 4)(*counter), (c_uint32 * 2)(*key))
    return tuple(out)
