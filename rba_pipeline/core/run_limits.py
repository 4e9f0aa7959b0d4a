"""What bounds a run, whatever its pace."""

from dataclasses import dataclass

from rba_pipeline.core.errors import ServiceOverloaded, ServiceUnavailable
from rba_pipeline.core.recovery import Batch
from rba_pipeline.core.replicas import Replica
from rba_pipeline.core.silence import FEWEST_FAILURES

# Who names no time at all, or one that is over by its clock, is not asked without a pause.
_SHORTEST_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a run.

    Attributes:
        unkept_texts: Most texts that are sent and not yet kept.
        request_tokens: Most tokens that the service takes in one request.
        request_texts: Most texts that it takes in one; ``None``: as many as the pace makes.
        outage_s: How long a run goes on without any answer while requests fail; and after how long
            without one to its texts a control has to show that it is the texts.
        address_tokens: Most tokens of this run in flight at one address, but for a request that
            is alone there; ``None``: as many as the pace makes.
    """

    unkept_texts: int
    request_tokens: int
    outage_s: float
    address_tokens: int | None = None
    request_texts: int | None = None

    def allows(self, replica: Replica, batch: Batch) -> bool:
        """Return whether ``batch``, of several texts, is small enough to be sent to ``replica``."""
        texts = len(batch.texts)
        is_allowed = batch.tokens <= self.request_tokens and texts <= (self.request_texts or texts)
        return is_allowed and replica.room.allows(batch.characters, texts)

    def has_room(self, replica: Replica, batch: Batch) -> bool:
        """Return whether ``batch`` fits beside what is in flight at ``replica``."""
        most = self.address_tokens
        return most is None or not replica.requests or replica.tokens + batch.tokens <= most

    def wait_s(
        self, error: ServiceOverloaded | ServiceUnavailable, usual_s: float, jitter: float
    ) -> float:
        """Return what the service named, or ``usual_s``, times ``jitter``, cut so that an outage
        shows in time."""
        told_s = error.retry_after_s
        wanted_s = usual_s if told_s is None else max(told_s, _SHORTEST_WAIT_S)
        return min(wanted_s * jitter, self.outage_s / FEWEST_FAILURES)
