"""How a step says how far it is, while it runs: lines of its log, and observations in the UI."""

import time
from typing import Any

import dagster as dg

from rba_pipeline.core.errors import EmbeddingError
from rba_pipeline.core.insistence import OnWait as OnServiceWait
from rba_pipeline.core.progress import Figures, Progress
from rba_pipeline.resources.embedding_stream import OnProgress, Traffic
from rba_pipeline.resources.locks import OnWait


class ProgressReport:
    """Says in a step's log, and as observations of its partition, how far the step has come."""

    def __init__(self, context: dg.AssetExecutionContext, noun: str) -> None:
        self._context = context
        self._noun = noun
        self._began_s = time.monotonic()
        self._progress: Progress | None = None

    def of_texts(self, total: int) -> OnProgress:
        """Return the callback for a stream of so many texts."""

        def heard(traffic: Traffic) -> float:
            missed = [f"{address} ({why})" for address, why in traffic.waiting_for.items()]
            return self._heard(traffic.done, total, " and ".join(missed))

        return heard

    def of_items(self, done: int, total: int) -> None:
        """Hear of so many files, or documents."""
        self._heard(done, total, "")

    def last_of_texts(self, traffic: Traffic) -> None:
        """Say what became of all texts."""
        if self._progress is not None:
            self._say(self._progress.last(traffic.done, traffic.seconds), "")

    def last_of_items(self) -> None:
        """Say what it took to do all of them, unless there was none."""
        if self._progress is not None:
            seconds = time.monotonic() - self._began_s
            self._say(self._progress.last(self._progress.total, seconds), "")

    def _heard(self, done: int, total: int, missed: str) -> float:
        """Say it if it is time to; return in how many seconds it will be."""
        now_s = time.monotonic()
        if self._progress is None:
            self._progress = Progress.begun(total, self._began_s)
        if not self._progress.due_in_s(now_s):
            figures = self._progress.figures(done, now_s)
            self._say(figures, "" if figures.per_second else missed)
            self._progress = self._progress.said(done, now_s)
        return self._progress.due_in_s(now_s)

    def _say(self, figures: Figures, missed: str) -> None:
        metadata: dict[str, Any] = {
            f"{self._noun}_done": figures.done,
            f"{self._noun}_left": figures.left,
            f"{self._noun}_per_second": round(figures.per_second, 2),
        }
        if figures.left_s is not None:
            metadata["seconds_left"] = round(figures.left_s, 1)
        if missed:
            metadata["waiting_for"] = missed
        detail = f"waiting for {missed}" if missed else ""
        _say(self._context, figures.sentence(self._noun, detail), metadata)


def waiting_for(context: dg.AssetExecutionContext, whom: str) -> OnWait:
    """Return what says in the step's log, as often as progress is said, that it waits for them."""
    said = Progress.begun(0, 0.0)

    def heard(waited_s: float) -> float:
        nonlocal said
        if not waited_s:
            said = Progress.begun(0, 0.0)
        if not said.due_in_s(waited_s):
            sentence = f"nothing to do but to wait for {whom}, {waited_s:,.0f} s so far"
            metadata = {"waiting_for": whom, "seconds_waited": round(waited_s, 1)}
            _say(context, sentence, metadata)
            said = said.said(0, waited_s)
        return said.due_in_s(waited_s)

    return heard


def waiting_for_service(context: dg.AssetExecutionContext, outage_s: float) -> OnServiceWait:
    """Return what says in the step's log that the service is waited for, and why: at once, and then
    as often as progress is said.
    """
    said = Progress.begun(0, 0.0)

    def heard(error: EmbeddingError, failed: int, waited_s: float) -> None:
        nonlocal said
        if failed == 1:
            said = Progress.begun(0, waited_s)
        if failed == 1 or not said.due_in_s(waited_s):
            sentence = (
                f"nothing to do but to wait for the embedding service, {waited_s:,.0f} s so far, "
                f"{outage_s:,.0f} s at most: {error}"
            )
            metadata = {"waiting_for": str(error), "seconds_waited": round(waited_s, 1)}
            _say(context, sentence, metadata)
            said = said.said(0, waited_s)

    return heard


def _say(context: dg.AssetExecutionContext, sentence: str, metadata: dict[str, Any]) -> None:
    context.log.info(sentence)
    context.log_event(
        dg.AssetObservation(context.asset_key, partition=context.partition_key, metadata=metadata)
    )
