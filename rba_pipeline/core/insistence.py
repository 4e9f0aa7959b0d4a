"""How long the service is asked again for what must be known before any text is sent."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from rba_pipeline.core.errors import (
    EmbeddingError,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
)
from rba_pipeline.core.silence import FEWEST_FAILURES, Silence

# Somebody waits for a search, or a plan: what is down should be reported soon.
_BRIEF_PAUSES_S = (0.5, 1.5)
_BRIEF_TRY_S = 60.0
# Of a run, where the service names no time; doubled with each further failure in a row.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_SHORTEST_TRY_S = 10.0

# Errors that may name a time.
_TELLING = (ServiceOverloaded, ServiceUnavailable)

# Called before each wait, with what failed, how often in a row, and the seconds waited so far.
OnWait = Callable[[EmbeddingError, int, float], None]


def _unheard(error: EmbeddingError, failed: int, waited_s: float) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Insistence:
    """How long to insist on an answer.

    Attributes:
        outage_s: A run's; ``None``: somebody waits, who is told after three tries, or one time-out.
        on_wait: Told before each wait.
        jitter: Factors around 1 for waits, so that several runs do not come back in one wave.
    """

    outage_s: float | None = None
    on_wait: OnWait = _unheard
    jitter: Callable[[], float] = lambda: random.uniform(1.0, 1.25)

    @property
    def longest_try_s(self) -> float:
        """Return how long one try may wait for the model: a few of them fit into an outage."""
        if self.outage_s is None:
            return _BRIEF_TRY_S
        return max(_SHORTEST_TRY_S, self.outage_s / FEWEST_FAILURES)

    def pause_s(self, error: EmbeddingError, failed: int, waited_s: float) -> float:
        """Return how long to wait before the next try.

        Args:
            error: What became of the last one.
            failed: Tries that failed, n ≥ 1.
            waited_s: Since the first one began.

        Raises:
            EmbeddingError: There is to be none: ``error``, or one that says how long it has been.
        """
        if self.outage_s is None:
            if failed > len(_BRIEF_PAUSES_S) or isinstance(error, RequestTimedOut):
                raise error
            return _BRIEF_PAUSES_S[failed - 1]
        verdict = Silence(self.outage_s, 0.0, failed, error).verdict(waited_s)
        if verdict is not None:
            raise verdict from error
        usual_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failed - 1, 30))
        wanted_s = _told_s(error, usual_s) * self.jitter()
        # The last try is at the end of the outage, whatever the service names.
        left_s = max(_FIRST_PAUSE_S, self.outage_s - waited_s)
        return min(wanted_s, left_s, self.outage_s / FEWEST_FAILURES)


BRIEF = Insistence()


def _told_s(error: EmbeddingError, usual_s: float) -> float:
    told_s = error.retry_after_s if isinstance(error, _TELLING) else None
    return usual_s if told_s is None else max(told_s, _FIRST_PAUSE_S)
