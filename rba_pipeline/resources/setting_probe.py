"""One setting of batch size and parallelism, measured at the real service; vectors are dropped."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch
from rba_pipeline.core.embeddings import Text, batched, by_similar_length
from rba_pipeline.core.errors import ModelFailed, ServiceOverloaded, ServiceUnavailable
from rba_pipeline.core.pacing import fixed
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.tuning import Measurement, is_hopeless, is_measured, rate_of
from rba_pipeline.resources.embedding_stream import (
    LOOK_AHEAD_REQUESTS,
    EmbeddingStream,
    Traffic,
)
from rba_pipeline.resources.metered_client import Load, MeteredClient
from rba_pipeline.resources.service_answers import ServiceInfo

# How long requests may fail, and none be answered, before their setting counts as failed.
OUTAGE_S = 2.0


@dataclass(slots=True)
class SettingProbe:
    """Measures settings, one after the other, with the same texts.

    Args:
        texts: What is sent, again and again; n ≥ 1.
        canary: The canary's vector in this space.
    """

    client: MeteredClient
    info: ServiceInfo
    texts: Sequence[Text]
    canary: NDArray[np.float32]
    probe_s: float
    _chance: random.Random = field(default_factory=lambda: random.Random(1))

    def measure(self, bounds: Bounds, best: float) -> Measurement:
        """Return what ``bounds`` does: no pace, no look at what is refused.

        Args:
            best: Texts per second of the fastest setting so far, 0 at first: one that is much
                slower is not measured for long.

        Raises:
            EmbeddingError: A failure that has nothing to do with the setting.
        """
        self.client.forget()
        before, began_s = self.client.load(), time.monotonic()
        failed = 0
        stream = self._stream(bounds, lambda: self._is_over(bounds, best, began_s))
        try:
            for _ in stream.parts(lambda traffic: None):
                pass
        except (ServiceOverloaded, ServiceUnavailable, ModelFailed):
            failed = 1
        seconds = time.monotonic() - began_s
        after, answers = self.client.load(), self.client.answers
        addresses = len(self.client.addresses)
        texts = _between(before, after, "texts")
        sent = sum(each.texts for each in answers)
        return Measurement(
            bounds,
            rate=self._rate(bounds),
            seconds=seconds,
            p50_s=median(each.at_s - each.sent_at_s for each in answers) if answers else 0.0,
            refusals=self.client.refusals,
            errors=max(failed, self.client.errors),
            processors=_share(
                _between(before, after, "processors_s"), seconds * self.info.cores * addresses
            ),
            model=_share(_between(before, after, "busy_s"), seconds * addresses),
            others=max(0, int(texts or 0) - sent),
        )

    def _rate(self, bounds: Bounds) -> float:
        """Return texts per second, by the tokens that were computed: texts differ in length."""
        answers = list(self.client.answers)
        tokens = mean(max(1, text.tokens) for text in self.texts)
        if not any(each.tokens for each in answers):
            tokens = 1.0
        return rate_of(answers, bounds.parallel_batches) / tokens

    def _is_over(self, bounds: Bounds, best: float, began_s: float) -> bool:
        answers, elapsed_s = len(self.client.answers), time.monotonic() - began_s
        if self.client.refusals or self.client.errors:
            return True
        if is_measured(elapsed_s, answers, bounds, self.probe_s):
            return True
        return is_hopeless(answers, self._rate(bounds), best, bounds.parallel_batches)

    def _stream(self, bounds: Bounds, is_over: Callable[[], bool]) -> EmbeddingStream:
        limits = Limits(
            unkept_texts=2 * bounds.batch_size * bounds.parallel_batches,
            request_tokens=self.info.max_queue_tokens,
            outage_s=OUTAGE_S,
        )
        dispatch = Dispatch(
            self._sent(bounds.batch_size, is_over),
            total=1 << 40,
            addresses=self.client.addresses,
            pace=fixed(bounds, timeout_s=self.client.timeout_s),
            adaptive=False,
            steps=BacklogSteps.read(USUAL_STEPS),
            limits=limits,
        )
        return EmbeddingStream(
            self.client, self.info, dispatch, traffic=Traffic(), canary=self.canary, truncate=True,
            # A setting is measured as it is.
            limits=lambda info: limits,
        )  # fmt: skip

    def _sent(self, batch_size: int, is_over: Callable[[], bool]) -> Iterator[Text]:
        """Yield texts until ``is_over``, asked before each request.

        As in a run, texts of similar length share a request. The requests themselves come in any
        order, so that a part of them is like all of them.
        """
        near = by_similar_length(self.texts, LOOK_AHEAD_REQUESTS * batch_size)
        requests = list(batched(near, batch_size))
        self._chance.shuffle(requests)
        for place, text in enumerate(cycle([text for request in requests for text in request])):
            if place % batch_size == 0 and is_over():
                return
            yield replace(text, text_hash=f"{text.text_hash}-{place}")


def _between(before: Load, after: Load, name: str) -> float | None:
    first, last = getattr(before, name), getattr(after, name)
    # Less than before: it was restarted.
    return None if first is None or last is None or last < first else last - first


def _share(part: float | None, whole: float) -> float | None:
    return None if part is None else min(1.0, part / whole)
