"""How many runs, and how many steps that lean on the service, Dagster lets in at once."""

import os

import dagster as dg

from rba_pipeline.core.run_costs import Way
from rba_pipeline.core.side_by_side import SideBySide

POOL = "embedding"


def steps_at_once(instance: dg.DagsterInstance) -> int:
    """Return the limit of the pool ``embedding``: its own, or the instance's default; 1 if none."""
    # SQLite in memory, as tests have it, knows no pools.
    if instance.event_log_storage.supports_global_concurrency_limits:
        for pool in instance.event_log_storage.get_pool_limits():
            if pool.name == POOL:
                return max(1, pool.limit)
    return instance.get_concurrency_config().pool_config.default_pool_limit or 1


def side_by_side(instance: dg.DagsterInstance, way: Way) -> SideBySide:
    """Return how many runs that are launched in ``way`` will be under way at once."""
    cores = len(os.sched_getaffinity(0))
    if way is Way.ONE_PROCESS:
        return SideBySide(1, 1, cores)
    queue = instance.get_concurrency_config().run_queue_config
    # Without a queue, and with a negative limit, there is none.
    bounded = queue is not None and queue.max_concurrent_runs >= 0
    runs = max(1, queue.max_concurrent_runs) if queue and bounded else None
    return SideBySide(runs, steps_at_once(instance), cores)
