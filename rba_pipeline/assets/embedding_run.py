"""How the texts of one partition get their vectors, stage by stage."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg

from rba_pipeline.assets.progress import ProgressReport, waiting_for_service
from rba_pipeline.assets.quarantine import list_texts, waiting_for_outcomes
from rba_pipeline.assets.reporting import counted, picture_of, traffic_of, window_in
from rba_pipeline.assets.timings import (
    LEANING,
    leaning_of,
    report,
    times_of,
    timings_picture,
    work_of,
)
from rba_pipeline.core.embeddings import Outcome, outcome_of
from rba_pipeline.core.errors import DatabaseBusy, DatabaseError
from rba_pipeline.core.insistence import Insistence
from rba_pipeline.core.promises import SENTINEL, Verdict, require
from rba_pipeline.core.stages import Stage
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore, Outcomes
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.kept_vectors import kept_vectors
from rba_pipeline.resources.pools import steps_at_once
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.sentinel import sentinel, sentinel_verdict
from rba_pipeline.resources.service_answers import ServiceInfo
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline.resources.vector_store import HASTE_S, VectorStore

_OUTCOMES = ("embedded", "reused", "truncated", "quarantined")


@dataclass(slots=True)
class EmbeddingRun:
    """One partition's texts, on their way to a vector each. Its methods are called in order."""

    context: dg.AssetExecutionContext
    records: RecordStore
    chunking: Chunking
    embedding: Embedding
    embedding_store: EmbeddingStore
    vector_store: VectorStore
    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch("embeddings"))
    window: Window = field(init=False)
    insistence: Insistence = field(init=False)
    info: ServiceInfo = field(init=False)
    chunking_id: str = field(init=False)
    traffic: Traffic = field(init=False)
    earlier: Mapping[str, Outcome] = field(init=False)
    missing: int = 0
    advice: list[str] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.window, self.traffic = window_in(self.context), Traffic(stopwatch=self.stopwatch)
        self.insistence = self.embedding.insistence(
            waiting_for_service(self.context, self.embedding.outage_s)
        )
        with self.stopwatch.stage(Stage.HTTP):
            self.info = self.embedding.handshake(self.insistence)
        self.chunking_id = self.chunking.settings(self.info).chunking_id
        with self.stopwatch.stage(Stage.DATABASE):
            self.vector_store.require_room(self.info.space)

    def enter_into(self, ledger: TextLedger) -> None:
        """Enter every text, and settle those that have a vector or are not to be sent."""
        space = self.info.space.id
        truncate = self.embedding.truncate
        with self.stopwatch.stage(Stage.READING):
            self.earlier = self.embedding_store.earlier(self.window, space)
            held = (name for name, row in self.earlier.items() if row.is_held(truncate=truncate))
            ledger.add(self.records.text_hashes(self.window, self.chunking_id))
            ledger.settle(held, "held")
            for state, hashes in self.embedding_store.kept(space, self.window.year):
                ledger.settle(hashes, state)

    def embed(self, ledger: TextLedger) -> None:
        """Send the texts without a state, and keep every answer at once."""
        texts, tokens, self.missing = ledger.totals()
        with self.stopwatch.stage(Stage.HTTP):
            self.advice = self.embedding.advice(self.info, texts=texts, tokens=tokens)
        for sentence in self.advice:
            self.context.log.warning(sentence)
        if not self.missing:
            return
        held, _ = ledger.by_state().get("held", (0, 0))
        with self.stopwatch.stage(Stage.WAITING):
            work_before = self.embedding.client.work()
            canary = sentinel(
                self.embedding.client, self.embedding_store, self.info, self.insistence
            )
        space, year = self.info.space.id, self.window.year
        progress = ProgressReport(self.context, "texts")
        for part in self.embedding.embed_stream(
            ledger.take_texts(self.records.texts(self.window, self.chunking_id)),
            total=self.missing,
            info=self.info,
            canary=canary,
            traffic=self.traffic,
            on_progress=progress.of_texts(self.missing),
            doubted=self.earlier.keys(),
            embedded_before=texts - self.missing - held,
            runs_at_once=steps_at_once(self.context.instance),
        ):
            with self.stopwatch.stage(Stage.WRITING):
                self.embedding_store.append(space, year, part)
                ledger.settle(part.text_hashes, "embedded")
                ledger.settle(part.truncated, "truncated")
        progress.last_of_texts(self.traffic)
        with self.stopwatch.stage(Stage.HTTP):
            self.work = work_of(work_before, self.embedding.client.work(), self.traffic.seconds)
        with self.stopwatch.stage(Stage.WRITING):
            self.embedding_store.merge(space, year)

    @contextmanager
    def remembering(self, ledger: TextLedger) -> Iterator[None]:
        """If the block fails, keep which texts were found at fault by then: the next run treats
        them as after a run that ended well.
        """
        try:
            yield
        except BaseException:
            try:
                self._write_rejected(ledger)
            except Exception as error:  # noqa: BLE001 - what is raised is why the run fails
                kind = type(error).__name__
                self.context.log.warning(f"texts found at fault could not be kept: {kind}")
            raise

    def write_outcomes(self, ledger: TextLedger) -> Outcomes:
        """Write what became of every text, and return it."""

        def write() -> Outcomes:
            # Read here: somebody may have given a text a second chance meanwhile.
            with self.stopwatch.stage(Stage.READING):
                before = self.embedding_store.earlier(self.window, self.info.space.id)
            rows = self._outcomes(ledger.rows(), before)
            with self.stopwatch.stage(Stage.WRITING):
                self.embedding_store.write_outcomes(
                    self.window, self.info.space, self.chunking_id, rows
                )
            with self.stopwatch.stage(Stage.READING):
                return self.embedding_store.outcomes(self.window)

        with self.stopwatch.stage(Stage.DATABASE):
            return self.vector_store.holding_outcomes(
                write, waiting_for_outcomes(self.context, self.stopwatch)
            )

    def _write_rejected(self, ledger: TextLedger) -> None:
        """Write which texts have no vector, if the run found some at fault."""

        def write() -> None:
            before = self.embedding_store.earlier(self.window, self.info.space.id)
            names = before.keys() | {each.text_hash for each in self.traffic.rejections}
            rows = self._outcomes((row for row in ledger.rows() if row[0] in names), before)
            self.embedding_store.write_rejected(
                self.window, self.info.space, self.chunking_id, rows
            )

        if not self.traffic.rejections:
            return
        try:
            with self.vector_store.in_haste() as hasty:
                hasty.holding_outcomes(write, timeout_s=HASTE_S)
        except DatabaseBusy:
            # Somebody may be giving a second chance at this moment: that is worth more.
            raise
        except DatabaseError:
            # The run may have been told to stop, and the database may be why it fails: without it
            # nobody gives a second chance meanwhile.
            write()

    def _outcomes(
        self, rows: Iterable[tuple[str, int, str | None]], before: Mapping[str, Outcome]
    ) -> Iterator[Outcome]:
        rejections = {each.text_hash: each for each in self.traffic.rejections}
        run_id = self.context.run.run_id
        for name, tokens, state in rows:
            yield outcome_of(
                name,
                tokens,
                state,
                rejection=rejections.get(name),
                before=before.get(name),
                run_id=run_id,
            )

    def verdicts(self) -> list[Verdict]:
        """Return what the checks find, none of them failed.

        Raises:
            ChecksFailed: One that protects search did.
        """
        with self.stopwatch.stage(Stage.CHECKING):
            kept = kept_vectors(self.records, self.embedding_store, self.window)
            sung = SENTINEL.verdict()
        if kept.texts and not self.missing:
            with self.stopwatch.stage(Stage.WAITING):
                sung = sentinel_verdict(self.embedding.client, self.embedding_store, self.info)
        return require([*kept.verdicts(), sung])

    def quarantine(self) -> None:
        """List the texts that have no vector, and why."""
        waiting = waiting_for_outcomes(self.context, self.stopwatch)
        with self.stopwatch.stage(Stage.DATABASE):
            list_texts(self.embedding_store, self.vector_store, self.window, waiting)

    def metadata(self, made: Outcomes) -> dict[str, Any]:
        """Return the figures and pictures of the run."""
        texts = sum(made.counts.values())
        times = self.stopwatch.times(self.traffic.answers)
        upper, adaptive = self.embedding.bounds(self.info), self.embedding.adaptive
        leaning = leaning_of(self.traffic, self.info, upper=upper, adaptive=adaptive)
        advice = "\n".join(f"- {each}" for each in self.advice) or "none"
        reasons = (str(row.reason) for row in made.quarantined.values())
        return {
            "texts": texts,
            **{name: made.counts.get(name, 0) for name in _OUTCOMES},
            "quarantined_by_reason": counted(reasons),
            "reuse_share": round(made.counts.get("reused", 0) / max(1, texts), 4),
            **traffic_of(self.traffic),
            **self.work,
            **times_of(times),
            "pace": dg.MetadataValue.md(picture_of(self.traffic)),
            "timings": dg.MetadataValue.md(timings_picture(times, self.traffic)),
            **({LEANING: asdict(leaning)} if leaning else {}),
            **report([times], leaning),
            "advice": dg.MetadataValue.md(advice),
            "effective_configuration": self.embedding.effective(self.info),
            "embedding_space": self.info.space.id,
            "model": self.info.space.model,
            "dagster/row_count": texts,
        }
