"""Texts go out in requests, several at a time, and come back in parts that the caller keeps."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rba_pipeline.core.embeddings import Part, Rejection, Text, by_similar_length
from rba_pipeline.core.errors import EmbeddingError, TextRejected
from rba_pipeline.core.pacing import Pace, after_answer, after_refusal
from rba_pipeline.core.presets import Bounds
from rba_pipeline.resources.embedding_client import (
    ATTEMPTS,
    LONGEST_WAIT_S,
    EmbeddingClient,
    ServiceInfo,
)

# A part is due when this many seconds passed since its first answer, however few there are.
KEEP_WITHIN_S = 2.0
# How many requests' worth of texts are sorted by length before they are sent.
LOOK_AHEAD_REQUESTS = 64


@dataclass(slots=True)
class Traffic:
    """What one stream of texts cost so far; seconds are wall time."""

    requests: int = 0
    refusals: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """The vectors of one batch and what they cost."""

    part: Part
    tokens: int
    requests: int
    refusals: int


class EmbeddingStream:
    """One stream of texts through the service: who is in flight, and what waits to be kept."""

    def __init__(
        self,
        client: EmbeddingClient,
        info: ServiceInfo,
        *,
        upper: Bounds,
        adaptive: bool,
        traffic: Traffic,
    ) -> None:
        self._client = client
        self._info = info
        self._upper = upper
        self._adaptive = adaptive
        self._traffic = traffic
        self._pace = Pace(upper)
        self._in_flight: set[Future[_Answer]] = set()
        self._answers: list[_Answer] = []
        self._first_answer_at = 0.0
        self._failure: EmbeddingError | None = None

    def parts(
        self, texts: Iterable[Text], on_progress: Callable[[Traffic], None]
    ) -> Iterator[Part]:
        """Yield what ``Embedding.embed_stream`` promises; once."""
        queue = by_similar_length(texts, LOOK_AHEAD_REQUESTS * self._upper.batch_size)
        started = time.monotonic()
        pool = ThreadPoolExecutor(self._upper.parallel_batches, thread_name_prefix="embed")
        try:
            # Requests go out before a part is handed over: the service works while it is written.
            while self._fill(queue, pool) or self._answers:
                if not self._part_is_due():
                    self._collect()
                    continue
                part = _joined(self._answers)
                self._answers.clear()
                self._traffic.seconds = time.monotonic() - started
                yield part
                on_progress(self._traffic)
            if self._failure is not None:
                raise self._failure
        finally:
            if self._in_flight:
                self._client.close()
            pool.shutdown(wait=True, cancel_futures=True)
            self._traffic.seconds = time.monotonic() - started

    def _fill(self, queue: Iterator[Text], pool: ThreadPoolExecutor) -> bool:
        """Send requests up to the pace; return whether anything is in flight."""
        while self._failure is None and self._may_send():
            batch = list(islice(queue, self._pace.now.batch_size))
            if not batch:
                break
            self._in_flight.add(pool.submit(self._embed_batch, batch))
        return bool(self._in_flight)

    def _may_send(self) -> bool:
        """Return whether one more request keeps both the pace and the promise on unkept texts."""
        unkept = len(self._in_flight) + len(self._answers)
        in_pace = len(self._in_flight) < self._pace.now.parallel_batches
        return in_pace and unkept < 2 * self._upper.parallel_batches

    def _part_is_due(self) -> bool:
        if not self._answers:
            return False
        waited_s = time.monotonic() - self._first_answer_at
        enough = len(self._answers) >= self._upper.parallel_batches
        return enough or waited_s >= KEEP_WITHIN_S or not self._in_flight

    def _collect(self) -> None:
        """Wait for an answer, or until the waiting answers are due."""
        # Every attempt has its own deadline; this one only guards against our own bugs.
        left_s = ATTEMPTS * (self._client.timeout_s + 2.0 * LONGEST_WAIT_S)
        if self._answers:
            left_s = max(0.0, self._first_answer_at + KEEP_WITHIN_S - time.monotonic())
        done, self._in_flight = wait(self._in_flight, left_s, FIRST_COMPLETED)
        if not done and not self._answers:
            raise RuntimeError(
                f"no request ended within {left_s:.0f} s: this is a bug in EmbeddingClient"
            )
        for future in done:
            try:
                answer = future.result()
            except EmbeddingError as error:
                self._failure = self._failure or error
                continue
            if not self._answers:
                self._first_answer_at = time.monotonic()
            self._answers.append(answer)
            self._count(answer)

    def _count(self, answer: _Answer) -> None:
        self._traffic.texts += len(answer.part.text_hashes)
        self._traffic.tokens += answer.tokens
        self._traffic.requests += answer.requests
        self._traffic.refusals += answer.refusals
        if self._adaptive and answer.refusals:
            self._pace = after_refusal(self._pace)
        elif self._adaptive:
            self._pace = after_answer(self._pace, self._upper)

    def _embed_batch(self, batch: list[Text]) -> _Answer:
        """Embed one batch, leaving out texts that the service rejects; runs in a worker thread."""
        rejections: list[Rejection] = []
        requests = 0
        while batch:
            try:
                answer = self._client.embed([text.text for text in batch], info=self._info)
            except TextRejected as error:
                if not 0 <= error.index < len(batch):
                    raise
                requests += 1
                rejected = batch.pop(error.index)
                rejections.append(Rejection(rejected.text_hash, error.reason, attempts=1))
                continue
            hashes = tuple(text.text_hash for text in batch)
            part = Part(hashes, answer.vectors, tuple(rejections))
            requests += answer.attempts
            return _Answer(part, sum(answer.tokens), requests, answer.refusals)
        nothing = np.empty((0, self._info.space.dimensions), dtype=np.float32)
        return _Answer(Part((), nothing, tuple(rejections)), 0, requests, 0)


def _joined(answers: list[_Answer]) -> Part:
    parts = [answer.part for answer in answers]
    return Part(
        text_hashes=tuple(name for part in parts for name in part.text_hashes),
        vectors=np.concatenate([part.vectors for part in parts]),
        rejections=tuple(rejection for part in parts for rejection in part.rejections),
    )
