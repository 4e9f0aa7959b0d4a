"""How many steps may lean on the embedding service at once, as Dagster's pools have it."""

import dagster as dg

POOL = "embedding"


def steps_at_once(instance: dg.DagsterInstance) -> int:
    """Return the limit of the pool ``embedding``: its own, or the instance's default; 1 if none."""
    # SQLite in memory, as tests have it, knows no pools.
    if instance.event_log_storage.supports_global_concurrency_limits:
        for pool in instance.event_log_storage.get_pool_limits():
            if pool.name == POOL:
                return max(1, pool.limit)
    return instance.get_concurrency_config().pool_config.default_pool_limit or 1
