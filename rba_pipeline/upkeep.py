"""The job that brings every partition up to date: it judges them, and starts a real backfill."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from rba_pipeline.assets.reporting import one_message
from rba_pipeline.backfills import LAUNCHED_BY, start_backfill, under_way
from rba_pipeline.core.errors import (
    DatabaseUnavailable,
    ServiceOverloaded,
    ServiceUnavailable,
    SourceUnavailable,
)
from rba_pipeline.core.standings import State
from rba_pipeline.partitions import today
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.standings import changed_partitions, standings

BACKFILL_STALE = "backfill_stale"
# Nobody watches it, and who misses the first of a month is asked for again a month later: what is
# just restarted is waited for, ten minutes in all. Cancelled, it notices after its short wait.
TEN_MINUTES = dg.RetryPolicy(max_retries=20, delay=30)

_MAY_PASS = (ServiceUnavailable, ServiceOverloaded, DatabaseUnavailable, SourceUnavailable)
_STEP = "judge_partitions"
_NEIGHBOURS = ("source", "chunking", "embedding", "embedding_store", "vector_store")


class Which(dg.Config):
    """Which partitions are backfilled."""

    source_only: bool = Field(
        default=False,
        description="Only those whose documents changed; else also those that are cut otherwise, "
        "or embedded in another space, than a run would do now, or have texts to send again.",
    )


def backfill_stale_job(
    partitions: dg.TimeWindowPartitionsDefinition,
    resources: Mapping[str, dg.ConfigurableResource[Any]],
    run_config: Mapping[str, Any],
    retry_policy: dg.RetryPolicy = TEN_MINUTES,
) -> dg.JobDefinition:
    """Return the job.

    Args:
        resources: By the name that run config uses.
        run_config: Of the backfill's runs.
        retry_policy: What Dagster does where service, database or source is away.
    """

    @dg.op(name=_STEP, out=dg.Out(dg.Nothing), retry_policy=retry_policy)
    @partial(one_message, retried=_MAY_PASS)
    def judge_partitions(
        context: dg.OpExecutionContext,
        config: Which,
        source: DocumentSource,
        chunking: Chunking,
        embedding: Embedding,
        embedding_store: EmbeddingStore,
        vector_store: VectorStore,
    ) -> None:
        """Refresh the catalogue, and start one backfill of the partitions that are not current."""
        # First: of a run that ends meanwhile, this or what it has published is seen.
        busy = under_way(context.instance)
        day = today()
        vector_store.holding_catalogue(lambda: source.refresh(day, guard=vector_store.require_lock))
        catalogue = source.catalogue(day)
        if config.source_only:
            changed = changed_partitions(partitions, catalogue, vector_store)
            reasons = dict.fromkeys(changed, "source")
        else:
            info = embedding.handshake()
            stand = standings(
                partitions,
                catalogue,
                space=info.space.id,
                chunking_id=chunking.settings(info).chunking_id,
                truncate=embedding.truncate,
                embedding_store=embedding_store,
                vector_store=vector_store,
            )
            reasons = {
                each.key: ", ".join(each.reasons)
                for each in stand
                if each.state is not State.CURRENT
            }
        context.add_output_metadata(_backfilled(context, reasons, busy, run_config))

    @dg.job(
        name=BACKFILL_STALE,
        executor_def=dg.in_process_executor,
        description="Starts a backfill of the partitions that are missing or stale: their "
        "documents, their chunking or their embedding space changed, or a text in quarantine is "
        "to be sent again. See Overview > Backfills.",
        # Without them Dagster copies the sensor that launches the job, and warns of its own copy.
        resource_defs={name: resources[name] for name in _NEIGHBOURS},
    )
    def backfill_stale() -> None:
        judge_partitions()

    return backfill_stale


def config_of(run_config: Mapping[str, Any], *, source_only: bool = False) -> dict[str, Any]:
    """Return the job's own run config: it judges by what the runs with ``run_config`` would do."""
    resources = run_config.get("resources", {})
    return {
        "ops": {_STEP: {"config": {"source_only": source_only}}},
        "resources": {name: resources[name] for name in _NEIGHBOURS if name in resources},
    }


def _backfilled(
    context: dg.OpExecutionContext,
    reasons: Mapping[str, str],
    busy: Collection[str],
    run_config: Mapping[str, Any],
) -> dict[str, Any]:
    """Start the backfill, if there is anything to run, and return what there is to say of it."""
    busy = reasons.keys() & set(busy)
    # The newest first: they are what people look for.
    keys = [key for key in sorted(reasons, reverse=True) if key not in busy]
    if busy:
        context.log.info(f"left to the runs that they have or wait for: {', '.join(sorted(busy))}")
    if not keys:
        context.log.info("no backfill: no other partition is missing or stale")
        return {"partitions": 0, "under_way": len(busy)}
    tags = {LAUNCHED_BY: context.run.tags.get(LAUNCHED_BY, BACKFILL_STALE)}
    title = f"{len(keys)} missing or stale partitions"
    backfill = start_backfill(context.instance, keys, run_config, tags, title)
    context.log.info(f"backfill {backfill} of {title}: {', '.join(keys)}")
    rows = "\n".join(f"| {key} | {reasons[key]} |" for key in keys)
    return {
        "partitions": len(keys),
        "under_way": len(busy),
        "backfill": backfill,
        "reasons": dg.MetadataValue.md(f"| partition | changed |\n|---|---|\n{rows}"),
    }
