"""Answers as the pace sees them: how many came in which time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as the pace sees it; times in seconds on one monotonic clock.

    Attributes:
        change: ``Pace.change`` at the moment when the request was sent.
        is_usual: Whether it was a request as the pace asks for, not a part of one that failed.
    """

    change: int
    sent_at_s: float
    at_s: float
    texts: int
    tokens: int
    is_usual: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Answers that came in ``seconds``."""

    seconds: float = 0.0
    answers: int = 0
    texts: int = 0
    tokens: int = 0
    latency_s: float = 0.0

    @property
    def rate(self) -> float:
        """Return tokens per second."""
        return self.tokens / max(self.seconds, 1e-9)

    def plus(self, answer: Answered, seconds: float) -> "Window":
        """Return the answers with one more, that came ``seconds`` after the one before."""
        return Window(
            self.seconds + seconds,
            self.answers + 1,
            self.texts + answer.texts,
            # A service that counts no tokens is measured in texts.
            self.tokens + max(answer.tokens, answer.texts),
            self.latency_s + answer.at_s - answer.sent_at_s,
        )
