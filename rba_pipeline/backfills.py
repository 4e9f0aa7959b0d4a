"""Backfills of the whole job, started through Dagster's instance: its daemon makes their runs."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster import RunsFilter
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    MAX_RETRIES_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from dagster._core.utils import make_new_backfill_id

from rba_pipeline.jobs import PUBLISH

# As every workspace file names it, that of the containers as well, and as Dagster calls the only
# repository of a code location. Under another name the daemon would find no job for a backfill.
LOCATION, REPOSITORY = "rba_pipeline", "__repository__"
# On runs that nobody watches: one whose processes were killed is launched once more, and goes on
# where it was. dagster.yaml keeps Dagster from repeating what failed with a reason.
UNWATCHED: Mapping[str, str] = {MAX_RETRIES_TAG: "1"}
# Who asked for a run: nightly, backfill_stale, publications_changed.
LAUNCHED_BY = "rba/launched_by"
_VECTORS = dg.AssetKey("vectors")


def start_backfill(
    instance: dg.DagsterInstance,
    keys: Sequence[str],
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
    title: str,
) -> str:
    """Ask the daemon for one run of the whole job for each partition, and return the backfill's id.

    The same that the web interface does for ``Launch backfill`` on the job's partitions. Dagster
    has no public way to it: its version is pinned, and a test has a daemon execute one.

    Args:
        keys: Partitions, in the order in which their runs are put into the queue; not empty.
        run_config: Of every run.
        tags: Of the backfill and every run, besides ``UNWATCHED``.
        title: What the list of backfills shows.
    """
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    backfill = PartitionBackfill(
        backfill_id=make_new_backfill_id(),
        partition_set_origin=repository.get_partition_set_origin(f"{PUBLISH}_partition_set"),
        status=BulkActionStatus.REQUESTED,
        partition_names=list(keys),
        from_failure=False,
        tags={**UNWATCHED, **tags},
        backfill_timestamp=time.time(),
        title=title,
        run_config=run_config,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def partitions_of(backfill: PartitionBackfill, asset: dg.AssetKey | None = None) -> list[str]:
    """Return the partitions that a backfill is for, in order, however it was launched.

    Args:
        asset: Only those of this asset, where the web interface launched it for assets.
    """
    if backfill.asset_backfill_data is None:
        return list(backfill.partition_names or ())
    subsets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    wanted = subsets.values() if asset is None else [subsets[asset]] if asset in subsets else []
    return sorted({key for subset in wanted for key in subset.get_partition_keys()})


def under_way(instance: dg.DagsterInstance) -> set[str]:
    """Return the partitions that wait for a run, or have one that has not ended.

    Counted are runs of the whole job, runs of the web interface that end with the vectors, those
    that were killed and are about to be launched again, and what a backfill of the job, or of the
    vectors in the web interface, has not made a run of yet.
    """
    open_runs = [
        *instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)),
        *_waiting_to_retry(instance),
    ]
    keys = {run.tags.get(PARTITION_NAME_TAG) for run in open_runs if _ends_with_vectors(run)}
    for backfill in instance.get_backfills(
        BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
    ):
        if backfill.is_asset_backfill or backfill.job_name == PUBLISH:
            made = instance.get_runs(RunsFilter.for_backfill(backfill.backfill_id))
            begun = {run.tags.get(PARTITION_NAME_TAG) for run in made if _ends_with_vectors(run)}
            keys |= {key for key in partitions_of(backfill, _VECTORS) if key not in begun}
    return {key for key in keys if key is not None}


def launches_again(backfill: PartitionBackfill) -> bool:
    """Return whether Dagster would launch a run of ``backfill`` again that was killed.

    Not once it has ended or is cancelled, though the mark on the run stays. One of the job does
    not wait for that: a run that is killed when no other one is open is not launched again.
    """
    ended = backfill.status in BULK_ACTION_TERMINAL_STATUSES
    return not ended and backfill.status is not BulkActionStatus.CANCELING


def _waiting_to_retry(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that were killed, and that the daemon is about to launch again.

    It does so within seconds. One that it gave up keeps the mark for ever: what waits longer is
    not counted, or nothing would ever run its partition again.
    """
    lately = datetime.now(UTC) - timedelta(hours=1)
    marked = RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}, updated_after=lately
    )
    waiting = [run for run in instance.get_runs(marked) if run.is_complete_and_waiting_to_retry]
    return [run for run in waiting if _is_launched_again(instance, run)]


def _is_launched_again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    if (name := run.tags.get(BACKFILL_ID_TAG)) is None:
        return True
    backfill = instance.get_backfill(name)
    return backfill is not None and launches_again(backfill)


def _ends_with_vectors(run: dg.DagsterRun) -> bool:
    return run.job_name == PUBLISH or _VECTORS in (run.asset_selection or ())
