"""A plan and the runs that it is about, on an empty, a half-filled and an unchanged store.

A process of its own: the environment says where corpus, store, databases and service are, as for
the pipeline itself. The runs are launched one after the other in this process, or as backfills,
which Dagster's daemon runs side by side.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import RunsFilter
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG

from benchmarks.plan_counts import planned, reported
from benchmarks.reports import progress
from rba_pipeline import processes
from rba_pipeline.backfilling import launch
from rba_pipeline.core.plans import Plan, totals
from rba_pipeline.core.run_costs import Way
from rba_pipeline.dagster_servers import DagsterServers, wait_for_daemon
from rba_pipeline.dry_run import plan_partitions
from rba_pipeline.materialise import PartitionResult, materialise, partitions_to_materialise
from rba_pipeline.neighbours import neighbours
from rba_pipeline.processes import Component
from rba_pipeline.run_outcomes import failure_of, metadata_of
from rba_pipeline.settings import Settings
from rba_pipeline.stack import stopping_on_signals

_WORKSPACE = Path(__file__).parents[1] / "workspace.yaml"
_LOOK_EVERY_S = 1.0

# How partitions are launched, and what launches them.
Launch = tuple[Way, Callable[[Settings, list[str]], list[PartitionResult]]]


def main(arguments: Sequence[str]) -> int:
    """Take as many partitions as the first argument says, 0 for all, launch them as the second one
    says, and print figures as JSON.
    """
    way = Way[arguments[1]]
    settings = Settings.read(os.environ)
    with neighbours(settings) as found:
        found.vector_store.migrate()
        keys, _ = partitions_to_materialise(settings, found.source, found.vector_store)
    wanted = min(int(arguments[0]) or len(keys), len(keys))
    chosen = [keys[place * len(keys) // wanted] for place in range(wanted)]
    steps = {"empty": chosen[::2], "half-filled": chosen, "unchanged": chosen}
    with _launching(way) as launching:
        figures = {name: compared(settings, name, some, launching) for name, some in steps.items()}
    print(json.dumps(figures))
    return 0


@contextmanager
def _launching(way: Way) -> Iterator[Launch]:
    """Have what launches partitions in this way for the block, with its way."""
    if way is Way.ONE_PROCESS:
        yield way, lambda settings, keys: list(materialise(settings, keys))
        return
    root = Path(os.environ["DAGSTER_HOME"]).parent
    (root / ".state").mkdir()
    shutil.copy(_WORKSPACE, root)
    components: list[Component] = []
    servers = DagsterServers(root, components.append)
    try:
        servers.recover_lost_runs()
        servers.start_code_server()
        wait_for_daemon(servers.start_daemon())
        yield way, _backfilled
    finally:
        processes.stop(components, grace_s=6)


def _backfilled(settings: Settings, keys: list[str]) -> list[PartitionResult]:
    """Have Dagster's daemon run these partitions, and return the results in order of the keys."""
    with dg.DagsterInstance.get() as instance:
        which = RunsFilter(tags={BACKFILL_ID_TAG: launch(instance, keys, {})})
        while True:
            runs = instance.get_runs(which)
            if len(runs) == len(keys) and all(run.is_finished for run in runs):
                return sorted((_result(instance, run) for run in runs), key=lambda made: made.key)
            time.sleep(_LOOK_EVERY_S)


def _result(instance: dg.DagsterInstance, run: dg.DagsterRun) -> PartitionResult:
    stats = instance.get_run_stats(run.run_id)
    return PartitionResult(
        key=run.tags[PARTITION_NAME_TAG],
        run_id=run.run_id,
        # From when it left the queue: its process starts then.
        started=stats.launch_time or stats.start_time or 0.0,
        ended=stats.end_time or 0.0,
        metadata=metadata_of(instance, run),
        embedding_open_s=0.0,
        failure=None if run.is_success else failure_of(instance, run),
    )


def compared(settings: Settings, name: str, keys: list[str], launching: Launch) -> dict[str, Any]:
    """Plan these partitions, run them, and return predicted and real seconds.

    Raises:
        RuntimeError: A run failed, or did something else than was planned.
    """
    began_s = time.monotonic()
    way, run_all = launching
    with neighbours(settings) as found:
        plan = plan_partitions(settings, found, keys, way=way)
    planning_s = time.monotonic() - began_s
    predicted_s = totals(plan.partitions, plan.costs).seconds or 0.0
    results = run_all(settings, keys)
    real_s = max(each.ended for each in results) - min(each.started for each in results)
    _check(plan, results)
    costs = plan.costs
    progress(
        f"{name}: predicted {predicted_s:.1f} s, real {real_s:.1f} s, planned in "
        f"{planning_s:.1f} s; {costs.beside}, {costs.run_s:.2f} s for a run ({costs.run_from}), "
        f"{costs.rate or 0:,.0f} tokens/s ({costs.rate_from})"
    )
    return {
        "predicted_s": predicted_s,
        "real_s": real_s,
        "planning_s": planning_s,
        "embedded": sum(each.work.embed for each in plan.partitions),
        "tokens": sum(each.work.tokens for each in plan.partitions),
    }


def _check(plan: Plan, results: Sequence[PartitionResult]) -> None:
    for each, result in zip(plan.partitions, results, strict=True):
        if result.failure:
            raise RuntimeError(f"{result.key}: {result.failure}")
        said, done = planned(each), reported(result)
        if said != done:
            raise RuntimeError(f"planned was {said}, done was {done}")


if __name__ == "__main__":
    # Dagster's processes are stopped before this one ends.
    try:
        with stopping_on_signals():
            sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
