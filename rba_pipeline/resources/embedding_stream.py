"""Texts go out in requests, several at a time, and come back in parts that the caller keeps."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.dispatch import Dispatch
from rba_pipeline.core.embeddings import Part, Rejection
from rba_pipeline.core.errors import EmbeddingError
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.stages import RequestSeconds, Stage
from rba_pipeline.core.tasks import Probe, Request
from rba_pipeline.resources.address_round import MAY_PASS
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.service_answers import ServiceInfo, Vectors, within_all
from rba_pipeline.resources.stopwatch import Stopwatch

# A part is due when this many seconds passed since its first answer, however few there are. What is
# in flight when a run fails for good has as long to be answered.
KEEP_WITHIN_S = 2.0
# A probe is a sentence: an address is not left alone for a whole time-out of large batches for it.
PROBE_S = 100.0
# How many requests' worth of texts are sorted by length before they are sent.
LOOK_AHEAD_REQUESTS = 64
# Longest path of the pace that is kept for the run's picture.
_MOST_STEPS = 2000


@dataclass(frozen=True, slots=True)
class Step:
    """A setting of the pace, since when, in seconds since the stream began, and why."""

    at_s: float
    bounds: Bounds
    why: str


@dataclass(slots=True)
class Traffic:
    """What one stream of texts cost so far; seconds are wall time.

    Attributes:
        requests: With texts, whatever came of them.
        refusals: Requests that met a full service, or timed out.
        probes: Requests for the canary, or for a control.
        texts_sent: Texts in all requests, those sent twice twice.
        by_address: Texts embedded, by who did it.
        waiting_for: The addresses that something is expected of, each with why.
        answers: What the answered requests took.
        stopwatch: Of the step that the stream is a part of.
    """

    requests: int = 0
    refusals: int = 0
    probes: int = 0
    texts: int = 0
    texts_sent: int = 0
    tokens: int = 0
    seconds: float = 0.0
    by_address: dict[str, int] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    path: list[Step] = field(default_factory=list)
    answers: RequestSeconds = field(default_factory=RequestSeconds)
    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch("embeddings"))
    waiting_for: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Texts that need not be sent any more."""
        return self.texts + len(self.rejections)


