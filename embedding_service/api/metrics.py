"""What Prometheus reads: every figure of this service, from a registry of its own."""

import resource
import sys
from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from embedding_service.api.memory import RequestMemory
from embedding_service.api.records import EMBEDDING_PATHS, RequestRecord
from embedding_service.engine.engine import Engine
from embedding_service.engine.histograms import HistogramSnapshot
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.engine.stats import Snapshot

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Whatever else is asked for is counted as one: a scanner must not make a series for each guess.
_PATHS = {
    *EMBEDDING_PATHS,
    "/live",
    "/ready",
    "/health",
    "/info",
    "/tokenizer.json",
    "/metrics",
    "/openapi.json",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# ru_maxrss is in kilobytes, but on macOS in bytes.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Metrics:
    """Counts what is answered; everything else is looked up when somebody asks."""

    def __init__(self, lifecycle: Lifecycle, memory: RequestMemory, *, version: str) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "embedding_http_requests", "Answers by path and status.", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._refusals = Counter(
            "embedding_refusals", "Answers that were errors, by their code.", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        self._durations = self._histogram("duration", "From the head to the end of the answer.")
        self._waits = self._histogram("wait", "What a request spent waiting.")
        self._computes = self._histogram("compute", "What the model spent on a request's batches.")
        self._registry.register(_Figures(lifecycle, memory, version))
        ProcessCollector(registry=self._registry)

    def _histogram(self, what: str, description: str) -> Histogram:
        name = f"embedding_request_{what}_seconds"
        return Histogram(name, description, buckets=_SECONDS, registry=self._registry)

    def answered(self, record: RequestRecord) -> None:
        """Count one request that is over."""
        path = record.served_path if record.served_path in _PATHS else "other"
        self._requests.labels(path, str(record.status or "none")).inc()
        if record.code is not None:
            self.refused(record.code)
        if record.compute_s is not None and record.wait_s is not None:
            self._durations.observe(record.age_s)
            self._waits.observe(record.wait_s)
            self._computes.observe(record.compute_s)

    def refused(self, code: str) -> None:
        """Count an error, also of what never became a request."""
        self._refusals.labels(code).inc()

    def page(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _Figures(Collector):
    """What engine, process and requests say of themselves at this moment."""

    def __init__(self, lifecycle: Lifecycle, memory: RequestMemory, version: str) -> None:
        self._lifecycle = lifecycle
        self._memory = memory
        self._version = version

    def collect(self) -> Iterator[Metric]:
        lifecycle, stats = self._lifecycle, self._lifecycle.stats
        yield _gauge("embedding_ready", "1 when requests are let in.", lifecycle.ready)
        yield _gauge("embedding_request_memory_bytes", "Held by requests.", self._memory.held_bytes)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        yield _gauge("embedding_peak_resident_memory_bytes", "Most memory that was used.", peak)
        rate = stats.tokens_per_second()
        yield _gauge("embedding_tokens_per_second", "Recent speed of the model.", rate)
        if lifecycle.loaded is not None:
            yield from _of_engine(lifecycle.loaded, self._version)
        yield from _counters(stats.snapshot(0))
        for name, histogram in stats.histograms().items():
            yield _histogram(f"embedding_{name}", histogram)


def _of_engine(engine: Engine, version: str) -> Iterator[Metric]:
    space = engine.backend.space
    about = {
        "version": version,
        "model": space.model,
        "revision": space.revision,
        "space": space.id,
        "runtime": engine.backend.runtime,
        "precision": engine.backend.precision,
        "device": engine.backend.device,
    }
    yield InfoMetricFamily("embedding_service", "What is served.", value=about)
    waiting = GaugeMetricFamily("embedding_queue_tokens", "Tokens that wait.", labels=["lane"])
    for lane, tokens in engine.lane_tokens.items():
        waiting.add_metric([lane], tokens)
    yield waiting


def _counters(figures: Snapshot) -> Iterator[Metric]:
    for name, meaning, value in (
        ("texts", "Texts computed.", figures["texts"]),
        ("tokens", "Tokens of the texts computed.", figures["tokens"]),
        ("padded_tokens", "Tokens computed, padding included.", figures["padded_tokens"]),
        ("pairs", "Pairs of tokens of one text, in attention.", figures["pairs"]),
        ("padded_pairs", "Pairs computed, padding included.", figures["padded_pairs"]),
        ("batches", "Forward passes that succeeded.", figures["batches"]),
        ("failed_batches", "Forward passes that failed.", figures["failed_batches"]),
        ("dropped_texts", "Texts that waited and were not computed.", figures["dropped_texts"]),
        ("busy_seconds", "Seconds inside the model.", figures["busy_s"]),
    ):
        yield CounterMetricFamily(f"embedding_{name}", meaning, value=value)
    padded = figures["padded_tokens"]
    padding = 1 - figures["tokens"] / padded if padded else 0.0
    meaning = "Share of padding in the tokens computed; attention's is in the pairs."
    yield _gauge("embedding_padding_ratio", meaning, padding)
    longest = figures["longest_batch_s"]
    yield _gauge("embedding_longest_batch_seconds", "The longest forward pass so far.", longest)
    in_flight = figures["requests_in_flight"]
    yield _gauge("embedding_requests_in_flight", "Requests for embeddings inside.", in_flight)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)


def _histogram(name: str, found: HistogramSnapshot) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, count in zip(
        [*(str(float(bound)) for bound in found.bounds), "+Inf"], found.counts, strict=True
    ):
        below += count
        buckets.append((bound, below))
    meaning = f"Forward passes by {name.rpartition('_')[2]}."
    return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=found.total)
