"""Which partitions a backfill is to run, and with which values: decided before it is launched."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import TagBucket
from dagster._core.storage.tags import PARTITION_NAME_TAG

from rba_pipeline.backfills import LAUNCHED_BY, start_backfill, under_way
from rba_pipeline.core.backfill_progress import duration
from rba_pipeline.core.errors import RbaError
from rba_pipeline.core.standings import Standing, State
from rba_pipeline.following import SILENT_S, START_A_DAEMON, silence_s
from rba_pipeline.planning import Judged

ALL, FAILED = "all", "failed"
ONLY = (State.MISSING.value, State.STALE.value, FAILED, ALL)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a backfill runs of the partitions that were asked about.

    Attributes:
        keys: In order.
        reasons: By partition, for people.
        busy: Asked for, but left out: something is about to run them, or does.
        missing: Not asked for, and without anything searchable: for who asks for stale ones only.
        judged: What it was chosen of.
    """

    keys: list[str]
    reasons: Mapping[str, str]
    busy: list[str]
    missing: list[str]
    judged: Judged


def embedding_config(**values: object) -> dict[str, Any]:
    """Return the run config that sets those fields of ``embedding`` that are not ``None``."""
    given = {name: value for name, value in values.items() if value is not None}
    return {"resources": {"embedding": {"config": given}}} if given else {}


def require_daemon(instance: dg.DagsterInstance, because: str = "and it makes the runs") -> None:
    """Refuse what nobody would execute.

    Raises:
        RbaError: The daemon has never run, or has said nothing for too long.
    """
    silent_s = silence_s(instance, time.time())
    if silent_s is None:
        raise RbaError(f"no Dagster daemon has run here, {because}: {START_A_DAEMON}")
    if silent_s > SILENT_S:
        raise RbaError(
            f"no Dagster daemon runs (the last was heard of {duration(silent_s)} ago), {because}: "
            f"{START_A_DAEMON}"
        )


def choose(
    instance: dg.DagsterInstance,
    judge: Callable[[], Judged],
    only: Collection[str],
) -> Choice:
    """Return which of the partitions a backfill should run.

    Args:
        judge: Returns how the partitions asked about stand.
        only: Of ``ONLY``; a partition to which one of them applies is taken.
    """
    # First: of a run that ends meanwhile, this or what it has published is seen.
    busy = under_way(instance)
    judged = judge()
    standings = judged.standings
    keys = [each.key for each in standings]
    ends = bad_ends(instance, keys) if FAILED in only else {}
    reasons = {
        each.key: _why(each, ends.get(each.key))
        for each in standings
        if ALL in only or each.state.value in only or each.key in ends
    }
    return Choice(
        keys=[key for key in reasons if key not in busy],
        reasons=reasons,
        busy=[key for key in reasons if key in busy],
        missing=[
            each.key
            for each in standings
            if each.state is State.MISSING and each.key not in reasons
        ],
        judged=judged,
    )


def bad_ends(instance: dg.DagsterInstance, keys: Sequence[str]) -> dict[str, str]:
    """Return what became of the last run, of whatever job, where it failed or was cancelled."""
    if not keys:
        return {}
    # The newest of each, however many there are.
    last = instance.get_runs(bucket_by=TagBucket(PARTITION_NAME_TAG, list(keys), bucket_limit=1))
    return {
        run.tags[PARTITION_NAME_TAG]: "failed" if run.is_failure else "was cancelled"
        for run in last
        if run.is_failure_or_canceled
    }


def launch(instance: dg.DagsterInstance, keys: Sequence[str], run_config: Mapping[str, Any]) -> str:
    """Ask the daemon for a run of each partition, and return the backfill's id."""
    span = keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"
    given = run_config.get("resources", {}).get("embedding", {}).get("config", {})
    values = "".join(f", {name}={value}" for name, value in given.items())
    return start_backfill(
        instance,
        keys,
        run_config,
        {LAUNCHED_BY: "rba-pipeline backfill"},
        f"rba-pipeline backfill: {len(keys)} partitions of {span}{values}"[:100],
    )


def _why(standing: Standing, bad_end: str | None) -> str:
    told = standing.state.value
    if standing.state is State.STALE:
        told += f" ({', '.join(standing.reasons)})"
    return f"{told}, the last run {bad_end}" if bad_end else told
