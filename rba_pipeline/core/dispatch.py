"""Which request goes where and when: everything that a run decides, without clock, thread or I/O.

The caller sends what ``next_request`` says, tells what came of it, and asks again. Times are
seconds on the caller's monotonic clock.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from rba_pipeline.core import recovery
from rba_pipeline.core.backlog import BacklogSteps
from rba_pipeline.core.embeddings import PASSING_REASONS, Rejection, Text
from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
)
from rba_pipeline.core.pacing import Answered, Pace, after_answer, after_refusal, for_backlog
from rba_pipeline.core.recovery import Batch, Suspect
from rba_pipeline.core.replicas import FAILURES_IN_A_ROW, Replica, chosen
from rba_pipeline.core.silence import FEWEST_FAILURES, Silence

# What a refused request waits where the service names no time.
REFUSED_WAIT_S = 1.0
# A suspect waits for as many answers, while there is other work: they show whether requests fail by
# chance.
ANSWERS_TO_JUDGE = 16
# More suspects than texts that succeeded, and more than this: it is not the texts.
MOST_SUSPECTS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One request on its way.

    Attributes:
        change: The pace's when it was sent.
        in_flight: Tokens in flight at its address, its own among them.
        answers: Answers that the run had seen when it was sent.
    """

    batch: Batch
    address: str
    sent_at_s: float
    change: int
    in_flight: int
    answers: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A request for the canary: is the address well, and what it was?"""

    address: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a run.

    Attributes:
        unkept_texts: Most texts that are sent and not yet kept.
        request_tokens: Most tokens that the service takes in one request.
        outage_s: How long a run goes on without any answer while requests fail.
        address_tokens: Most tokens of this run in flight at one address, but for a request that
            is alone there; ``None``: as many as the pace makes.
    """

    unkept_texts: int
    request_tokens: int
    outage_s: float
    address_tokens: int | None = None


