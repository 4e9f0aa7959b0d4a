"""How long a run goes on while nothing is answered: the circuit breaker."""

import math
from dataclasses import dataclass

from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    ServiceOverloaded,
    ServiceUnavailable,
)

# Fewer failures than this are no outage, however long they took.
FEWEST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Silence:
    """The time since the last answer in which requests failed; seconds on the run's clock."""

    outage_s: float
    since_s: float | None = None
    failures: int = 0
    last: EmbeddingError | None = None

    def broken(self) -> "Silence":
        """Return the state after an answer."""
        return Silence(self.outage_s)

    def after(self, error: EmbeddingError, at_s: float) -> "Silence":
        """Return the state after a failure."""
        since_s = at_s if self.since_s is None else self.since_s
        return Silence(self.outage_s, since_s, self.failures + 1, error)

    @property
    def ends_at_s(self) -> float | None:
        """Return when it will have lasted too long; ``None`` while there is none."""
        return None if self.since_s is None else self.since_s + self.outage_s

    def verdict(self, now_s: float, *, asked_at_s: float = math.inf) -> EmbeddingError | None:
        """Return the error that ends the run, of the kind of its last failure; ``None``: go on.

        Args:
            asked_at_s: When the oldest request was sent that is still in flight; minus infinity if
                one is at an address that has not failed. One that was sent before the first failure
                is waited for: who is slow is well.
        """
        if self.last is None or self.since_s is None or self.failures < FEWEST_FAILURES:
            return None
        if asked_at_s < self.since_s:
            return None
        if now_s < self.since_s + self.outage_s:
            return None
        said = (
            f"{self.last}. Nothing was answered for {now_s - self.since_s:.0f} s, in "
            f"{self.failures} tries: the run ends (outage_s={self.outage_s:g}). No text is blamed, "
            "and what was embedded is kept: run the partition again"
        )
        match self.last:
            case ServiceOverloaded():
                return ServiceOverloaded(said)
            case ModelFailed():
                return ModelFailed(said)
            case ServiceUnavailable():
                return ServiceUnavailable(said)
        raise RuntimeError(f"{type(self.last).__name__} is no outage: this is a bug in Dispatch")
