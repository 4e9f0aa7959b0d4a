"""The resource ``embedding``: how hard a run leans on the service, checked before any work."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import dagster as dg
import numpy as np
from pydantic import Field, PrivateAttr

from rba_pipeline.core.embeddings import Part, Rejection, Text, by_similar_length
from rba_pipeline.core.errors import BadSetting, EmbeddingError, TextRejected
from rba_pipeline.core.pacing import Pace, after_answer, after_refusal
from rba_pipeline.core.presets import RANGES, Bounds, Preset, check_settings, effective_bounds
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.embedding_client import (
    ATTEMPTS,
    LONGEST_WAIT_S,
    EmbeddingClient,
    ServiceInfo,
)

# A part is written when this many seconds passed since its first answer, however few there are.
KEEP_WITHIN_S = 2.0
# How many requests' worth of texts are sorted by length before they are sent.
LOOK_AHEAD_REQUESTS = 64


def _range(name: str) -> str:
    low, high, unit = RANGES[name]
    return f"{low} to {high} {unit}"


@dataclass(slots=True)
class Traffic:
    """What one stream of texts cost so far."""

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


@dataclass(slots=True)
class _Stream:
    """One call of ``embed_stream``: who is in flight, and what waits to be kept."""

    info: ServiceInfo
    upper: Bounds
    pace: Pace
    traffic: Traffic
    in_flight: set[Future[_Answer]] = field(default_factory=set)
    answers: list[_Answer] = field(default_factory=list)
    first_answer_at: float = 0.0
    failure: EmbeddingError | None = None


class Embedding(CheckedResource):
    """The embedding service, and how hard a run may lean on it."""

    preset: Preset = Field(
        default=Preset("auto"),
        description="Batch size × requests in flight: cpu-dev 4×2, cpu-prod 8×4, gpu 32×8; "
        "auto picks one by the service's device and cores.",
    )
    batch_size: int | None = Field(
        default=None,
        description=f"Texts per request, {_range('batch_size')}; empty: from the preset.",
    )
    parallel_batches: int | None = Field(
        default=None,
        description=f"Requests open at once, {_range('parallel_batches')}; empty: from the preset.",
    )
    timeout_s: int = Field(
        default=240, description=f"Patience for one request, {_range('timeout_s')}."
    )
    adaptive: bool = Field(
        default=True,
        description="Lean less on a service that refuses, and more again when it keeps up, within "
        "batch_size and parallel_batches.",
    )
    api_url: str = Field(
        default="http://127.0.0.1:8000",
        description="Address of the embedding service; several, comma separated, share the work.",
    )
    api_key: str = Field(default="", description="Secret of the service; never shown.")

    _client: EmbeddingClient | None = PrivateAttr(default=None)

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        check_settings(values)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Embedding"]:
        with self.open():
            yield self

    @contextmanager
    def open(self) -> Iterator[EmbeddingClient]:
        """Hold the connections for the block; they close whatever happens in it.

        Raises:
            BadSetting: A value is out of range, or no address is given.
        """
        check_settings(self.model_dump())
        addresses = [address.strip() for address in self.api_url.split(",") if address.strip()]
        if not addresses or not all(url.startswith(("http://", "https://")) for url in addresses):
            raise BadSetting(
                f"api_url={self.api_url!r}: expected one or several http:// or https:// addresses, "
                "comma separated; set EMBEDDING_API_URL"
            )
        if "@" in self.api_url:
            raise BadSetting("api_url holds a user or password: put the key into EMBEDDING_API_KEY")
        self._client = EmbeddingClient(addresses, key=self.api_key, timeout_s=self.timeout_s)
        try:
            yield self._client
        finally:
            self._client.close()
            self._client = None

    @property
    def client(self) -> EmbeddingClient:
        """Return the open client."""
        if self._client is None:
            raise RuntimeError("the embedding resource is used before it was opened")
        return self._client

    def handshake(self) -> ServiceInfo:
        """Return what the service says of itself; raises as ``EmbeddingClient`` does."""
        return self.client.info()

    def bounds(self, info: ServiceInfo) -> Bounds:
        """Return the effective batch size and parallelism of a run against this service."""
        chosen = effective_bounds(
            self.preset.value,
            batch_size=self.batch_size,
            parallel_batches=self.parallel_batches,
            device=info.device,
            cores=info.cores,
        )
        return Bounds(min(chosen.batch_size, info.max_texts), chosen.parallel_batches)

    def effective(self, info: ServiceInfo) -> dict[str, object]:
        """Return the settings in force, without secrets, for a run's metadata."""
        bounds = self.bounds(info)
        return {
            "preset": self.preset.value,
            "batch_size": bounds.batch_size,
            "parallel_batches": bounds.parallel_batches,
            "timeout_s": self.timeout_s,
            "adaptive": self.adaptive,
            "api_url": self.api_url,
        }

    def embed_stream(
        self,
        texts: Iterable[Text],
        *,
        info: ServiceInfo,
        traffic: Traffic,
        on_progress: Callable[[Traffic], None],
    ) -> Iterator[Part]:
        """Yield the vectors of all ``texts`` in parts, in the order in which answers arrive.

        A part is yielded as soon as ``parallel_batches`` answers wait or 2 s have passed, and no
        request is sent between: until the caller keeps it, at most 2 × ``batch_size`` ×
        ``parallel_batches`` texts are neither unsent nor kept. Before an error is raised, the
        answers of the requests that were still in flight are yielded.

        Args:
            texts: Distinct texts; read as needed, ``LOOK_AHEAD_REQUESTS`` requests ahead.
            info: The service as the run began with it.
            traffic: Counted up while the stream runs.
            on_progress: Called after each part.

        Raises:
            EmbeddingError: The first failure of a request that retries could not mend.
        """
        upper = self.bounds(info)
        queue = by_similar_length(texts, LOOK_AHEAD_REQUESTS * upper.batch_size)
        stream = _Stream(info, upper, Pace(upper), traffic)
        started = time.monotonic()
        pool = ThreadPoolExecutor(upper.parallel_batches, thread_name_prefix="embed")
        try:
            # Requests go out before a part is handed over: the service works while it is written.
            while self._fill(stream, queue, pool) or stream.answers:
                if not _part_is_due(stream):
                    self._collect(stream)
                    continue
                part = _joined(stream.answers)
                stream.answers.clear()
                traffic.seconds = time.monotonic() - started
                yield part
                on_progress(traffic)
            if stream.failure is not None:
                raise stream.failure
        finally:
            if stream.in_flight:
                self.client.close()
            pool.shutdown(wait=True, cancel_futures=True)
            traffic.seconds = time.monotonic() - started

    def _fill(self, stream: _Stream, queue: Iterator[Text], pool: ThreadPoolExecutor) -> bool:
        """Send requests up to the pace; return whether anything is in flight."""
        while stream.failure is None and _may_send(stream):
            batch = list(islice(queue, stream.pace.now.batch_size))
            if not batch:
                break
            stream.in_flight.add(pool.submit(self._embed_batch, batch, stream.info))
        return bool(stream.in_flight)

    def _collect(self, stream: _Stream) -> None:
        """Wait for an answer, or until the waiting answers are due."""
        # Every attempt of a request has its own deadline; this one only guards against our own
        # bugs.
        left_s = ATTEMPTS * (self.timeout_s + 2.0 * LONGEST_WAIT_S)
        if stream.answers:
            left_s = max(0.0, stream.first_answer_at + KEEP_WITHIN_S - time.monotonic())
        done, stream.in_flight = wait(stream.in_flight, left_s, FIRST_COMPLETED)
        for future in done:
            try:
                answer = future.result()
            except EmbeddingError as error:
                stream.failure = stream.failure or error
                continue
            if not stream.answers:
                stream.first_answer_at = time.monotonic()
            stream.answers.append(answer)
            self._count(stream, answer)

    def _count(self, stream: _Stream, answer: _Answer) -> None:
        stream.traffic.texts += len(answer.part.text_hashes)
        stream.traffic.tokens += answer.tokens
        stream.traffic.requests += answer.requests
        stream.traffic.refusals += answer.refusals
        if self.adaptive:
            stream.pace = (
                after_refusal(stream.pace)
                if answer.refusals
                else after_answer(stream.pace, stream.upper)
            )

    def _embed_batch(self, batch: list[Text], info: ServiceInfo) -> _Answer:
        """Embed one batch, leaving out texts that the service rejects; runs in a worker thread."""
        rejections: list[Rejection] = []
        requests = 0
        while batch:
            try:
                answer = self.client.embed([text.text for text in batch], info=info)
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
        nothing = np.empty((0, info.space.dimensions), dtype=np.float32)
        return _Answer(Part((), nothing, tuple(rejections)), 0, requests, 0)


def _may_send(stream: _Stream) -> bool:
    """Return whether one more request keeps both the pace and the promise on unkept texts."""
    unkept = len(stream.in_flight) + len(stream.answers)
    in_pace = len(stream.in_flight) < stream.pace.now.parallel_batches
    return in_pace and unkept < 2 * stream.upper.parallel_batches


def _part_is_due(stream: _Stream) -> bool:
    if not stream.answers:
        return False
    waited_s = time.monotonic() - stream.first_answer_at
    enough = len(stream.answers) >= stream.upper.parallel_batches
    return enough or waited_s >= KEEP_WITHIN_S or not stream.in_flight


def _joined(answers: list[_Answer]) -> Part:
    parts = [answer.part for answer in answers]
    return Part(
        text_hashes=tuple(name for part in parts for name in part.text_hashes),
        vectors=np.concatenate([part.vectors for part in parts]),
        rejections=tuple(rejection for part in parts for rejection in part.rejections),
    )
