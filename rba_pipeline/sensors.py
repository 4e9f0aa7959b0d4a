"""When partitions are run because their publications changed; off until somebody switches it on.

What is different is found by comparing source and database, and what is on its way is asked of
Dagster: a daemon that dies at any point loses nothing. The cursor only says what was asked for.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg
from dagster import RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

from rba_pipeline.backfills import LAUNCHED_BY, UNWATCHED, under_way
from rba_pipeline.core import pending
from rba_pipeline.core.errors import DatabaseBusy, SourceUnavailable
from rba_pipeline.core.pending import RETRY_AFTER_S, Asked, LastRun
from rba_pipeline.jobs import PUBLISH, publish_partition
from rba_pipeline.partitions import today
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.standings import changed_partitions
from rba_pipeline.upkeep import BACKFILL_STALE, config_of

CHANGED = "publications_changed"
# The daemon gives an evaluation 60 s. The last file of a look may go on beyond the budget, for
# HASTY_FILE_S; one that takes longer is left to a run, which has time for it.
BUDGET_S, LOCK_S = 15, 5
# More partitions than this become a backfill.
MOST_RUNS = 12


def publications_changed(
    partitions: dg.TimeWindowPartitionsDefinition,
    backfill_stale: dg.JobDefinition,
    run_config: Mapping[str, Any],
    every_s: int,
) -> dg.SensorDefinition:
    """Return the sensor.

    Args:
        run_config: Of the partitions' runs.
        every_s: How long to wait after an evaluation, at least.
    """

    def look(
        context: dg.SensorEvaluationContext, source: DocumentSource, vector_store: VectorStore
    ) -> dg.SensorResult | dg.SkipReason:
        if _is_open(context.instance, BACKFILL_STALE):
            return dg.SkipReason(f"{BACKFILL_STALE} is looking at the partitions")
        # First: of a run that ends meanwhile, this or what it has published is seen.
        busy = under_way(context.instance)
        try:
            with vector_store.in_haste() as hasty:
                day = today()
                left = hasty.holding_catalogue(
                    lambda: source.refresh(day, budget_s=BUDGET_S, guard=hasty.require_lock).left,
                    LOCK_S,
                )
                changed = changed_partitions(partitions, source.catalogue(day), hasty)
        except (SourceUnavailable, DatabaseBusy) as error:
            return dg.SkipReason(f"{type(error).__name__}: {error}")

        if left:
            return _handed_over(context, f"{left} files are left to be read", run_config)
        asked = _asked(context, changed)
        free = {key: digest for key, digest in changed.items() if key not in busy}
        due = pending.to_run(free, asked, _last_runs(context.instance, free), time.time())
        if len(due) > MOST_RUNS:
            told = f"{len(due)} partitions changed"
            return _handed_over(context, told, run_config, cursor=pending.written(asked | due))
        return dg.SensorResult(
            run_requests=[_run_of(key, each, run_config) for key, each in due.items()],
            skip_reason=None if due else _why_not(changed, busy),
            cursor=pending.written(asked | due),
        )

    # The decorator passes on a parameter that Dagster warns of at every start.
    return dg.SensorDefinition(
        name=CHANGED,
        evaluation_fn=look,
        jobs=[publish_partition, backfill_stale],
        minimum_interval_seconds=every_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Runs the partitions whose documents are new, changed or gone. A file that was "
        "touched, or a change that makes no other document, runs nothing. A failed run is asked "
        "for again after 15 minutes, an hour, 4 hours, then daily.",
    )


def _run_of(key: str, asked: Asked, run_config: Mapping[str, Any]) -> dg.RunRequest:
    return dg.RunRequest(
        # The same if it is evaluated again before there is a run, and never the same after one.
        run_key=f"{key}:{asked.digest}:{asked.after}",
        job_name=PUBLISH,
        partition_key=key,
        run_config=run_config,
        tags={**UNWATCHED, LAUNCHED_BY: CHANGED},
    )


def _handed_over(
    context: dg.SensorEvaluationContext,
    why: str,
    run_config: Mapping[str, Any],
    cursor: str | None = None,
) -> dg.SensorResult | dg.SkipReason:
    """Let the job look at all partitions, which has time for it, and starts a backfill."""
    last = _last_run(context.instance, RunsFilter(job_name=BACKFILL_STALE))
    if last is not None and last.failed and time.time() < last.ended_at + RETRY_AFTER_S[0]:
        return dg.SkipReason(f"{why}, and {BACKFILL_STALE} has just failed: run {last.run_id}")
    context.log.info(f"{why}: {BACKFILL_STALE} goes on")
    asked = dg.RunRequest(
        run_key=f"{BACKFILL_STALE}:{last.run_id if last else ''}",
        job_name=BACKFILL_STALE,
        run_config=config_of(run_config, source_only=True),
        tags={**UNWATCHED, LAUNCHED_BY: CHANGED},
    )
    return dg.SensorResult(run_requests=[asked], cursor=cursor or context.cursor)


def _asked(context: dg.SensorEvaluationContext, changed: Collection[str]) -> dict[str, Asked]:
    """Return what was asked for of the partitions that still differ."""
    try:
        asked = pending.read(context.cursor)
    except ValueError as error:
        # What is on its way, or done, is found all the same.
        context.log.warning(f"the cursor is begun anew, {error}")
        return {}
    return {key: each for key, each in asked.items() if key in changed}


def _last_runs(instance: dg.DagsterInstance, keys: Collection[str]) -> dict[str, LastRun]:
    found = {
        key: _last_run(instance, RunsFilter(job_name=PUBLISH, tags={PARTITION_NAME_TAG: key}))
        for key in keys
    }
    return {key: run for key, run in found.items() if run is not None}


def _last_run(instance: dg.DagsterInstance, which: RunsFilter) -> LastRun | None:
    for record in instance.get_run_records(which, limit=1):
        run, ended_at = record.dagster_run, record.end_time
        # One that could not even be launched has no end.
        return LastRun(run.run_id, run.is_failure, ended_at or record.update_timestamp.timestamp())
    return None


def _is_open(instance: dg.DagsterInstance, job: str) -> bool:
    return bool(
        instance.get_runs(RunsFilter(job_name=job, statuses=NOT_FINISHED_STATUSES), limit=1)
    )


def _why_not(changed: Collection[str], busy: Collection[str]) -> str:
    if not changed:
        return "no partition differs from the source"
    on_their_way = sorted(key for key in changed if key in busy)
    waiting = sorted(key for key in changed if key not in busy)
    told = []
    if on_their_way:
        told.append(f"a run waits or has not ended yet: {', '.join(on_their_way)}")
    if waiting:
        told.append(f"asked for before, and not due again yet: {', '.join(waiting)}")
    return "; ".join(told)
