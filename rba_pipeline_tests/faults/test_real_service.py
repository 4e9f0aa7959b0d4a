"""C1, C3 and C7 with a process of the real service: killed, stopped or told to end in a batch."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from embedding_service.backend.fake import FakeBackend
from rba_pipeline_tests.faults.conftest import BATCH, PARALLEL, PARTITION
from rba_pipeline_tests.faults.invariants import (
    check_message,
    check_nothing_is_left_over,
    check_what_is_kept,
)
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import KEY
from rba_pipeline_tests.service.callers import stats
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service.fake_service import PROMPTS
from rba_pipeline_tests.service_process import ServiceProcess

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long

ENV = {"EMBEDDING_API_KEY": KEY, "FAKE_MAX_TOKENS": "64"}


@pytest.fixture
def service(project: Installation, gate: Path) -> Iterator[ServiceProcess]:
    """Have the real server around a fake model in the oracle's place, and a text that it holds."""
    # The longest are sent first: sixty-four, the one that is held, and sixteen more.
    add(project, "H", 1, "hold", words=9)
    add(project, "L", 16, words=8)
    with ServiceProcess(ENV | {"FAKE_GATE": str(gate)}, module=FAKE) as running:
        project.environment |= {"EMBEDDING_API_URL": running.url, "EMBEDDING_API_TIMEOUT": "2"}
        yield running


def add(project: Installation, name: str, count: int, first: str = "", *, words: int) -> None:
    paragraphs = [
        f"{first} " + " ".join(f"figure {name}-{place}-{at} of wheat" for at in range(words)) + "."
        for place in range(count)
    ]
    project.environment["RBA_CHUNK_TOKENS"] = "64"
    project.add(f"{name}.html", title=name, day="5 May 2011", paragraphs=paragraphs)


def until(claim: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + RUN_S
    while not claim():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def vector(text: str) -> NDArray[np.float32]:
    model = FakeBackend(prompts=PROMPTS)
    return model.vector(model.tokenise([text], "document")[0])


def is_killed(service: ServiceProcess, let_go: Callable[[], None]) -> None:
    service.kill()
    let_go()
    service.start({"EMBEDDING_PORT": str(service.port)})


def stands_still(service: ServiceProcess, let_go: Callable[[], None]) -> None:
    def is_given_up() -> bool:
        connections = psutil.Process(service.pid).net_connections()
        return any(each.status == psutil.CONN_CLOSE_WAIT for each in connections)

    os.kill(service.pid, signal.SIGSTOP)
    try:
        let_go()
        until(is_given_up)
    finally:
        os.kill(service.pid, signal.SIGCONT)


def drains_and_ends(service: ServiceProcess, let_go: Callable[[], None]) -> None:
    service.terminate()
    let_go()
    assert service.wait() == 0
    service.start({"EMBEDDING_PORT": str(service.port)})


@pytest.mark.case("O16")
@pytest.mark.parametrize(
    "what_happens",
    [
        pytest.param(is_killed, id="C1-killed"),
        pytest.param(stands_still, id="C3-stopped", marks=LONG),
        pytest.param(drains_and_ends, id="C7-drained", marks=LONG),
    ],
)
def test_a_real_service_comes_back_amid_a_batch_and_nothing_is_lost(
    project: Installation,
    service: ServiceProcess,
    gate: Path,
    what_happens: Callable[[ServiceProcess, Callable[[], None]], None],
) -> None:
    def strike() -> None:
        with gate.open("wb") as held:
            # From here on the gate stands open, also for the same text sent again.
            gate.unlink()
            gate.touch()
            what_happens(service, held.close)

    with ThreadPoolExecutor(1) as beside:
        struck = beside.submit(strike)
        results = project.run(PARTITION)
        struck.result(RUN_S)

    assert failures(results) == []
    said = results[0].metadata["embeddings"]
    assert (said["texts"], said["embedded"]) == (81, 81)
    assert 0 < said["texts_sent"] - 81 <= 2 * BATCH * PARALLEL
    check_what_is_kept(project, results, vector=vector)
    check_nothing_is_left_over(project)
    check_message(service.log)


@pytest.mark.case("C1")
@LONG
def test_of_two_real_services_one_is_killed_and_brought_back_and_both_are_used_at_the_end(
    project: Installation,
) -> None:
    # Each pass takes a tenth of a second: the one that was away is back before the end.
    add(project, "W", 2000, "labour", words=8)
    with ServiceProcess(ENV, module=FAKE) as one, ServiceProcess(ENV, module=FAKE) as other:
        project.environment["EMBEDDING_API_URL"] = f"{one.url},{other.url}"

        def strike() -> None:
            until(lambda: stats(other)["texts"] >= 100)
            other.kill()
            other.start({"EMBEDDING_PORT": str(other.port)})

        with ThreadPoolExecutor(1) as beside:
            struck = beside.submit(strike)
            results = project.run(PARTITION)
            struck.result(RUN_S)
        since_it_was_back = stats(other)["texts"]

    assert failures(results) == []
    said = results[0].metadata["embeddings"]
    assert (said["texts"], said["embedded"]) == (2064, 2064)
    assert 0 < said["texts_sent"] - 2064 <= BATCH * PARALLEL
    assert set(said["texts_by_address"]) == {one.url, other.url}
    assert since_it_was_back >= 100
    check_what_is_kept(project, results, vector=vector)
    check_nothing_is_left_over(project)