@dataclass(slots=True)
class Dispatch:
    """The requests of one run: who is in flight, who waits, who is suspected.

    Args:
        texts: What is to be embedded; read as needed.
        total: How many they are.
        unreachable: Those of ``addresses`` that did not answer before the run: they are probed
            first.
        pace: The pace to begin with; ``adaptive`` says whether it may change.
        doubted: Hashes of texts that the service failed at in earlier runs: that it fails at them
            again says nothing of itself.
        jitter: Factors around 1 for waits, so that several runs do not come back in one wave.
    """

    texts: Iterator[Text]
    total: int
    addresses: Sequence[str]
    pace: Pace
    adaptive: bool
    steps: BacklogSteps
    limits: Limits
    unreachable: Sequence[str] = ()
    doubted: Collection[str] = ()
    jitter: Callable[[], float] = lambda: random.uniform(1.0, 1.25)
    rejections: list[Rejection] = field(default_factory=list)
    failure: EmbeddingError | None = None
    answers: int = 0
    refusals: int = 0
    unkept: int = 0
    _embedded: int = 0
    _by_chance: int = 0
    _taken: int = 0
    _in_flight: int = 0
    _probes: int = 0
    _waiting: list[Batch] = field(default_factory=list)
    _suspects: deque[Suspect] = field(default_factory=deque)
    _replicas: dict[str, Replica] = field(default_factory=dict)
    _ahead: Text | None = None
    _silence: Silence = field(init=False)

    def __post_init__(self) -> None:
        self._silence = Silence(self.limits.outage_s)
        self._replicas = {
            address: Replica(address, out_until_s=0.0 if address in self.unreachable else None)
            for address in self.addresses
        }

    # What is to be done

    def next_request(self, now_s: float) -> Request | Probe | None:
        """Return what is to be sent now, or ``None``: until an answer comes, or ``wake_at``."""
        self.failure = self.failure or self._silence.verdict(now_s)
        if self.failure is not None:
            return None
        if (probe := self._probe(now_s)) is not None:
            return probe
        if self._in_flight >= self.pace.now.parallel_batches:
            return None
        place, replica = self._due(now_s)
        if replica is None:
            return None
        batch = self._fresh_batch() if place is None else self._waiting.pop(place)
        if batch is None and not self._in_flight and (due := self._all_due(now_s)):
            # Nobody is left who did not fail at it, or can be waited for.
            batch = self._waiting.pop(due[0])
        if batch is None:
            return self._sign_of_life(now_s)
        if not self._has_room(replica, batch):
            # Its own answers make the room.
            self._waiting.insert(0, batch)
            return None
        self._in_flight += 1
        self._replicas[replica.address] = sent = replica.sent(batch.tokens)
        return Request(batch, replica.address, now_s, self.pace.change, sent.tokens, self.answers)

    def wake_at(self, now_s: float) -> float | None:
        """Return when ``next_request`` may say more without any answer; ``None``: never."""
        times = [each.held_until_s for each in self._replicas.values()]
        times += [
            each.out_until_s
            for each in self._replicas.values()
            if each.out_until_s is not None and not each.is_probed
        ]
        times += [batch.not_before_s for batch in self._waiting]
        if self._silence.ends_at_s is not None:
            times.append(self._silence.ends_at_s)
        return min((time for time in times if time > now_s), default=None)

    def obstacles(self, now_s: float) -> dict[str, str]:
        """Return which addresses take no requests now, and why."""
        return {
            each.address: "full" if each.takes_part else "left out until it is well"
            for each in self._replicas.values()
            if not each.takes_part or each.held_until_s > now_s
        }

    @property
    def is_busy(self) -> bool:
        """Return whether a request or a probe is in flight."""
        return bool(self._in_flight or self._probes)

    @property
    def is_done(self) -> bool:
        """Return whether nothing is in flight, and nothing is left to send."""
        if self.is_busy:
            return False
        return self.failure is not None or not (self._waiting or self._suspects or self._peek())

    # What came of it

    def answered(self, request: Request, tokens: int, now_s: float) -> None:
        """Take note of an answer."""
        replica = self._ended(request)
        seconds = now_s - request.sent_at_s
        self._set(replica.answered(request.batch.tokens, request.in_flight, seconds))
        self.answers += 1
        self._embedded += len(request.batch.texts)
        if recovery.is_innocent(request.batch):
            self._by_chance += request.batch.failures
        self._silence = self._silence.broken()
        self._follow(recovery.after_success(request.batch))
        if self.adaptive:
            answer = Answered(
                request.change, request.sent_at_s, now_s, len(request.batch.texts), tokens
            )
            self.pace = after_answer(self.pace, answer)
        self._convict()

    def failed(self, request: Request, error: EmbeddingError, now_s: float) -> None:
        """Take note of a failure: each kind has its own remedy."""
        batch, replica = request.batch, self._ended(request)
        match error:
            case ServiceOverloaded():
                wait_s = self._wait_s(error, REFUSED_WAIT_S)
                self._set(replica.refused(batch.tokens, now_s + wait_s))
                self._refused(request)
                self._waiting.append(batch)
            case ServiceUnavailable():
                self._set(replica.failed(batch.tokens, now_s, wait_s=self._wait_s(error, 0.0)))
                timed_out = isinstance(error, RequestTimedOut)
                if timed_out:
                    self._refused(request)
                others = self.answers > request.answers
                self._follow(
                    recovery.after_loss(
                        batch,
                        self._seen(request, now_s),
                        timed_out=timed_out,
                        others_answered=others,
                    )
                )
            case ModelFailed():
                # Who looks for a bad text expects failures: they say nothing of the address.
                self._set(
                    replica.returned(batch.tokens)
                    if batch.hunt is not None
                    else replica.failed(batch.tokens, now_s, wait_s=0.0, patience=FAILURES_IN_A_ROW)
                )
                self._follow(recovery.after_model_failure(batch, self._seen(request, now_s)))
            case RequestTooLarge() if len(batch.texts) > 1:
                self._set(replica.returned(batch.tokens))
                self._follow(recovery.Recovery(recovery.halves(batch)))
                return
            case RequestTooLarge():
                self._set(replica.returned(batch.tokens))
                self._reject(request, 0, "too_large")
                return
            case TextRejected() if 0 <= error.index < len(batch.texts):
                self._set(replica.returned(batch.tokens))
                self._reject(request, error.index, error.reason)
                return
            case _:
                self._set(replica.returned(batch.tokens))
                self.failure = self.failure or error
                return
        self._silence = self._silence.after(error, now_s)

    def probed(self, probe: Probe, error: EmbeddingError | None, now_s: float) -> None:
        """Take note of a probe's end."""
        self._probes -= 1
        replica = self._replicas[probe.address]
        if error is None:
            self.answers += 1
            self._set(replica.probed(now_s, is_well=True))
            self._convict()
        elif isinstance(error, ServiceOverloaded | ServiceUnavailable | ModelFailed):
            wait_s = 0.0 if isinstance(error, ModelFailed) else self._wait_s(error, 0.0)
            self._set(replica.probed(now_s, is_well=False, wait_s=wait_s))
            self._silence = self._silence.after(error, now_s)
        else:
            self.failure = self.failure or error

    def kept(self, texts: int) -> None:
        """Take note that the vectors of so many texts are safe."""
        self.unkept -= texts

    # How

    def _due(self, now_s: float) -> tuple[int | None, Replica | None]:
        """Return the place of the first waiting batch for which somebody is able who has not failed
        at it yet, or ``None`` for fresh texts, and who that is.
        """
        for place in self._all_due(now_s):
            avoid = self._waiting[place].failed_at
            if (replica := chosen(self._replicas.values(), 0, now_s, avoid=avoid)) is not None:
                return place, replica
        return None, chosen(self._replicas.values(), 0, now_s)

    def _has_room(self, replica: Replica, batch: Batch) -> bool:
        most = self.limits.address_tokens
        return most is None or not replica.requests or replica.tokens + batch.tokens <= most

    def _all_due(self, now_s: float) -> list[int]:
        """Return the places of the waiting batches that may be sent now."""
        return [
            place
            for place, batch in enumerate(self._waiting)
            if batch.not_before_s <= now_s and batch.proof <= self.answers
        ]

    def _fresh_batch(self) -> Batch | None:
        if self.adaptive:
            self.pace = for_backlog(self.pace, self.total - self._taken, self.steps)
        if self.unkept + self.pace.now.batch_size > self.limits.unkept_texts:
            return None
        texts = tuple(self._fresh(self.pace.now.batch_size))
        self._taken += len(texts)
        self.unkept += len(texts)
        return Batch(texts) if texts else None

    def _fresh(self, most: int) -> Iterator[Text]:
        """Yield the texts of one new request, as many as its size and the service's limit allow."""
        tokens = 0
        for _ in range(most):
            text = self._peek()
            if text is None or (tokens and tokens + text.tokens > self.limits.request_tokens):
                return
            self._ahead = None
            tokens += text.tokens
            yield text

    def _peek(self) -> Text | None:
        if self._ahead is None:
            self._ahead = next(islice(self.texts, 1), None)
        return self._ahead

    def _probe(self, now_s: float) -> Probe | None:
        for replica in self._replicas.values():
            if replica.needs_probe(now_s):
                self._set(replace(replica, is_probed=True))
                self._probes += 1
                return Probe(replica.address)
        return None

    def _sign_of_life(self, now_s: float) -> Probe | None:
        """Return a probe where nothing goes on, and everything that is left waits for an answer."""
        waits = any(batch.proof > self.answers for batch in self._waiting) or self._suspects
        due = any(batch.proof <= self.answers for batch in self._waiting)
        if self.is_busy or due or not waits:
            return None
        for replica in self._replicas.values():
            self._set(replica.suspected(now_s))
        return self._probe(now_s)

    def _wait_s(self, error: ServiceOverloaded | ServiceUnavailable, usual_s: float) -> float:
        """Return what the service named, or ``usual_s``, cut so that an outage shows in time."""
        told_s = usual_s if error.retry_after_s is None else error.retry_after_s
        return min(told_s * self.jitter(), self.limits.outage_s / FEWEST_FAILURES)

    def _ended(self, request: Request) -> Replica:
        self._in_flight -= 1
        return self._replicas[request.address]

    def _seen(self, request: Request, now_s: float) -> recovery.Seen:
        taking_part = (each.address for each in self._replicas.values() if each.takes_part)
        return recovery.Seen(
            request.address, now_s, self.answers, frozenset(taking_part), self._chance
        )

    @property
    def _chance(self) -> float:
        """Return the share of requests that failed though their texts turned out to be good."""
        return self._by_chance / max(self.answers + self._by_chance, 1)

    def _set(self, replica: Replica) -> None:
        self._replicas[replica.address] = replica

    def _refused(self, request: Request) -> None:
        self.refusals += 1
        if self.adaptive:
            self.pace = after_refusal(self.pace, request.change)

    def _follow(self, then: recovery.Recovery) -> None:
        self._waiting += then.batches
        if then.suspect is not None:
            self._suspects.append(then.suspect)
            blamed = [each.text.text_hash for each in self._suspects]
            blamed += [each.text_hash for each in self.rejections if each.reason in PASSING_REASONS]
            new = sum(name not in self.doubted for name in blamed)
            if new > max(MOST_SUSPECTS, self._embedded):
                self.failure = self.failure or ModelFailed(
                    f"the service failed at {len(blamed)} texts that were sent alone, and "
                    f"embedded {self._embedded}: it is not the texts. See its log; nothing was "
                    "put into quarantine for this"
                )

    def _reject(self, request: Request, index: int, reason: str) -> None:
        text = request.batch.texts[index]
        self.rejections.append(Rejection(text.text_hash, reason, attempts=1))
        self.unkept -= 1
        self._waiting += recovery.without(request.batch, index)

    def _convict(self) -> None:
        """Reject the suspects for whom there was a sign of life since they failed."""
        is_last = not (self._in_flight or self._waiting or self._peek())
        wanted = 0 if is_last else ANSWERS_TO_JUDGE
        for _ in range(len(self._suspects)):
            suspect = self._suspects.popleft()
            if suspect.proof + wanted > self.answers:
                self._suspects.append(suspect)
                continue
            needed = recovery.failures_to_convict(self._chance)
            if suspect.reason == "model_failed" and suspect.attempts < needed:
                # Others failed by chance meanwhile: so may this one have.
                self._waiting.append(Batch((suspect.text,), failures=suspect.attempts))
                continue
            self.unkept -= 1
            self.rejections.append(
                Rejection(suspect.text.text_hash, suspect.reason, suspect.attempts)
            )
