"""Controls: harmless texts whose answers show whether a service embeds any."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rba_pipeline.core.errors import (
    EmbeddingError,
    RequestTooLarge,
    ServiceOverloaded,
    TextRejected,
)
from rba_pipeline.core.replicas import Replicas
from rba_pipeline.core.tasks import Probe


@dataclass(slots=True)
class Controls:
    """Those of one run.

    Attributes:
        in_flight: How many are.
        turned_away: How many in a row met a full service.
    """

    addresses: Sequence[str]
    in_flight: int = 0
    turned_away: int = 0
    _refused_by: set[str] = field(default_factory=set)

    def sent(self, replicas: Replicas, now_s: float, text: str) -> Probe | None:
        """Return a control with ``text`` for an address that has not refused one; ``None`` where
        it is for one that is away to say."""
        replica = replicas.chosen(now_s, self._refused_by)
        if replica is None or (replica.address in self._refused_by and self.others_may_take_it):
            return None
        self.in_flight += 1
        return Probe(replica.address, text)

    def answered(self) -> None:
        """Take note of an answer: what was refused before was another text."""
        self.in_flight -= 1
        self.turned_away = 0
        self._refused_by.clear()

    def failed(self, address: str, error: EmbeddingError) -> None:
        """Take note of a failure, and of who refused it."""
        self.in_flight -= 1
        self.turned_away = self.turned_away + 1 if isinstance(error, ServiceOverloaded) else 0
        if isinstance(error, RequestTooLarge | TextRejected):
            self._refused_by.add(address)

    @property
    def others_may_take_it(self) -> bool:
        """Return whether there is an address that has not refused one."""
        return bool(set(self.addresses) - self._refused_by)
