"""Runs whose processes are gone: they count as running for ever, and hold places in the pools.

Dagster's default launcher does not look after the runs that a crash of everything left behind.
"""

from collections.abc import Callable, Iterator

import dagster as dg
import psutil
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus, RunsFilter

_OPEN = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


def fail_lost_runs(instance: dg.DagsterInstance, *, only_launched: bool = False) -> list[str]:
    """Mark as failed every open run whose processes on this machine are gone; return their ids.

    Their places in the pools are free at once: two killed runs would otherwise hold up all others.
    A run that has not named a process yet is left to Dagster's run monitoring.

    Args:
        only_launched: Leave alone the runs of ``dagster asset materialize`` and the like, which
            may have been called in a container whose processes cannot be seen from here.
    """
    lost = [
        run
        for run in instance.get_runs(RunsFilter(statuses=_OPEN))
        if (run.remote_job_origin or not only_launched) and _is_lost(instance, run)
    ]
    for run in lost:
        instance.report_run_failed(
            run, "All processes of this run are gone: it was killed, or the machine was."
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in lost]


def look_again(
    instance: dg.DagsterInstance, say: Callable[[str], object], *, only_launched: bool = False
) -> None:
    """Fail the runs that were killed since the last look, and say so.

    Where Dagster's storage is away, that is said instead, and the next look may find it again:
    whoever looks holds up everything else, which must not end for it.

    Args:
        only_launched: As ``fail_lost_runs``.
    """
    try:
        for run_id in fail_lost_runs(instance, only_launched=only_launched):
            say(f"{run_id} is marked as failed, its places are free")
    except Exception as error:  # noqa: BLE001 - each kind of storage has errors of its own
        say(f"no look for killed runs, Dagster's storage is away ({type(error).__name__})")


def _is_lost(instance: dg.DagsterInstance, run: DagsterRun) -> bool:
    processes = list(_processes(instance, run))
    return bool(processes) and not any(_lives(pid, seen_at) for pid, seen_at in processes)


def _processes(instance: dg.DagsterInstance, run: DagsterRun) -> Iterator[tuple[int, float]]:
    """Yield every process id that the run has named, with the time (Unix seconds) when it did."""
    for record in instance.get_records_for_run(
        run.run_id, of_type=DagsterEventType.ENGINE_EVENT
    ).records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            yield int(str(pid.value)), record.event_log_entry.timestamp


def _lives(pid: int, seen_at: float) -> bool:
    # A younger process only has the same number.
    try:
        process = psutil.Process(pid)
        return bool(
            process.create_time() <= seen_at + 1 and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Look after the instance of DAGSTER_HOME. A new instance gets its tables by this as well."""
    with dg.DagsterInstance.get() as instance:
        for run_id in fail_lost_runs(instance):
            print(f"run {run_id} was lost in a crash and is now marked as failed")


if __name__ == "__main__":
    main()
