"""A plan is made: what runs would do, and how long they would take.

Nothing is written but the catalogue and what the plan predicts; nothing is embedded but, where
nobody knows how fast the service is, a few texts whose vectors are thrown away.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import dagster as dg

from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import EmbeddingError
from rba_pipeline.core.plans import PartitionPlan, Plan, Prediction, Work, spans_of
from rba_pipeline.core.run_costs import (
    RunCosts,
    Way,
    earlier_rate,
    own_costs,
    run_costs,
    trusted_rate,
)
from rba_pipeline.core.standings import Standing, State, standing
from rba_pipeline.counting import Counting
from rba_pipeline.partitions import today, window_of
from rba_pipeline.resources.catalogue import Catalogue
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.pools import side_by_side
from rba_pipeline.resources.predictions import Predictions
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.run_history import past_runs
from rba_pipeline.resources.service_answers import ServiceInfo
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.standings import standings

# (what, done, total): called with "files" that are parsed, then with "partitions".
Progress = Callable[[str, int, int], None]

# A measurement is long enough; its texts are from so many partitions; so many are the first.
_PROBE_S = 2.0
_PROBE_PARTITIONS, _PROBE_TEXTS, _PROBE_FIRST = 8, 64, 8


def _unseen(what: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How partitions stand, and what a plan of any of them is made with.

    Attributes:
        standings: In order of their keys.
        parsed: Files that were new or changed.
    """

    standings: Sequence[Standing]
    counting: Counting
    info: ServiceInfo
    parsed: int


