"""Notices that the model does not come back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """One thread that sleeps until a pass begins, and then until it ends or takes too long."""

    def __init__(self, patience_s: float, on_hang: Callable[[], None]) -> None:
        """``on_hang`` is called once, in the watchdog's thread, which then ends."""
        self.patience_s = patience_s
        self._on_hang = on_hang
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._stopped = False
        self._sleeps = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, soon; harmless if it never began."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Expect what is done inside to end within ``patience_s``; not to be nested."""
        self._expect(time.monotonic() + self.patience_s)
        try:
            yield
        finally:
            self._expect(None)

    def _expect(self, deadline: float | None) -> None:
        with self._changed:
            self._deadline = deadline
            # Woken at each pass, it would cost a small model some of its speed. Unless it sleeps
            # without end, it wakes by itself no later than this deadline, and looks again.
            if self._sleeps:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped and not self._overdue():
                self._sleeps = self._deadline is None
                self._changed.wait(self._left())
                self._sleeps = False
            if self._stopped:
                return
        self._on_hang()

    def _overdue(self) -> bool:
        left = self._left()
        return left is not None and left <= 0

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()
