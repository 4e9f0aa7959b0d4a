"""Runs side by side share what the service admits, and do not refuse each other."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dagster as dg
import pytest

from rba_pipeline.core.embeddings import CANARY, Text
from rba_pipeline.core.run_costs import Way
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.pools import POOL, side_by_side, steps_at_once
from rba_pipeline_tests.oracle_service import OracleService, Reply, oracle_vector
from rba_pipeline_tests.resources.embedding_streams import PATIENCE_S, embedding
from rba_pipeline_tests.resources.sample_records import sha256

# Four requests of four texts may be open, two of each run.
RUNS, TOKENS, ADMITTED = 2, 5, 80


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        pytest.param(2, None, 2, id="the-default-of-dagster.yaml"),
        pytest.param(2, 5, 5, id="its-own"),
        pytest.param(None, None, 1, id="none"),
    ],
)
def test_the_limit_of_the_pool_is_known(
    default: int | None, own: int | None, expected: int
) -> None:
    pools = {} if default is None else {"concurrency": {"pools": {"default_limit": default}}}
    with dg.instance_for_test(overrides=pools) as instance:
        if own is not None:
            instance.event_log_storage.set_concurrency_slots(POOL, own)

        assert steps_at_once(instance) == expected


@pytest.mark.parametrize(
    ("limits", "runs"),
    [
        pytest.param({"runs": {"max_concurrent_runs": 4}}, 4, id="as-in-dagster.yaml"),
        pytest.param({"runs": {"max_concurrent_runs": -1}}, None, id="unlimited"),
    ],
)
def test_a_backfill_runs_as_many_at_once_as_the_queue_lets_out(
    limits: dict[str, dict[str, int]], runs: int | None
) -> None:
    pools = {"pools": {"default_limit": 2}}
    with dg.instance_for_test(overrides={"concurrency": limits | pools}) as instance:
        beside = side_by_side(instance, Way.PROCESSES)
        alone = side_by_side(instance, Way.ONE_PROCESS)

    assert (beside.runs, beside.embedding) == (runs, 2)
    assert str(alone) == "one run after the other"
    assert beside.cores == alone.cores >= 1


def test_as_many_runs_as_the_pool_lets_in_are_never_refused(oracle: OracleService) -> None:
    lock, arrived = threading.Condition(), Counter[str]()
    open_tokens, refusals = 0, 0

    def admit(number: int, sent: list[str]) -> Reply | None:
        nonlocal open_tokens, refusals
        tokens, run = TOKENS * len(sent), sent[0].split()[0]
        with lock:
            arrived[run] += 1
            lock.notify_all()
            if open_tokens + tokens > ADMITTED:
                refusals += 1
                return Reply.error(429, "queue_full", Retry_After="0.01")
            open_tokens += tokens
            # The share of each run is two requests: all of them are open at once.
            lock.wait_for(lambda: min(arrived["first"], arrived["second"]) >= 2, PATIENCE_S)
            open_tokens -= tokens
        return None

    def embed(run: str) -> int:
        resource = embedding(oracle, batch=4, parallel=8)
        wanted = [Text(sha256(text), text, TOKENS) for text in (f"{run} {n}" for n in range(40))]
        with resource.open():
            parts = resource.embed_stream(
                wanted,
                total=len(wanted),
                info=replace(resource.handshake(), max_queue_tokens=ADMITTED),
                canary=oracle_vector(CANARY),
                traffic=Traffic(),
                on_progress=lambda so_far: None,
                runs_at_once=RUNS,
            )
            return sum(len(part.text_hashes) for part in parts)

    oracle.script = admit
    with ThreadPoolExecutor(RUNS) as runs:
        first = runs.submit(embed, "first")
        with lock:
            assert lock.wait_for(lambda: arrived["first"] >= 2, PATIENCE_S)
        second = runs.submit(embed, "second")

    assert (first.result(), second.result(), refusals) == (40, 40, 0)
