"""Dagster: its home, its storage, its daemon, and what bounds how many runs embed at once."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig

from rba_pipeline.core.addresses import address_parts
from rba_pipeline.core.errors import EmbeddingError
from rba_pipeline.dagster_instance import is_in_postgres
from rba_pipeline.doctor.findings import Finding, failed, ok, warning
from rba_pipeline.following import SILENT_S
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.resources.database_health import has_table
from rba_pipeline.resources.pools import POOL

ABOUT = "dagster"
# As our dagster.yaml has it, and where a home's says nothing.
_OUR_RUNS, _DAGSTERS_RUNS = 4, 10


def dagster(root: Path, found: Neighbours, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at Dagster; no table is made and no process started for it.

    Args:
        root: The project's folder.
    """
    home = Path(environment.get("DAGSTER_HOME", ""))
    problem = _home_problem(home, environment)
    if problem is not None:
        yield failed("dagster home", problem)
        return
    yield from _same_file(home, root)
    url = environment.get("DAGSTER_POSTGRES_URL", "")
    address_parts("DAGSTER_POSTGRES_URL", url)
    if is_in_postgres(str(home)) and (not url or not has_table(url, "runs")):
        yield failed(
            "dagster storage",
            "DAGSTER_POSTGRES_URL is not set: run in the project's folder, or set it"
            if not url
            else "the database has no tables of Dagster yet: `make up` makes them",
        )
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield ok("dagster storage", f"answers, {instance.get_runs_count()} runs")
        yield from _daemons(instance)
        yield from _monitoring(instance)
        yield from _pool(instance, found)


def concurrent_runs(environment: Mapping[str, str]) -> int | None:
    """Return how many runs may go on at once, as far as dagster.yaml says it; ``None``: any."""
    home = Path(environment.get("DAGSTER_HOME", ""))
    if _home_problem(home, environment) is not None:
        return _OUR_RUNS
    settings: dict[str, Any] = dict(InstanceRef.from_dir(str(home)).settings)
    limits = (settings.get("concurrency") or {}).get("runs") or {}
    runs = int(limits.get("max_concurrent_runs", _DAGSTERS_RUNS))
    return None if runs < 0 else runs


def _home_problem(home: Path, environment: Mapping[str, str]) -> str | None:
    if not environment.get("DAGSTER_HOME"):
        return (
            "DAGSTER_HOME is not set: Dagster would keep its runs in a folder that it throws away. "
            "Run in the project's folder, or set it to .state/dagster"
        )
    if not home.is_absolute() or not home.is_dir():
        return f"DAGSTER_HOME={home} is not the whole path of a folder"
    if not (home / "dagster.yaml").exists():
        return (
            f"{home} has no dagster.yaml: Dagster would keep its runs in SQLite, without pools and "
            "run monitoring. Link the project's: `make up` does"
        )
    return None


def _same_file(home: Path, root: Path) -> Iterator[Finding]:
    ours, theirs = root / "dagster.yaml", home / "dagster.yaml"
    if ours.exists() and ours.read_bytes() != theirs.read_bytes():
        yield warning(
            "dagster home",
            f"{theirs} differs from {ours}: pools, run monitoring and retention may be others",
        )
    else:
        yield ok("dagster home", str(home))


def _daemons(instance: dg.DagsterInstance) -> Iterator[Finding]:
    now_s = time.time()
    silent = []
    for name, status in instance.get_daemon_statuses().items():
        beat = status.last_heartbeat
        if status.required and (beat is None or now_s - beat.timestamp > SILENT_S):
            silent.append(name)
        elif beat is not None and beat.errors:
            told = beat.errors[0].message.strip().splitlines()[0]
            yield warning("daemon", f"{name} reports an error: {told}")
    if silent:
        yield failed(
            "daemon",
            f"no sign of life for {SILENT_S} s from {', '.join(sorted(silent)).lower()}: "
            "launched runs stay queued, schedules and backfills stand still. Start it: `make up`, "
            "or dagster-daemon run",
        )
    else:
        yield ok("daemon", "alive")


def _monitoring(instance: dg.DagsterInstance) -> Iterator[Finding]:
    if not instance.run_monitoring_enabled:
        yield warning(
            "run monitoring",
            "is off: a killed run counts as running for ever. Set run_monitoring: enabled: true "
            "in dagster.yaml",
        )
    elif not instance.run_monitoring_settings.get("free_slots_after_run_end_seconds"):
        yield warning(
            "run monitoring",
            "a killed run keeps its place in the pool: set free_slots_after_run_end_seconds: 10",
        )
    else:
        yield ok("run monitoring", "on, places of killed runs are freed")


def _pool(instance: dg.DagsterInstance, found: Neighbours) -> Iterator[Finding]:
    config = instance.get_concurrency_config()
    limits = {each.name: each.limit for each in instance.event_log_storage.get_pool_limits()}
    places = limits.get(POOL, config.pool_config.default_pool_limit)
    if places is None:
        yield warning(
            "pool",
            f"{POOL!r} has no limit: any number of partitions embed at once. Set concurrency: "
            "pools: default_limit: 2 in dagster.yaml",
        )
        return
    yield from _share(found, places, config.run_queue_config)


def _share(found: Neighbours, places: int, queue: RunQueueConfig | None) -> Iterator[Finding]:
    """Say what one of the runs that embed side by side may take of the service."""
    runs = queue.max_concurrent_runs if queue is not None else -1
    beside = (
        f"{runs} runs at once"
        if runs >= 0
        else "runs without a limit: those beyond these places wait, with all their processes"
    )
    told = f"{places} partitions embed at once, {beside}"
    try:
        with found.embedding.open() as client:
            info = client.info()
            bounds = found.embedding.bounds(info)
    except EmbeddingError:
        # Told where the service is looked at.
        yield ok("pool", told)
        return
    share = info.max_queue_tokens // max(1, places)
    told += f"; each takes up to {share} of the {info.max_queue_tokens} tokens that may wait"
    tokens = found.chunking.settings(info).size
    if bounds.batch_size * tokens > share:
        yield warning(
            "pool",
            f"{told}: a request of {bounds.batch_size} texts of {tokens} tokens is more, and will "
            f"be split. Use batch_size {max(1, share // tokens)}, or fewer places",
        )
    else:
        yield ok("pool", told)
