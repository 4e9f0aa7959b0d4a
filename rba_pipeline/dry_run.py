"""What a backfill would do, without doing it: for commands, outside of Dagster."""

from collections.abc import Collection

import dagster as dg

from rba_pipeline.core.plans import Plan
from rba_pipeline.core.run_costs import Way
from rba_pipeline.core.standings import State
from rba_pipeline.dagster_instance import dagster_instance
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.partitions import partitions_by
from rba_pipeline.planning import Planner, Progress
from rba_pipeline.settings import Settings


def plan_partitions(
    settings: Settings,
    neighbours: Neighbours,
    keys: Collection[str] | None = None,
    on_progress: Progress | None = None,
    *,
    states: Collection[State] = tuple(State),
    way: Way = Way.PROCESSES,
) -> Plan:
    """Return what runs of these partitions would do right now; see ``Planner.plan``.

    Args:
        on_progress: Called with what is gone through ("files" or "partitions"), how many of them
            are done, and how many there are.
        way: How the runs would be launched.
    """
    with dagster_instance() as instance:
        planner = planner_of(settings, neighbours, instance, way)
        return planner.plan(keys, states, on_progress or (lambda what, done, total: None))


def planner_of(
    settings: Settings,
    neighbours: Neighbours,
    instance: dg.DagsterInstance,
    way: Way = Way.PROCESSES,
) -> Planner:
    """Return what makes plans out of these neighbours, for runs that are launched this way."""
    return Planner(
        partitions=partitions_by(settings.grain, settings.first_year),
        source=neighbours.source,
        records=neighbours.records,
        chunking=neighbours.chunking,
        embedding=neighbours.embedding,
        embedding_store=neighbours.embedding_store,
        vector_store=neighbours.vector_store,
        instance=instance,
        way=way,
    )
