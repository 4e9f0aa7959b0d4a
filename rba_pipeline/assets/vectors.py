"""When a partition becomes searchable: all of it, at once."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import TypeVar

import dagster as dg

from rba_pipeline.assets.checks import check_results, check_specs
from rba_pipeline.assets.predicting import prediction_error
from rba_pipeline.assets.quarantine import list_texts, waiting_for_outcomes
from rba_pipeline.assets.reporting import columns, one_message, window_in
from rba_pipeline.assets.timings import earlier_in_run, report, seconds_of_run, times_of
from rba_pipeline.core.checks import corpus_adds_up
from rba_pipeline.core.plans import inputs_of
from rba_pipeline.core.promises import Verdict, require
from rba_pipeline.core.stages import Stage
from rba_pipeline.partitions import key_of, today
from rba_pipeline.resources.catalogue import Catalogue
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.publication import VECTORS
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.staging import Content
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_store import VectorStore

Item = TypeVar("Item")


def vectors_asset(
    partitions: dg.TimeWindowPartitionsDefinition, retry_policy: dg.RetryPolicy | None
) -> dg.AssetsDefinition:
    """Return the asset that publishes what the other three recorded."""

    @dg.asset(
        group_name="publications",
        kinds={"postgres"},
        partitions_def=partitions,
        retry_policy=retry_policy,
        deps=["embeddings"],
        check_specs=check_specs("vectors", partitions),
        metadata=columns(VECTORS),
    )
    @one_message
    def vectors(
        context: dg.AssetExecutionContext,
        source: DocumentSource,
        records: RecordStore,
        embedding_store: EmbeddingStore,
        vector_store: VectorStore,
    ) -> dg.MaterializeResult:
        """One searchable chunk: its passage, its document and its vector, in Postgres.

        A partition is published in one transaction, new in, changed replaced, gone deleted; it can
        be rebuilt from the record without embedding anything. A document that was filed in another
        partition after it was recorded here is left to that one.
        """
        window, stopwatch = window_in(context), Stopwatch("vectors")
        with stopwatch.stage(Stage.READING):
            made, digest = embedding_store.outcomes(window), records.digest(window)

        def read(items: Iterable[Item]) -> Iterator[Item]:
            return stopwatch.timed(Stage.READING, items)

        def elsewhere() -> list[str]:
            with stopwatch.stage(Stage.READING):
                return source.catalogue(today()).elsewhere(window.start, window.end)

        def in_line(waited_s: float) -> float:
            if not waited_s:
                context.log.info("waiting for other runs that publish")
            # To be called again would cost the place in the line.
            return math.inf

        content = Content(
            documents=lambda: read(records.documents(window, digest)),
            chunks=lambda: read(records.chunk_batches(window, made.chunking_id, digest)),
            vectors=lambda lacking: read(
                embedding_store.vectors(made.space.id, window.year, lacking)
            ),
            quarantined=made.quarantined.keys(),
            elsewhere=elsewhere,
        )
        with stopwatch.stage(Stage.DATABASE):
            published = vector_store.publish(
                made.space, window, content, Waiting(stopwatch, in_line)
            )
            # Written with the outcomes, unless the database was made anew since, or was away then.
            waiting = waiting_for_outcomes(context, stopwatch)
            list_texts(embedding_store, vector_store, window, waiting)
            served = vector_store.published_documents(made.space.id)

        with stopwatch.stage(Stage.CHECKING):
            sum_of_all = _sum_of_all(context, partitions, source.catalogue(today()), served)
        times = stopwatch.times()
        steps, leaning = earlier_in_run(context)
        return dg.MaterializeResult(
            check_results=check_results(require([*published.verdicts, sum_of_all])),
            metadata={
                "vectors": published.rows,
                "quarantined_chunks": published.quarantined,
                "refused_by_database": published.refused,
                "inserted": published.inserted,
                "updated": published.updated,
                "deleted": published.deleted,
                "embedding_space": made.space.id,
                "search_switched_to_this_space": published.activated,
                **times_of(times),
                **report([*steps, times], leaning, run_s=seconds_of_run(context)),
                "dagster/row_count": published.rows,
                **prediction_error(
                    context,
                    records,
                    window,
                    inputs=inputs_of(digest, made.chunking_id, made.space.id),
                    reused=made.counts.get("reused", 0),
                    added=published.inserted,
                ),
            },
        )

    return vectors


def _sum_of_all(
    context: dg.AssetExecutionContext,
    partitions: dg.TimeWindowPartitionsDefinition,
    catalogue: Catalogue,
    served: Mapping[str, tuple[date, str | None]],
) -> Verdict:
    ran = context.instance.get_materialized_partitions(context.asset_key)
    return corpus_adds_up(
        files=len(catalogue.entries),
        quarantined=len(catalogue.quarantine()),
        filed={
            entry.document_id: (key_of(partitions, day), entry.content_hash)
            for day, entry in catalogue.filed()
        },
        served={
            document_id: (key_of(partitions, day), content_hash)
            for document_id, (day, content_hash) in served.items()
        },
        ran={context.partition_key, *ran},
    )
