"""Every partition that needs it, a real Dagster run each, from this one process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any

import dagster as dg

from rba_pipeline.definitions import build_defs
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.lost_runs import fail_lost_runs
from rba_pipeline.partitions import key_of, partitions_by, today
from rba_pipeline.resources.document_source import DocumentSource, Refreshed
from rba_pipeline.resources.run_history import ONE_PROCESS_TAG
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.run_outcomes import failure_of, metadata_of
from rba_pipeline.settings import Settings

# Dagster's own log of a run is in its UI; here only the result is shown.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_NO_CONFIG: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """One run: metadata by asset, or why it failed.

    ``embedding_open_s`` is the wall time in seconds from the start of the ``embeddings`` step to
    its end.
    """

    key: str
    run_id: str
    started: float
    ended: float
    metadata: dict[str, dict[str, Any]]
    embedding_open_s: float
    failure: str | None


def partitions_to_materialise(
    settings: Settings, source: DocumentSource, vector_store: VectorStore
) -> tuple[list[str], Refreshed]:
    """Refresh the catalogue; return the partitions that hold a document or stored rows, in order.

    The second value says what the refresh did.
    """
    day = today()
    refreshed = vector_store.holding_catalogue(
        lambda: source.refresh(day, guard=vector_store.require_lock)
    )
    first_day = date(settings.first_year, 1, 1)
    days = {*source.catalogue(day).filing_dates(), *vector_store.filing_dates()}
    partitions = partitions_by(settings.grain, settings.first_year)
    keys = sorted({key_of(partitions, filed) for filed in days if filed >= first_day})
    return keys, refreshed


def materialise(
    settings: Settings, keys: list[str], run_config: Mapping[str, Any] = _NO_CONFIG
) -> Iterator[PartitionResult]:
    """Run the whole job for each partition in turn, and yield each result as it is there."""
    # A step is no process of its own here: whoever kills it kills us. And whoever watches us has
    # waited for a service that is gone long enough.
    job = build_defs(settings, retry_policy=None).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.get() as instance:
        # A killed run holds its place in the pool, and would keep us waiting for ever.
        fail_lost_runs(instance)
        for key in keys:
            result = job.execute_in_process(
                partition_key=key,
                instance=instance,
                run_config={**run_config, **_QUIET},
                raise_on_error=False,
                tags=ONE_PROCESS_TAG,
            )
            yield _result(instance, key, result)


def _result(
    instance: dg.DagsterInstance, key: str, result: dg.ExecuteInProcessResult
) -> PartitionResult:
    stats = instance.get_run_stats(result.run_id)
    steps = instance.get_run_step_stats(result.run_id, ["embeddings"])
    opened = steps[0] if steps else None
    return PartitionResult(
        key=key,
        run_id=result.run_id,
        started=stats.start_time or 0.0,
        ended=stats.end_time or 0.0,
        metadata=metadata_of(instance, result.dagster_run),
        embedding_open_s=(opened.end_time or 0.0) - (opened.start_time or 0.0) if opened else 0.0,
        failure=None if result.success else failure_of(instance, result.dagster_run),
    )
