"""What is read of earlier runs in Dagster's log."""

import time

import dagster as dg

from rba_pipeline.resources.run_history import ran_beside


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