@dataclass(frozen=True)
class Planner:
    """Makes plans for one corpus out of the neighbours that runs would have.

    Attributes:
        instance: Whose earlier runs say what a run costs.
        way: How the runs would be launched.
    """

    partitions: dg.TimeWindowPartitionsDefinition
    source: DocumentSource
    records: RecordStore
    chunking: Chunking
    embedding: Embedding
    embedding_store: EmbeddingStore
    vector_store: VectorStore
    instance: dg.DagsterInstance
    way: Way = Way.PROCESSES

    def plan(
        self,
        keys: Collection[str] | None = None,
        states: Collection[State] = tuple(State),
        on_progress: Progress = _unseen,
    ) -> Plan:
        """Return what runs of these partitions, launched in their order, would do right now.

        The catalogue is refreshed for it, which parses files that are new or changed.

        Args:
            keys: Which partitions; ``None``: all that hold a document in source or database.
            states: Only those that stand so.

        Raises:
            EmbeddingError: The service does not say which model it runs.
            SourceUnavailable, DatabaseError: As a run would.
        """
        judged = self.judge(keys, on_progress)
        wanted = [each.key for each in judged.standings if each.state in states]
        return self.plan_of(judged, wanted, on_progress)

    def judge(self, keys: Collection[str] | None = None, on_progress: Progress = _unseen) -> Judged:
        """Return how these partitions stand, or all that hold a document in source or database.

        The catalogue is refreshed for it.

        Raises:
            EmbeddingError, SourceUnavailable, DatabaseError: As ``plan``.
        """
        info = self.embedding.handshake()
        catalogue, parsed = self._refreshed(on_progress)
        counting = self._counting(catalogue, info)
        return Judged(self._standings(catalogue, counting, keys), counting, info, parsed)

    def plan_of(
        self, judged: Judged, keys: Collection[str], on_progress: Progress = _unseen
    ) -> Plan:
        """Return the plan of some of the partitions that were judged just now."""
        stand = [each for each in judged.standings if each.key in keys]
        work = self._counted(stand, judged.counting, on_progress)
        costs = self._costs(stand, work, judged.counting, judged.info)
        plan = Plan(
            tuple(self._predicted(each, work[each.key], judged.counting, costs) for each in stand),
            judged.parsed,
            costs,
        )
        self._keep(plan)
        return plan

    def _refreshed(self, on_progress: Progress) -> tuple[Catalogue, int]:
        day = today()
        refreshed = self.vector_store.holding_catalogue(
            lambda: self.source.refresh(
                day,
                lambda done, total: on_progress("files", done, total),
                guard=self.vector_store.require_lock,
            )
        )
        return self.source.catalogue(day), refreshed.parsed

    def _counting(self, catalogue: Catalogue, info: ServiceInfo) -> Counting:
        settings = self.chunking.settings(info)
        fetch = self.embedding.client.tokenizer
        return Counting(
            catalogue=catalogue,
            space=info.space,
            settings=settings,
            tokenizer=self.records.tokenizer(settings.tokenizer_sha256, fetch),
            truncate=self.embedding.truncate,
            source=self.source,
            records=self.records,
            embedding_store=self.embedding_store,
            vector_store=self.vector_store,
        )

    def _standings(
        self, catalogue: Catalogue, counting: Counting, keys: Collection[str] | None
    ) -> list[Standing]:
        found = standings(
            self.partitions,
            catalogue,
            space=counting.space.id,
            chunking_id=counting.settings.chunking_id,
            truncate=counting.truncate,
            embedding_store=self.embedding_store,
            vector_store=self.vector_store,
        )
        if keys is None:
            return found
        known = {each.key: each for each in found}
        # A partition without documents can be run as well.
        return [
            known.get(key) or standing(key, {}, (), is_recorded=False) for key in sorted({*keys})
        ]

    def _counted(
        self, stand: Sequence[Standing], counting: Counting, on_progress: Progress
    ) -> dict[str, Work]:
        work: dict[str, Work] = {}
        windows = [(each.key, window_of(self.partitions, each.key)) for each in stand]
        # Within a calendar year a text is embedded once, whichever partition is the first.
        for _, of_year in groupby(windows, key=lambda named: named[1].year):
            with TextLedger() as planned:
                for key, window in of_year:
                    work[key] = counting.work(window, planned)
                    on_progress("partitions", len(work), len(stand))
        return work

    def _predicted(
        self, stand: Standing, work: Work, counting: Counting, costs: RunCosts
    ) -> PartitionPlan:
        inputs = counting.inputs(window_of(self.partitions, stand.key))
        load = costs.load(cut_s=work.cut_s, tokens=work.tokens, added=work.add)
        return PartitionPlan(stand, work, inputs, load)

    def _costs(
        self,
        stand: Sequence[Standing],
        work: Mapping[str, Work],
        counting: Counting,
        info: ServiceInfo,
    ) -> RunCosts:
        beside = side_by_side(self.instance, self.way)
        runs = own_costs(past_runs(self.instance), beside.cores)
        rate, origin = None, "nothing is to be embedded"
        busy = [each.key for each in stand if work[each.key].tokens]
        if busy:
            trusted = trusted_rate(
                earlier_rate(runs, info.space.id), self.embedding.client.tokens_per_second()
            )
            rate, origin = trusted or self._measured(busy, counting, info)
        return run_costs(runs, way=self.way, beside=beside, rate=rate, origin=origin)

    def _measured(
        self, keys: Sequence[str], counting: Counting, info: ServiceInfo
    ) -> tuple[float | None, str]:
        """Return tokens per second of some texts of these partitions; their vectors are dropped."""
        texts = iter({text.text_hash: text for text in self._some(keys, counting)}.values())
        known = self.embedding_store.canary(info.space.id)
        sent, rate, size = 0, 0.0, _PROBE_FIRST
        try:
            canary = self.embedding.client.canary(info, known)
            while some := list(islice(texts, size)):
                traffic = Traffic()
                for _ in self.embedding.embed_stream(
                    some,
                    total=len(some),
                    info=info,
                    canary=canary,
                    traffic=traffic,
                    on_progress=lambda so_far: None,
                ):
                    continue
                # The first requests of a connection, and small ones, are the slowest.
                sent, rate = sent + len(some), traffic.tokens / traffic.seconds
                if traffic.seconds >= _PROBE_S:
                    break
                size *= 2
        except EmbeddingError as error:
            return None, str(error)
        return rate or None, f"measured now with {sent} of the texts"

    def _some(self, keys: Sequence[str], counting: Counting) -> Iterator[Text]:
        """Yield texts of partitions that lie evenly among ``keys``, one of each in turn."""
        step = -(-len(keys) // _PROBE_PARTITIONS)
        some = [
            list(islice(counting.texts(window_of(self.partitions, key)), _PROBE_TEXTS))
            for key in keys[::step]
        ]
        for place in range(_PROBE_TEXTS):
            yield from (texts[place] for texts in some if place < len(texts))

    def _keep(self, plan: Plan) -> None:
        """Keep what is predicted of each run, to be held against it."""
        predictions = Predictions(self.records.store, self.records.corpus)
        for group in (plan.needed, plan.unneeded):
            known = [each for each in group if each.seconds is not None]
            spans = spans_of(known, plan.costs) or []
            predictions.keep(
                {
                    window_of(self.partitions, each.key): Prediction(
                        each.inputs,
                        self.way.name,
                        each.work.reuse,
                        each.work.add,
                        each.seconds or 0.0,
                        end - launched,
                    )
                    for each, (launched, end) in zip(known, spans, strict=True)
                }
            )
