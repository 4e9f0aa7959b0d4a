"""Several addresses of one service: who gets the next request, who is left out, and how long."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rba_pipeline.core.room import Room

# Seconds that an address is left out after a failure, doubled with each further one in a row.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
# As many model failures in a row are the address' fault until it is shown to be well.
FAILURES_IN_A_ROW = 3
# How much a new measurement of speed counts against the earlier ones.
_FRESHNESS = 0.3


@dataclass(frozen=True, slots=True)
class Replica:
    """One address as a run knows it; times in seconds on the run's clock.

    Attributes:
        tokens: Tokens in flight there.
        requests: Requests in flight there.
        rate: Measured tokens per second; 0 while unknown.
        failures: Requests that failed in a row.
        pauses: How often it was left out since its last answer.
        held_until_s: It was full: no request before.
        out_until_s: It failed: no probe before; ``None`` while it takes part.
        is_probed: A probe is in flight.
        is_reserved: The request in flight there has it for itself.
        is_tried: A request in flight there is the first since it failed.
        room: How large its requests may be.
    """

    address: str
    tokens: int = 0
    requests: int = 0
    rate: float = 0.0
    failures: int = 0
    pauses: int = 0
    held_until_s: float = 0.0
    out_until_s: float | None = None
    is_probed: bool = False
    is_reserved: bool = False
    is_tried: bool = False
    room: Room = field(default_factory=Room)

    @property
    def takes_part(self) -> bool:
        """Return whether it is not left out."""
        return self.out_until_s is None

    def takes_requests(self, now_s: float) -> bool:
        """Return whether a request may be sent there now; one that came back gets one at first."""
        is_shut = self.requests > 0 and (self.is_reserved or self.is_tried)
        return self.takes_part and self.held_until_s <= now_s and not is_shut

    def needs_probe(self, now_s: float) -> bool:
        """Return whether it is time to see whether it is back."""
        return self.out_until_s is not None and self.out_until_s <= now_s and not self.is_probed

    def sent(self, tokens: int, *, to_itself: bool = False) -> "Replica":
        """Return the state after a request with ``tokens`` was sent.

        Args:
            to_itself: Whether no other may join it. One that finds a request there does not get it.
        """
        is_tried = self.failures > 0
        return replace(
            self,
            tokens=self.tokens + tokens,
            requests=self.requests + 1,
            is_reserved=not self.requests and (to_itself or is_tried),
            is_tried=is_tried,
        )

    def answered(self, tokens: int, in_flight: int, seconds: float) -> "Replica":
        """Return the state after an answer.

        Args:
            tokens: Tokens of the request.
            in_flight: Tokens in flight there when it was sent, its own among them.
            seconds: From sending to answer.
        """
        # Little's law: what is in flight, divided by how long it stays, is the throughput.
        seen = in_flight / max(seconds, 1e-6)
        rate = seen if not self.rate else self.rate + _FRESHNESS * (seen - self.rate)
        return replace(self._without(tokens), rate=rate, failures=0, pauses=0)

    def refused(self, tokens: int, until_s: float) -> "Replica":
        """Return the state after a request met a full service."""
        return replace(self._without(tokens), held_until_s=max(self.held_until_s, until_s))

    def returned(self, tokens: int) -> "Replica":
        """Return the state after an answer that says nothing of the service's health."""
        return self._without(tokens)

    def failed(
        self, tokens: int, now_s: float, *, wait_s: float, patience: int = 1, jitter: float = 1.0
    ) -> "Replica":
        """Return the state after a failure: left out, if it was the ``patience``-th in a row.

        Args:
            wait_s: Seconds that it named itself, or 0.
            jitter: Factor for how long it is left out where it named none.
        """
        after = replace(self._without(tokens), failures=self.failures + 1)
        # All requests that were in flight at one crash are one failure.
        if after.failures < patience or self.out_until_s is not None:
            return after
        return after._left_out(now_s, wait_s, jitter)

    def probed(
        self, now_s: float, *, is_well: bool, wait_s: float = 0.0, jitter: float = 1.0
    ) -> "Replica":
        """Return the state after a probe: it takes part again, or is left out for longer."""
        after = replace(self, is_probed=False)
        if is_well:
            return replace(after, out_until_s=None)
        return after._left_out(now_s, wait_s, jitter)

    def suspected(self, now_s: float) -> "Replica":
        """Return the state of an address that has to be shown to be well at once."""
        return self if self.out_until_s is not None else replace(self, out_until_s=now_s)

    def _left_out(self, now_s: float, wait_s: float, jitter: float) -> "Replica":
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.pauses, 10))
        until_s = now_s + max(wait_s, pause_s * jitter)
        return replace(self, pauses=self.pauses + 1, out_until_s=until_s)

    def _without(self, tokens: int) -> "Replica":
        tokens, requests = self.tokens - tokens, self.requests - 1
        return replace(self, tokens=tokens, requests=requests, is_reserved=False, is_tried=False)


