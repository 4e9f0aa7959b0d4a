"""Counters of one service's life, and one snapshot of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from embedding_service.backend.base import Work
from embedding_service.engine.histograms import Histogram, HistogramSnapshot

# Weight of the past after each batch: the measured rate follows about the last ten batches.
_MEMORY = 0.9


class Snapshot(TypedDict):
    """All figures, read at one moment. Seconds are wall time since the process began to serve.

    Pairs are of tokens, in attention; ``padded`` is how many were computed, with those of no text.
    """

    requests: int
    texts: int
    tokens: int
    padded_tokens: int
    pairs: int
    padded_pairs: int
    batches: int
    busy_s: float
    longest_batch_s: float
    failed_batches: int
    dropped_texts: int
    refused_requests: int
    requests_in_flight: int
    peak_requests_in_flight: int
    largest_request_texts: int
    queue_tokens: int
    uptime_s: float


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What one call of the model was given, and how long it took."""

    texts: int
    needed: Work
    done: Work
    """The same with padding and filling."""
    seconds: float


class Stats:
    """Thread-safe. ``texts``, ``tokens``, ``busy_s`` count what the model did, not what came."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._figures: Snapshot = Snapshot(
            requests=0,
            texts=0,
            tokens=0,
            padded_tokens=0,
            pairs=0,
            padded_pairs=0,
            batches=0,
            busy_s=0.0,
            longest_batch_s=0.0,
            failed_batches=0,
            dropped_texts=0,
            refused_requests=0,
            requests_in_flight=0,
            peak_requests_in_flight=0,
            largest_request_texts=0,
            queue_tokens=0,
            uptime_s=0.0,
        )
        self._guessed_tokens, self._guessed_s = 0.0, 0.0
        self._recent_tokens, self._recent_s = 0.0, 0.0
        self._histograms = {
            "batch_texts": Histogram([2**n for n in range(10)]),
            "batch_padded_tokens": Histogram([2**n for n in range(4, 18)]),
            "batch_seconds": Histogram([0.002 * 2**n for n in range(16)]),
        }

    def request_arrived(self) -> None:
        with self._lock:
            figures = self._figures
            figures["requests"] += 1
            figures["requests_in_flight"] += 1
            figures["peak_requests_in_flight"] = max(
                figures["peak_requests_in_flight"], figures["requests_in_flight"]
            )

    def request_answered(self) -> None:
        with self._lock:
            self._figures["requests_in_flight"] -= 1

    def request_admitted(self, texts: int) -> None:
        with self._lock:
            largest = self._figures["largest_request_texts"]
            self._figures["largest_request_texts"] = max(largest, texts)

    def request_refused(self) -> None:
        """Count an answer without vectors for which the caller, not the model, is the reason."""
        with self._lock:
            self._figures["refused_requests"] += 1

    def texts_dropped(self, texts: int) -> None:
        """Count texts that left the line without being computed."""
        with self._lock:
            self._figures["dropped_texts"] += texts

    def batch_done(self, batch: BatchFigures) -> None:
        with self._lock:
            figures = self._figures
            figures["batches"] += 1
            figures["texts"] += batch.texts
            figures["tokens"] += batch.needed.tokens
            figures["padded_tokens"] += batch.done.tokens
            figures["pairs"] += batch.needed.pairs
            figures["padded_pairs"] += batch.done.pairs
            self._spent(batch.seconds)
            self._histograms["batch_texts"].add(batch.texts)
            self._histograms["batch_padded_tokens"].add(batch.done.tokens)
            self._histograms["batch_seconds"].add(batch.seconds)
            self._recent_tokens = self._recent_tokens * _MEMORY + batch.needed.tokens
            self._recent_s = self._recent_s * _MEMORY + batch.seconds

    def batch_failed(self, seconds: float) -> None:
        with self._lock:
            self._figures["failed_batches"] += 1
            self._spent(seconds)

    def probed(self, seconds: float) -> None:
        """Count a pass that only found out whether a text fits into memory."""
        with self._lock:
            self._spent(seconds)

    def guess(self, tokens: int, seconds: float) -> None:
        """Take the model's speed from the warm-up until there is a batch.

        It is far too low: code is made for each size when it is first computed.
        """
        with self._lock:
            self._guessed_tokens, self._guessed_s = tokens, seconds

    def _spent(self, seconds: float) -> None:
        figures = self._figures
        figures["busy_s"] += seconds
        figures["longest_batch_s"] = max(figures["longest_batch_s"], seconds)

    def tokens_per_second(self) -> float:
        """Return the model's recent speed, at first the guess; 0 before there is either."""
        with self._lock:
            if self._recent_s > 0:
                return self._recent_tokens / self._recent_s
            return self._guessed_tokens / self._guessed_s if self._guessed_s > 0 else 0.0

    def histograms(self) -> dict[str, HistogramSnapshot]:
        """Return the successful batches by texts, by padded tokens and by seconds."""
        with self._lock:
            return {name: histogram.snapshot() for name, histogram in self._histograms.items()}

    def snapshot(self, queue_tokens: int) -> Snapshot:
        with self._lock:
            taken = self._figures.copy()
        taken["queue_tokens"] = queue_tokens
        taken["busy_s"] = round(taken["busy_s"], 6)
        taken["longest_batch_s"] = round(taken["longest_batch_s"], 6)
        taken["uptime_s"] = round(self._clock() - self._began, 3)
        return taken