# Called with what was done so far; returns in how many seconds it wants to be called again, even
# if nothing more is done by then. ``None``: it need not be.
OnProgress = Callable[[Traffic], float | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    hashes: tuple[str, ...]
    vectors: Vectors


class EmbeddingStream:
    """One stream of texts through the service: threads and clock for what ``Dispatch`` decides."""

    def __init__(
        self,
        client: EmbeddingClient,
        info: ServiceInfo,
        dispatch: Dispatch,
        *,
        traffic: Traffic,
        canary: NDArray[np.float32],
        truncate: bool,
        limits: Callable[[ServiceInfo], Limits],
    ) -> None:
        self._client = client
        self._info = info
        self._dispatch = dispatch
        self._traffic = traffic
        self._canary = canary
        self._truncate = truncate
        self._limits = limits
        self._upper = dispatch.pace.upper
        self._in_flight: dict[Future[Vectors | ServiceInfo | None], Request | Probe] = {}
        self._answers: list[_Answer] = []
        self._first_answer_at = 0.0
        self._started = self._moved_at_s = self._looked_at_s = time.monotonic()
        self._tell_at_s = self._ends_at_s = math.inf

    def parts(self, on_progress: OnProgress) -> Iterator[Part]:
        """Yield what ``Embedding.embed_stream`` promises; once."""
        workers = self._upper.parallel_batches + len(self._client.addresses)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="embed")
        self._started = time.monotonic()
        try:
            self._tell(on_progress)
            # Requests go out before a part is handed over: the service works while it is written.
            while self._send(pool) or self._answers:
                if self._part_is_due():
                    part = self._joined()
                    yield part
                    self._dispatch.kept(len(part.text_hashes))
                    self._tell(on_progress)
                    continue
                self._collect()
                if time.monotonic() >= self._tell_at_s:
                    self._tell(on_progress)
            if self._dispatch.failure is not None:
                raise self._dispatch.failure
        finally:
            if any(isinstance(task, Request) for task in self._in_flight.values()):
                self._client.close()
                self._in_flight.clear()
            # A probe of an address that stalls is not waited for: it is cut when the client closes.
            pool.shutdown(wait=not self._in_flight, cancel_futures=True)
            self._traffic.seconds = time.monotonic() - self._started

    def _send(self, pool: ThreadPoolExecutor) -> bool:
        """Send what may be sent now; return whether there is anything to wait for."""
        while (task := self._next()) is not None:
            if isinstance(task, Request):
                self._traffic.requests += 1
                self._traffic.texts_sent += len(task.batch.texts)
            else:
                self._traffic.probes += 1
            self._in_flight[pool.submit(self._asked, task)] = task
            self._moved_at_s = time.monotonic()
        self._traffic.stopwatch.allow(self._dispatch.pace.now.parallel_batches)
        self._note_pace()
        failure = self._dispatch.failure
        # After what may pass the client goes on: it is not closed for the sake of who is slow.
        if failure is not None and not isinstance(failure, MAY_PASS):
            self._ends_at_s = min(self._ends_at_s, time.monotonic() + KEEP_WITHIN_S)
        return not self._is_over

    @property
    def _is_over(self) -> bool:
        # What was answered while a part was kept is still taken.
        late = time.monotonic() >= self._ends_at_s and not any(map(Future.done, self._in_flight))
        return late or self._dispatch.is_done

    def _next(self) -> Request | Probe | None:
        # What is due later is asked for from the same moment on, lest something is due in between.
        self._looked_at_s = time.monotonic()
        return self._dispatch.next_request(self._looked_at_s)

    def _asked(self, task: Request | Probe) -> Vectors | ServiceInfo | None:
        """Send one request; runs in a worker thread."""
        if isinstance(task, Probe) and task.is_control:
            self._client.embed(task.address, [task.text], info=self._info, truncate=True)
            return None
        if isinstance(task, Probe):
            # It may never have been asked who it is, or have been started anew since.
            info = self._client.joined(task.address, self._info)
            deadline_s = min(self._client.timeout_s, PROBE_S)
            self._client.check_canary(task.address, self._info, self._canary, deadline_s)
            return info
        texts = [text.text for text in task.batch.texts]
        with self._traffic.stopwatch.request():
            return self._client.embed(task.address, texts, info=self._info, truncate=self._truncate)

    def _part_is_due(self) -> bool:
        if not self._answers:
            return False
        waited_s = time.monotonic() - self._first_answer_at
        enough = len(self._answers) >= self._upper.parallel_batches
        idle = not self._in_flight or self._is_over
        return enough or waited_s >= KEEP_WITHIN_S or idle

    def _collect(self) -> None:
        """Wait until an answer comes, or something else is due."""
        now_s = time.monotonic()
        due = [self._dispatch.wake_at(self._looked_at_s)]
        if self._answers:
            due.append(self._first_answer_at + KEEP_WITHIN_S)
        moments = [moment for moment in due if moment is not None]
        if not self._in_flight:
            if not moments:
                raise RuntimeError("nothing in flight and nothing due: this is a bug in Dispatch")
            with self._traffic.stopwatch.stage(Stage.HELD):
                self._client.pause(max(0.0, min(*moments, self._tell_at_s) - now_s))
            return
        # Every request ends by its own deadline; this one only guards against our own bugs.
        guard_s = self._moved_at_s + 2 * self._client.timeout_s + 60
        until_s = min(*moments, self._tell_at_s, self._ends_at_s, guard_s)
        with self._traffic.stopwatch.stage(Stage.WAITING):
            done, _ = wait(self._in_flight, max(0.0, until_s - now_s), FIRST_COMPLETED)
        if not done and time.monotonic() >= guard_s:
            raise RuntimeError("a request outlived its deadline: this is a bug in EmbeddingClient")
        for future in done:
            self._ended(future, self._in_flight.pop(future))

    def _tell(self, on_progress: OnProgress) -> None:
        """Say how far it is, and remember when to do so again."""
        now_s = time.monotonic()
        asked = {task.address: "no answer yet" for task in self._in_flight.values()}
        self._traffic.seconds = now_s - self._started
        self._traffic.waiting_for = asked | self._dispatch.obstacles(now_s)
        again_s = on_progress(self._traffic)
        self._tell_at_s = math.inf if again_s is None else now_s + again_s

    def _ended(self, future: Future[Vectors | ServiceInfo | None], task: Request | Probe) -> None:
        try:
            answer, error = future.result(), None
        except EmbeddingError as failure:
            answer, error = None, failure
        self._moved_at_s = now_s = time.monotonic()
        if isinstance(answer, ServiceInfo):
            self._info = within_all(self._info, (self._info, answer))
            self._dispatch.limits = self._limits(self._info)
        if isinstance(task, Probe):
            self._dispatch.probed(task, error, now_s)
        elif error is not None:
            self._dispatch.failed(task, error, now_s)
        elif isinstance(answer, Vectors):
            self._took(task, answer)
            self._dispatch.answered(task, sum(answer.tokens), now_s)
        self._traffic.refusals = self._dispatch.refusals
        self._traffic.rejections = self._dispatch.rejections

    def _took(self, request: Request, answer: Vectors) -> None:
        if not self._answers:
            self._first_answer_at = time.monotonic()
        hashes = tuple(text.text_hash for text in request.batch.texts)
        self._answers.append(_Answer(hashes, answer))
        traffic = self._traffic
        traffic.texts += len(hashes)
        traffic.tokens += sum(answer.tokens)
        traffic.answers += answer.took
        done = traffic.by_address.get(request.address, 0)
        traffic.by_address[request.address] = done + len(hashes)

    def _note_pace(self) -> None:
        pace, path = self._dispatch.pace, self._traffic.path
        if (not path or path[-1].bounds != pace.now) and len(path) < _MOST_STEPS:
            at_s = time.monotonic() - self._started
            path.append(Step(at_s, pace.now, pace.why))

    def _joined(self) -> Part:
        """Return the waiting answers as one part."""
        self._traffic.seconds = time.monotonic() - self._started
        answers, self._answers = self._answers, []
        cut = (
            name
            for answer in answers
            for name, is_cut in zip(answer.hashes, answer.vectors.truncated, strict=True)
            if is_cut
        )
        return Part(
            text_hashes=tuple(name for answer in answers for name in answer.hashes),
            vectors=np.concatenate([answer.vectors.vectors for answer in answers]),
            truncated=frozenset(cut),
        )
