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
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service.fake_service import PROMPTS
from rba_pipeline_tests.service_process import ServiceProcess

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long


@pytest.fixture
def service(project: Installation, gate: Path) -> Iterator[ServiceProcess]:
    """Have the real server around a fake model in the oracle's place, and a text that it holds."""
    # The longest are sent first: sixty-four, the one that is held, and sixteen more.
    for name, first, words, count in (("H", "hold ", 9, 1), ("L", "", 8, 16)):
        paragraphs = [
            first + " ".join(f"figure {name}-{place}-{at} of wheat" for at in range(words)) + "."
            for place in range(count)
        ]
        project.add(f"{name}.html", title=name, day="5 May 2011", paragraphs=paragraphs)
    env = {"EMBEDDING_API_KEY": KEY, "FAKE_GATE": str(gate), "FAKE_MAX_TOKENS": "64"}
    with ServiceProcess(env, module=FAKE) as running:
        project.environment |= {
            "EMBEDDING_API_URL": running.url,
            "EMBEDDING_API_TIMEOUT": "2",
            "RBA_CHUNK_TOKENS": "64",
        }
        yield running


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
        given_up, deadline = threading.Event(), time.monotonic() + RUN_S
        while not is_given_up():
            assert time.monotonic() < deadline
            given_up.wait(0.05)
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
