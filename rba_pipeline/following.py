"""A backfill is followed: what its daemon and its runs have done since the last look."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    BACKFILL_ID_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)

from rba_pipeline.backfills import launches_again, partitions_of
from rba_pipeline.core.backfill_progress import Progress, Stage, duration
from rba_pipeline.core.errors import BadSetting, RbaError
from rba_pipeline.run_outcomes import failure_of, metadata_of

# Daemons say every 30 s that they live.
SILENT_S = 75
# A daemon that is restarted is back by then.
GIVE_UP_S = 300
START_A_DAEMON = "start one: make up, or dagster-daemon run"
_NEEDED = ("BACKFILL", "QUEUED_RUN_COORDINATOR")
# Every process writes by its own clock that a run changed.
_SKEW = timedelta(minutes=5)
_STAGES = {
    DagsterRunStatus.SUCCESS: Stage.DONE,
    DagsterRunStatus.FAILURE: Stage.FAILED,
    DagsterRunStatus.CANCELED: Stage.CANCELLED,
    DagsterRunStatus.STARTING: Stage.RUNNING,
    DagsterRunStatus.STARTED: Stage.RUNNING,
    DagsterRunStatus.CANCELING: Stage.RUNNING,
}


def silence_s(instance: dg.DagsterInstance, now_s: float) -> float | None:
    """Return for how many seconds the daemons that a backfill needs have said nothing.

    ``None``: one of them has never run.

    Args:
        now_s: Unix time.
    """
    heard = instance.get_daemon_heartbeats()
    if not all(name in heard for name in _NEEDED):
        return None
    return now_s - min(heard[name].timestamp for name in _NEEDED)


def backfill_named(instance: dg.DagsterInstance, name: str) -> PartitionBackfill:
    """Return the backfill with this id.

    Raises:
        BadSetting: There is none; the message has the newest ones.
    """
    found = instance.get_backfill(name)
    if found is None:
        newest = ", ".join(each.backfill_id for each in instance.get_backfills(limit=5))
        raise BadSetting(
            f"no backfill is called {name!r}; the newest are: {newest or 'there is none yet'}"
        )
    return found


@dataclass(slots=True)
class Follower:
    """Looks at one backfill, of the job or of assets, again and again.

    Attributes:
        progress: As of the last look.
        has_ended: Whether nothing more will happen to it.
        is_green: Whether it has ended, and every partition is done.
    """

    instance: dg.DagsterInstance
    backfill_id: str
    progress: Progress = field(init=False)
    has_ended: bool = False
    is_green: bool = False
    _told: dict[str, Stage] = field(default_factory=dict)
    _runs: dict[str, RunRecord] = field(default_factory=dict)
    _changed_at: datetime | None = None
    _texts: int = 0
    _silent_since_s: float | None = None

    def look(self, now_s: float) -> Iterator[str]:
        """Yield what whoever waits should know since the last look, a line each.

        Args:
            now_s: Unix time.

        Raises:
            RbaError: No daemon was there for ``GIVE_UP_S`` seconds.
        """
        backfill = backfill_named(self.instance, self.backfill_id)
        runs = self._last_runs()
        launches = launches_again(backfill)
        stages = {
            key: self._stage(runs.get(key), launches=launches) for key in partitions_of(backfill)
        }
        for key, stage in stages.items():
            if stage.has_ended and self._told.get(key) is not stage:
                yield from self._ended_as(key, stage, runs[key])
        self._told = stages
        self.progress = Progress(stages, self._texts, now_s - backfill.backfill_timestamp)
        if backfill.status in BULK_ACTION_TERMINAL_STATUSES:
            # A run that Dagster has launched again may still wait in the queue.
            self.has_ended = all(run.is_finished for run in runs.values())
            self.is_green = self.has_ended and _is_green(backfill, stages)
            if self.has_ended and backfill.status is BulkActionStatus.FAILED:
                yield f"the backfill failed: {_cause(backfill)}"
        if not self.has_ended:
            yield from self._of_daemons(now_s)

    def _last_runs(self) -> dict[str, DagsterRun]:
        """Return the last run of each partition: a run that was killed may have a second one."""
        for record in self._changed():
            key = record.dagster_run.tags.get(PARTITION_NAME_TAG, "")
            known = self._runs.get(key)
            if known is None or known.storage_id <= record.storage_id:
                self._runs[key] = record
        return {key: self._retried(record.dagster_run) for key, record in self._runs.items()}

    def _changed(self) -> Sequence[RunRecord]:
        """Return the backfill's runs that changed since the last look, and maybe others."""
        since = self._changed_at and self._changed_at - _SKEW
        named = RunsFilter(tags={BACKFILL_ID_TAG: self.backfill_id}, updated_after=since)
        found = self.instance.get_run_records(named)
        if found:
            self._changed_at = max(record.update_timestamp for record in found)
        return found

    def _retried(self, run: DagsterRun) -> DagsterRun:
        # One that was launched when the backfill had ended does not carry its name.
        while (again := run.tags.get(AUTO_RETRY_RUN_ID_TAG)) is not None:
            retried = self.instance.get_run_by_id(again)
            if retried is None:
                break
            run = retried
        return run

    def _stage(self, run: DagsterRun | None, *, launches: bool) -> Stage:
        if run is None:
            return Stage.LEFT
        if launches and (run.is_complete_and_waiting_to_retry or self._is_undecided(run)):
            return Stage.RUNNING
        return _STAGES.get(run.status, Stage.LEFT)

    def _is_undecided(self, run: DagsterRun) -> bool:
        """Return whether Dagster has yet to say if it launches a run again that has just failed."""
        says_so = self.instance.run_retries_enabled
        return run.is_failure and says_so and WILL_RETRY_TAG not in run.tags

    def _ended_as(self, key: str, stage: Stage, run: DagsterRun) -> Iterator[str]:
        if stage is Stage.DONE:
            made = metadata_of(self.instance, run)
            self._texts += int(made.get("embeddings", {}).get("embedded", 0))
        elif stage is Stage.FAILED:
            yield f"{key} failed: {failure_of(self.instance, run)}{_hint(run)}"

    def _of_daemons(self, now_s: float) -> Iterator[str]:
        silent_s = silence_s(self.instance, now_s)
        if silent_s is not None and silent_s <= SILENT_S:
            if self._silent_since_s is not None:
                yield "the daemon is back"
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = now_s
            since = "" if silent_s is None else f" for {duration(silent_s)}"
            yield f"no daemon was heard of{since}: nothing new begins until you {START_A_DAEMON}"
        elif now_s - self._silent_since_s > GIVE_UP_S:
            raise RbaError(
                f"no Dagster daemon came back within {duration(GIVE_UP_S)}, and it makes the runs: "
                f"{START_A_DAEMON}. The backfill goes on then; `rba-pipeline backfill follow "
                f"{self.backfill_id}` follows it again"
            )


