"""Which request goes where and when: everything that a run decides, without clock, thread or I/O.

The caller sends what ``next_request`` says, tells what came of it, and asks again. Times are
seconds on the caller's monotonic clock.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rba_pipeline.core import recovery
from rba_pipeline.core.answers import Answered
from rba_pipeline.core.backlog import BacklogSteps
from rba_pipeline.core.blame import CONTROLS_TO_GIVE_UP, Blame
from rba_pipeline.core.controls import Controls
from rba_pipeline.core.embeddings import Rejection, Text
from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
)
from rba_pipeline.core.pacing import (
    Pace,
    after_answer,
    after_failure,
    after_refusal,
    after_timeout,
    for_backlog,
    within,
)
from rba_pipeline.core.recovery import Batch
from rba_pipeline.core.replicas import FAILURES_IN_A_ROW, Replica, Replicas
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.silence import Silence
from rba_pipeline.core.tasks import Probe, Request
from rba_pipeline.core.unsent import Unsent

# What a refused request waits where the service names no time.
REFUSED_WAIT_S = 1.0


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
        embedded_before: Texts of the partition that have a vector already.
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
    embedded_before: int = 0
    jitter: Callable[[], float] = lambda: random.uniform(1.0, 1.25)
    failure: EmbeddingError | None = None
    refusals: int = 0
    _kept: int = 0
    _sent_at_s: list[float] = field(default_factory=list)
    _failed: Batch | None = None
    _controls: Controls = field(init=False)
    _unsent: Unsent = field(init=False)
    _blame: Blame = field(init=False)
    _replicas: Replicas = field(init=False)
    _silence: Silence = field(init=False)
    _fruitless: Silence = field(init=False)

    def __post_init__(self) -> None:
        self._controls = Controls(self.addresses)
        self._unsent = Unsent(self.texts, self.total)
        self._blame = Blame(self.doubted, self.embedded_before)
        self._replicas = Replicas(self.addresses, self.unreachable)
        # Since the last sign of life, and since the last answer to texts.
        self._silence = self._fruitless = Silence(self.limits.outage_s)

    # What is to be done

    def next_request(self, now_s: float) -> Request | Probe | None:
        """Return what is to be sent now, or ``None``: until an answer comes, or ``wake_at``."""
        asked_at_s = min(self._sent_at_s, default=math.inf)
        if self._replicas.is_computing:
            asked_at_s = -math.inf
        self._give_up(self._silence.verdict(now_s, asked_at_s=asked_at_s))
        if self.failure is not None:
            return None
        if (address := self._replicas.probe(now_s)) is not None:
            return Probe(address)
        if self._blame.is_doubtful:
            return None if self._controls.in_flight else self._control(now_s)
        if self._fruitless.verdict(now_s) is not None:
            # Somebody is well, and nothing is embedded: a control shows whose fault that is, with
            # nothing beside it, for what takes a service down would take it along.
            return None if self._embeds else self._control(now_s)
        if len(self._sent_at_s) >= self.pace.room:
            return None
        place, replica = self._due(now_s)
        if replica is None:
            return None
        if place is None and (batch := self._fresh_batch(replica)) is not None:
            return self._request(batch, replica, now_s, is_fresh=True)
        due = self._unsent.due(now_s, self._blame.answers)
        if place is None and due and not self._sent_at_s:
            # It goes alone, or nobody is left who did not fail at it, or can be waited for.
            place = due[0]
            avoid = self._unsent.again[place].failed_at
            replica = self._replicas.chosen(now_s, avoid) or replica
        if place is None:
            return self._sign_of_life(now_s)
        batch = self._unsent.take_again(place, partial(self.limits.allows, replica))
        return self._request(batch, replica, now_s, is_fresh=False)

    def wake_at(self, now_s: float) -> float | None:
        """Return when ``next_request`` may say more without any answer; ``None``: never."""
        times = list(self._replicas.changes_at())
        times += [batch.not_before_s for batch in self._unsent.again]
        ends = (self._silence.ends_at_s, self._fruitless.ends_at_s)
        times += [end_s for end_s in ends if end_s is not None]
        return min((time for time in times if time > now_s), default=None)

    def obstacles(self, now_s: float) -> dict[str, str]:
        """Return which addresses take no requests now, and why."""
        return self._replicas.obstacles(now_s)

    @property
    def rejections(self) -> list[Rejection]:
        """Return the texts that were found at fault."""
        return self._blame.rejections

    @property
    def unkept(self) -> int:
        """Return how many texts were taken that are neither kept nor rejected yet."""
        return self._unsent.taken - self._kept - len(self.rejections)

    @property
    def is_done(self) -> bool:
        """Return whether no request is in flight, and nothing is left to send.

        A probe may still be: who is well does not matter any more.
        """
        if self._sent_at_s:
            return False
        return self.failure is not None or not (self._unsent or self._blame.is_open)

    # What came of it

    def answered(self, request: Request, tokens: int, now_s: float) -> None:
        """Take note of an answer."""
        replica = self._ended(request)
        seconds = now_s - request.sent_at_s
        replica = replica.answered(request.batch.tokens, request.in_flight, seconds)
        room = replica.room.answered(request.batch.characters, len(request.batch.texts))
        self._replicas.set(replace(replica, room=room))
        self._blame.answered(request.batch, request.sent_at_s)
        self._silence, self._fruitless = self._silence.broken(), self._fruitless.broken()
        self._follow(recovery.after_success(request.batch))
        if self.adaptive:
            texts = len(request.batch.texts)
            answer = Answered(
                request.change, request.sent_at_s, now_s, texts, tokens, request.is_usual
            )
            self.pace = after_answer(self.pace, answer)
        self._judge()

    def failed(self, request: Request, error: EmbeddingError, now_s: float) -> None:
        """Take note of a failure: each kind has its own remedy."""
        batch, replica = request.batch, self._ended(request)
        self._failed = batch
        match error:
            case ServiceOverloaded():
                wait_s = self.limits.wait_s(error, REFUSED_WAIT_S, self.jitter())
                self._replicas.set(replica.refused(batch.tokens, now_s + wait_s))
                self._refused(request, after_refusal)
                self._unsent.add((replace(batch, refusals=batch.refusals + 1),))
            case ServiceUnavailable():
                wait_s = self.limits.wait_s(error, 0.0, self.jitter())
                self._replicas.set(
                    replica.failed(batch.tokens, now_s, wait_s=wait_s, jitter=self.jitter())
                )
                timed_out = isinstance(error, RequestTimedOut)
                if timed_out:
                    self._refused(request, after_timeout)
                then = recovery.after_loss(
                    batch,
                    self._seen(request, now_s),
                    timed_out=timed_out,
                    is_alone=request.is_alone,
                    others_answered=self._blame.answers > request.answers,
                )
                self._follow(then)
            case ModelFailed():
                # Who looks for a bad text expects failures: they say nothing of the address.
                self._replicas.set(
                    replica.returned(batch.tokens)
                    if batch.hunt is not None
                    else replica.failed(batch.tokens, now_s, wait_s=0.0, patience=FAILURES_IN_A_ROW)
                )
                self._follow(recovery.after_model_failure(batch, self._seen(request, now_s)))
            case RequestTooLarge() if len(batch.texts) > 1:
                room = replica.room.refused(batch.characters, len(batch.texts))
                self._replicas.set(replace(replica.returned(batch.tokens), room=room))
                # At once: should all texts be refused, one that is alone shows it soon.
                self._unsent.again[:0] = recovery.halves(batch)
                return
            case RequestTooLarge() if error.code:
                seen = self._seen(request, now_s)
                if (again := recovery.too_large(batch, seen, self.addresses)) is None:
                    self._rejected(request, 0, "too_large")
                else:
                    self._replicas.set(replica.returned(batch.tokens))
                    self._unsent.again.insert(0, again)
                return
            case TextRejected() if 0 <= error.index < len(batch.texts):
                self._rejected(request, error.index, error.reason)
                return
            case _:
                self._replicas.set(replica.returned(batch.tokens))
                self._give_up(error)
                return
        if self.adaptive and not isinstance(error, ServiceOverloaded):
            pauses = isinstance(error, ServiceUnavailable)
            self.pace = after_failure(self.pace, request.change, now_s, pauses=pauses)
        self._fail_silently(error, now_s)

    def probed(self, probe: Probe, error: EmbeddingError | None, now_s: float) -> None:
        """Take note of a probe's end."""
        replica = self._replicas[probe.address]
        if error is None:
            self._replicas.set(replica.probed(now_s, is_well=True))
            self._give_up(self._blame.probed(is_control=probe.is_control))
            self._silence = self._silence.broken()
            if probe.is_control:
                self._fruitless = self._fruitless.broken()
                self._controls.answered()
            self._judge()
            return
        if isinstance(error, ServiceOverloaded | ServiceUnavailable | ModelFailed):
            wait_s = (
                0.0
                if isinstance(error, ModelFailed)
                else self.limits.wait_s(error, 0.0, self.jitter())
            )
            after = replica.probed(now_s, is_well=False, wait_s=wait_s, jitter=self.jitter())
            self._replicas.set(after)
            self._fail_silently(error, now_s)
        elif not probe.is_control:
            self.failure = self.failure or error
        if probe.is_control:
            self._control_failed(probe.address, error, now_s)

    def kept(self, texts: int) -> None:
        """Take note that the vectors of so many texts are safe."""
        self._kept += texts

    # How

    def _give_up(self, error: EmbeddingError | None) -> None:
        """End the run if there is an ``error``, and note on it which texts failed last."""
        if error is None or self.failure is not None:
            return
        if self._failed is not None:
            error.add_note(f"failed last: {self._failed.named}")
        self.failure = error

    def _control_failed(self, address: str, error: EmbeddingError, now_s: float) -> None:
        self._controls.failed(address, error)
        is_refused = isinstance(error, RequestTooLarge | TextRejected)
        if is_refused and self._controls.others_may_take_it:
            return
        self._give_up(self._blame.control_failed(error, address))
        if self._blame.has_given_up or self._controls.turned_away >= CONTROLS_TO_GIVE_UP:
            self._give_up(self._fruitless.verdict(now_s))
        if self._blame.has_given_up:
            # No more answers are to be had to judge by.
            self._judge(is_last=True)

    def _fail_silently(self, error: EmbeddingError, now_s: float) -> None:
        self._silence = self._silence.after(error, now_s)
        self._fruitless = self._fruitless.after(error, now_s)

    def _due(self, now_s: float) -> tuple[int | None, Replica | None]:
        """Return the place of the first waiting batch for which somebody is able who has not failed
        at it yet, or ``None`` for fresh texts, and who that is.
        """
        for place in self._unsent.due(now_s, self._blame.answers):
            batch = self._unsent.again[place]
            replica = self._replicas.chosen(now_s, batch.failed_at)
            if replica is not None and not batch.goes_alone:
                return place, replica
        return None, self._replicas.chosen(now_s)

    def _fresh_batch(self, replica: Replica) -> Batch | None:
        if self.limits.request_texts is not None:
            self.pace = within(self.pace, self.limits.request_texts, "the service takes no more")
        if self.adaptive:
            self.pace = for_backlog(self.pace, self._unsent.fresh, self.steps)
        size, room = self.pace.now.batch_size, replica.room
        if self.unkept + size > self.limits.unkept_texts:
            return None
        size = int(min(size, room.texts.limit))
        return self._unsent.take(size, self.limits.request_tokens, room.characters.limit)

    def _request(
        self, batch: Batch, replica: Replica, now_s: float, *, is_fresh: bool
    ) -> Request | None:
        if not self.limits.has_room(replica, batch):
            # Its own answers make the room.
            self._unsent.put_back(batch, is_fresh=is_fresh)
            return None
        self._sent_at_s.append(now_s)
        sent = replica.sent(batch.tokens, to_itself=batch.goes_alone)
        room = sent.room.sent(batch.characters, len(batch.texts))
        self._replicas.set(replace(sent, room=room))
        # A text alone is suspected, what was lost takes its time: neither measures the pace.
        is_whole = len(batch.texts) >= max(2, self.pace.now.batch_size)
        is_usual = is_fresh or (is_whole and batch.hunt is None and not batch.losses)
        return Request(
            batch, replica.address, now_s, self.pace.change, sent.tokens, self._blame.answers,
            sent.is_reserved, is_usual,
        )  # fmt: skip

    @property
    def _embeds(self) -> bool:
        """Return whether something else than a probe is in flight: who stalls at one, stops nobody
        who is well."""
        return bool(self._sent_at_s or self._controls.in_flight)

    def _control(self, now_s: float) -> Probe | None:
        failed = [text for batch in self._unsent.again for text in batch.texts]
        return self._controls.sent(self._replicas, now_s, self._blame.control(now_s, failed))

    def _sign_of_life(self, now_s: float) -> Probe | None:
        """Return a probe where nothing goes on, and everything that is left waits for an answer."""
        waits = self._unsent.waits_for_proof(self._blame.answers)
        if self._embeds or not waits or not (self._unsent.again or self._blame.is_open):
            return None
        if self._blame.is_open:
            # No other answers are to be had to judge by.
            self._judge(is_last=True)
            return self._control(now_s) if self._blame.is_open else self.next_request(now_s)
        self._replicas.suspect(now_s)
        address = self._replicas.probe(now_s)
        return None if address is None else Probe(address)

    def _ended(self, request: Request) -> Replica:
        self._sent_at_s.remove(request.sent_at_s)
        return self._replicas[request.address]

    def _seen(self, request: Request, now_s: float) -> recovery.Seen:
        blame, taking_part = self._blame, self._replicas.taking_part()
        return recovery.Seen(
            request.address, now_s, blame.answers, blame.proofs, taking_part, blame.chance
        )

    def _refused(self, request: Request, after: Callable[[Pace, int], Pace]) -> None:
        self.refusals += 1
        if self.adaptive:
            self.pace = after(self.pace, request.change)

    def _follow(self, then: recovery.Recovery) -> None:
        self._unsent.add(then.batches)
        if then.suspect is not None and self.failure is None:
            self._blame.suspect(then.suspect)

    def _rejected(self, request: Request, index: int, reason: str) -> None:
        self._replicas.set(self._replicas[request.address].returned(request.batch.tokens))
        self._follow(recovery.after_rejection(request.batch, index, reason))
        self._judge()

    def _judge(self, *, is_last: bool = False) -> None:
        if self.failure is not None:
            return
        is_last = is_last or not (self._sent_at_s or self._unsent)
        taking_part = self._replicas.taking_part()
        self._unsent.add(self._blame.judge(taking_part, is_last=is_last))
