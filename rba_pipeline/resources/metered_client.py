"""A client that takes note of every answer, and of what the service says of its own work."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rba_pipeline.core.answers import Answered
from rba_pipeline.core.embeddings import CANARY
from rba_pipeline.core.errors import EmbeddingError, RequestTimedOut, ServiceOverloaded
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.service_answers import ServiceInfo, Vectors

# Told only by a service under Linux.
_PROCESSOR_S = re.compile(rb"^process_cpu_seconds_total (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What the service has done since it started, over all addresses; ``None``: it does not say.

    Attributes:
        busy_s: Seconds in the model.
        processors_s: Seconds of processor time.
        texts: Texts computed.
        requests: Requests for embeddings inside at this moment.
    """

    busy_s: float | None
    processors_s: float | None
    texts: int | None
    requests: int | None


class MeteredClient(EmbeddingClient):
    """Takes note of the requests with texts; those for the canary do not count."""

    def __init__(self, addresses: Sequence[str], *, key: str, timeout_s: float) -> None:
        super().__init__(addresses, key=key, timeout_s=timeout_s)
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.answers: list[Answered] = []
        self.refusals = self.errors = 0

    def embed(
        self,
        address: str,
        texts: Sequence[str],
        *,
        info: ServiceInfo,
        input_type: str = "document",
        truncate: bool = False,
        deadline_s: float | None = None,
    ) -> Vectors:
        """See ``EmbeddingClient``."""
        sent_at_s = time.monotonic()
        try:
            answer = super().embed(
                address,
                texts,
                info=info,
                input_type=input_type,
                truncate=truncate,
                deadline_s=deadline_s,
            )
        except EmbeddingError as error:
            with self._lock:
                is_refusal = isinstance(error, ServiceOverloaded | RequestTimedOut)
                self.refusals += is_refusal
                self.errors += not is_refusal
            raise
        if list(texts) != [CANARY]:
            with self._lock:
                # Under the lock: in the order of their times.
                told = Answered(0, sent_at_s, time.monotonic(), len(texts), sum(answer.tokens))
                self.answers.append(told)
        return answer

    def load(self) -> Load:
        """Return what the service says now; a figure that one address lacks is not known."""
        stats = self._stats().values()
        if not stats:
            return Load(None, None, None, None)

        def added(name: str) -> float | None:
            if not all(name in each for each in stats):
                return None
            return sum(float(each[name]) for each in stats)

        texts, requests = added("texts"), added("requests_in_flight")
        return Load(
            added("busy_s"),
            self._processors_s(),
            None if texts is None else int(texts),
            None if requests is None else int(requests),
        )

    def _processors_s(self) -> float | None:
        total = 0.0
        for address in self.addresses:
            try:
                found = _PROCESSOR_S.search(self._get(address, "/metrics").body)
            except EmbeddingError:
                return None
            if found is None:
                return None
            total += float(found[1])
        return total
