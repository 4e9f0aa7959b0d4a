"""What is read of earlier runs in Dagster's log."""

import time
from typing import Any

import dagster as dg

from rba_pipeline.resources.run_history import past_runs, ran_beside


@dg.job
def nothing() -> None: ...


def a_run(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    named = {f"dagster/{name}": value for name, value in tags.items()}
    return nothing.execute_in_process(instance=instance, tags=named).dagster_run


def test_a_run_knows_whether_another_partition_ran_beside_it() -> None:
    began = time.time()
    with dg.DagsterInstance.ephemeral() as instance:
        own = a_run(instance, partition="2011-01-01")
        alone = ran_beside(instance, own, began)
        a_run(instance, partition="2012-01-01")
        beside = ran_beside(instance, own, began)
        later = time.time()
        a_run(instance)
        beside_no_partition = ran_beside(instance, own, later)

    assert (alone, beside, beside_no_partition) == (False, True, False)


def step(name: str, **figures: Any) -> dg.AssetsDefinition:
    @dg.asset(name=name)
    def made() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=figures)

    return made


def test_a_wait_for_other_runs_is_no_work() -> None:
    waited_s = 1000.0
    assets = [
        step("documents", parsed_files=1, seconds_locking=waited_s),
        step("chunks", unchanged=True),
        step(
            "embeddings",
            embedding_space="a",
            stream_seconds=0.0,
            tokens=0,
            seconds_locking=waited_s,
        ),
        step("vectors", inserted=1, seconds_locking=waited_s),
    ]

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(assets, instance=instance).success
        [run] = past_runs(instance)

    assert [round(end - begin) for begin, end in run.course.waiting] == [1000, 0, 1000, 1000]
    # Nothing else of them took as long.
    assert run.cut_s < 0
    assert run.publish_s < 0
