"""How far a piece of work has come, and when it is time to say so again; no clock of its own."""

from dataclasses import dataclass, replace

# It is said first after this many seconds, for whoever watches ...
SOON_S = 2.0
# ... and then whenever as many passed, more of them the longer it goes on. Saying it keeps two
# events, which took 64 ms in a Postgres that syncs its disk: 0.6 % of the time.
EVERY_S, LONGEST_S = 10.0, 60.0
_SHARE_OF_TIME = 0.05


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said: items done and left, items per second, and seconds left if that can be said."""

    done: int
    left: int
    per_second: float
    left_s: float | None

    def sentence(self, noun: str, detail: str = "") -> str:
        """Return the figures in words; ``detail`` comes last."""
        left = "" if self.left_s is None else f", {self.left_s:,.0f} s left"
        return (
            f"{self.done:,} of {self.done + self.left:,} {noun}, {self.per_second:,.1f} per second"
            f"{left}{detail and f', {detail}'}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """A piece of work, and what was said of it last; seconds on the caller's clock.

    Attributes:
        total: Items in all.
        said_s, said_done: When something was said last, and how many items were done then; at
            first the beginning.
    """

    total: int
    began_s: float
    said_s: float
    said_done: int = 0

    @classmethod
    def begun(cls, total: int, now_s: float) -> "Progress":
        """Return the work at its beginning."""
        return cls(total, now_s, now_s)

    def due_in_s(self, now_s: float) -> float:
        """Return in how many seconds it is time to say something; 0: now."""
        return max(0.0, self.said_s + self._pause_s - now_s)

    def figures(self, done: int, now_s: float) -> Figures:
        """Return what is to be said now; the rate is that of the time since the last saying."""
        return self._figures(done, done - self.said_done, now_s - self.said_s)

    def last(self, done: int, seconds: float) -> Figures:
        """Return what is to be said at the end, of all that was done in ``seconds``."""
        return self._figures(done, done, seconds)

    def said(self, done: int, now_s: float) -> "Progress":
        """Return the state after something was said."""
        return replace(self, said_s=now_s, said_done=done)

    @property
    def _pause_s(self) -> float:
        """Seconds from the last saying to the next."""
        if self.said_s == self.began_s:
            return SOON_S
        elapsed_s = self.said_s - self.began_s
        return min(max(EVERY_S, _SHARE_OF_TIME * elapsed_s), LONGEST_S)

    def _figures(self, done: int, new: int, seconds: float) -> Figures:
        rate = new / seconds if seconds > 0 else 0.0
        left = self.total - done
        left_s = left / rate if rate else None
        return Figures(done, left, rate, left_s if left else 0.0)