def chosen(
    replicas: Collection[Replica], now_s: float, *, avoid: Collection[str] = ()
) -> Replica | None:
    """Return who is the first to have nothing left in flight, by measured speed; ``None``: nobody
    may. So nobody who is well is idle, however slow, while there are requests enough for all.

    An address whose speed is unknown is taken to be as fast as the fastest. Of several that are
    idle it comes first, unless it failed twice, and then the fastest. Those to ``avoid`` get it
    only where no other one takes part.
    """
    fastest = max((each.rate for each in replicas), default=0.0) or 1.0

    def expected(replica: Replica) -> tuple[float, bool, float]:
        # Its first request may have met a fault that passes.
        is_known = replica.rate > 0 or replica.failures > 1
        return replica.tokens / (replica.rate or fastest), is_known, -replica.rate

    others = [each for each in replicas if each.takes_part and each.address not in avoid]
    able = [each for each in others or replicas if each.takes_requests(now_s)]
    return min(able, key=expected, default=None)


class Replicas:
    """The addresses of one run."""

    def __init__(self, addresses: Sequence[str], unreachable: Collection[str] = ()) -> None:
        """Begin with all ``addresses``; those ``unreachable`` have to be probed first."""
        self._by_address = {
            address: Replica(address, out_until_s=0.0 if address in unreachable else None)
            for address in addresses
        }

    def __getitem__(self, address: str) -> Replica:
        """Return an address as it is known now."""
        return self._by_address[address]

    def set(self, replica: Replica) -> None:
        """Take note of what became of an address."""
        self._by_address[replica.address] = replica

    def chosen(self, now_s: float, avoid: Collection[str] = ()) -> Replica | None:
        """Return who gets the next request; see ``chosen``."""
        return chosen(self._by_address.values(), now_s, avoid=avoid)

    def probe(self, now_s: float) -> str | None:
        """Return an address that is to be probed now, and take it to be."""
        for replica in self._by_address.values():
            if replica.needs_probe(now_s):
                self.set(replace(replica, is_probed=True))
                return replica.address
        return None

    def suspect(self, now_s: float) -> None:
        """Have the address that would get the next request shown to be well at once."""
        if (replica := self.chosen(now_s)) is not None:
            self.set(replica.suspected(now_s))

    def taking_part(self) -> frozenset[str]:
        """Return those that are not left out."""
        return frozenset(name for name, each in self._by_address.items() if each.takes_part)

    @property
    def is_computing(self) -> bool:
        """Return whether a request is in flight at an address that has not failed."""
        return any(each.requests and not each.failures for each in self._by_address.values())

    def obstacles(self, now_s: float) -> dict[str, str]:
        """Return which addresses take no requests now, and why."""
        return {
            name: "full" if each.takes_part else "left out until it is well"
            for name, each in self._by_address.items()
            if not each.takes_part or each.held_until_s > now_s
        }

    def changes_at(self) -> Iterator[float]:
        """Yield the times at which an address may take a request or a probe again."""
        for each in self._by_address.values():
            yield each.held_until_s
            if each.out_until_s is not None and not each.is_probed:
                yield each.out_until_s
