"""Gives back to the system what was let go: glibc keeps it, in an arena for each of many threads.

Pieces of code and the memory of passes of many sizes come and go between long-lived ones. In one
run of 21,000 passes (MiniLM, bf16) that took 6 MiB more at some point, most of it free.
"""

import ctypes
import sys
from collections.abc import Callable

# It takes less than a millisecond where little is free; pages of a large pass are faulted in again.
EVERY_S = 60.0


def give_back() -> None:
    """Give free memory back to the system, where the C library can."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


class Heap:
    """Gives free memory back now and then."""

    def __init__(
        self, clock: Callable[[], float], give_back: Callable[[], None] = give_back
    ) -> None:
        self._clock = clock
        self._give_back = give_back
        self._due = clock() + EVERY_S

    def tidy(self) -> None:
        """Give back what is free, unless that was done less than ``EVERY_S`` ago."""
        if self._clock() >= self._due:
            self._give_back()
            self._due = self._clock() + EVERY_S
