"""How long to go on trying what may succeed later: at first often, then seldom, never for ever."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of trying again; durations in seconds.

    Attributes:
        attempts: All of them, the first included, n ≥ 1.
        within_s: No attempt begins later than this after the first one began.
        pause_s: Longest pause after the first failure; it doubles with every further one.
        longest_pause_s: Where doubling ends.
    """

    attempts: int
    within_s: float
    pause_s: float = 0.1
    longest_pause_s: float = 4.0

    def next_pause_s(self, *, failed: int, elapsed_s: float, jitter: float) -> float | None:
        """Return how long to wait before the next attempt; ``None`` if there is to be none.

        Args:
            failed: Attempts that failed, n ≥ 1.
            elapsed_s: Time since the first attempt began.
            jitter: From 0 to 1, where in the second half of the pause this caller wakes: many
                that failed together must not come back together.
        """
        doubled = self.pause_s * 2.0 ** min(failed - 1, 30)
        pause = min(self.longest_pause_s, doubled) * (0.5 + jitter / 2)
        if failed >= self.attempts or elapsed_s + pause > self.within_s:
            return None
        return pause