def follow(follower: Follower, say: Callable[[str], None], show: Callable[[Progress], None]) -> int:
    """Follow until the backfill has ended; return 0 if every partition is green, else 1.

    Args:
        say: Told each line that stays.
        show: Told how far it is, after each look.

    Raises:
        RbaError: No daemon was there for ``GIVE_UP_S`` seconds.
    """
    while True:
        for line in follower.look(time.time()):
            say(line)
        show(follower.progress)
        if follower.has_ended:
            return 0 if follower.is_green else 1
        # Dagster tells of its state only if asked, and its daemon acts every few seconds.
        time.sleep(1.5)


def _hint(run: DagsterRun) -> str:
    if not run.is_complete_and_waiting_to_retry:
        return ""
    return (
        " (the backfill had ended before Dagster could launch the run again: "
        "`rba-pipeline backfill --all --only failed`)"
    )


def _is_green(backfill: PartitionBackfill, stages: Mapping[str, Stage]) -> bool:
    """Return whether an ended backfill made all that it was asked for."""
    if backfill.status is BulkActionStatus.COMPLETED_SUCCESS:
        return all(stage is Stage.DONE for stage in stages.values())
    # Dagster counts a killed run of a job as failed, though the one after it did all.
    return (
        backfill.status is BulkActionStatus.COMPLETED_FAILED
        and not backfill.is_asset_backfill
        and set(stages.values()) == {Stage.DONE}
    )


def _cause(backfill: PartitionBackfill) -> str:
    """Return the message of the innermost error."""
    error = backfill.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "see its page in Dagster's UI"
    # ``package.module.Class: message``, of which the message is for people.
    return error.message.strip().partition(": ")[2] or error.message.strip()
