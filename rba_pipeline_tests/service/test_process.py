"""The process: overload, departing callers, signals and breakdowns, each at a held batch."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from rba_pipeline_tests.service.callers import WAIT_S, Held, post, stats, until
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess


@pytest.mark.case("S4")
def test_a_full_queue_refuses_with_the_time_to_come_back(
    gated_service: ServiceProcess, gate: Path
) -> None:
    held = Held(gated_service, gate)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, gated_service, "w " * 55) for _ in range(2)]
        until(lambda: stats(gated_service)["queue_tokens"] == 2 * 58)

        refused = post(gated_service, "a few words too many")

        held.release()
        assert [future.result(WAIT_S).status_code for future in waiting] == [200, 200]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert held.status() == 200


def test_a_long_body_of_queries_is_let_in_while_only_documents_fill_their_lane(
    gated_service: ServiceProcess, gate: Path
) -> None:
    held = Held(gated_service, gate)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, gated_service, "w " * 57) for _ in range(2)]
        until(lambda: stats(gated_service)["queue_tokens"] == 120)

        queries = requests.post(
            f"{gated_service.url}/embeddings",
            data=json.dumps({"input": "q", "input_type": "query"}) + " " * 40_000,
            headers=gated_service.headers | {"X-Request-Timeout-Ms": "200"},
            timeout=WAIT_S,
        )

        held.release()
        assert [future.result(WAIT_S).status_code for future in waiting] == [200, 200]
    assert (queries.status_code, queries.json()["error"]["code"]) == (504, "deadline_passed")


@pytest.mark.case("S9")
def test_a_caller_who_hangs_up_is_not_computed(gated_service: ServiceProcess, gate: Path) -> None:
    held = Held(gated_service, gate)
    before = stats(gated_service)
    leaving = http.client.HTTPConnection("127.0.0.1", gated_service.port, timeout=WAIT_S)
    body = json.dumps({"input": ["gone", "gone too"]})
    leaving.request("POST", "/embeddings", body, gated_service.headers)
    until(lambda: stats(gated_service)["queue_tokens"] > 0)

    leaving.close()
    until(lambda: stats(gated_service)["dropped_texts"] == before["dropped_texts"] + 2)
    held.release()

    assert held.status() == 200
    assert stats(gated_service)["texts"] == before["texts"] + 1
    assert stats(gated_service)["queue_tokens"] == 0


@pytest.mark.case("S10")
def test_a_deadline_ends_the_wait_when_it_passes(gated_service: ServiceProcess, gate: Path) -> None:
    held = Held(gated_service, gate)

    late = post(gated_service, "late", **{"X-Request-Timeout-Ms": "50"})

    held.release()
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
    assert held.status() == 200


@pytest.mark.case("S11")
def test_sigterm_finishes_what_was_accepted_and_refuses_what_comes(
    gated_service: ServiceProcess, gate: Path
) -> None:
    held = Held(gated_service, gate)

    gated_service.terminate()
    ready = f"{gated_service.url}/ready"
    until(lambda: requests.get(ready, timeout=WAIT_S).status_code == 503)
    refused = post(gated_service, "new")
    held.release()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["Retry-After"]) >= 1
    assert held.status() == 200
    assert gated_service.wait() == 0


@pytest.mark.case("S11")
def test_a_second_sigterm_ends_at_once_and_still_answers(
    gated_service: ServiceProcess, gate: Path
) -> None:
    held = Held(gated_service, gate)
    gated_service.terminate()
    ready = f"{gated_service.url}/ready"
    until(lambda: requests.get(ready, timeout=WAIT_S).status_code == 503)

    gated_service.terminate()

    assert held.status() == 503
    assert gated_service.wait() == 0


@pytest.mark.case("S11")
def test_a_signal_in_its_last_moment_does_not_change_how_it_ends() -> None:
    with ServiceProcess(module=FAKE) as service:
        service.terminate()
        while handles_sigterm(service.pid):
            pass

        service.terminate()

        assert service.wait() == 0


def handles_sigterm(pid: int) -> bool:
    """Return False when a SIGTERM would end the process, or it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    handled = int(status.partition("SigCgt:")[2].split()[0], 16)
    return "State:\tZ" not in status and bool(handled >> (signal.SIGTERM - 1) & 1)


@pytest.mark.case("S11")
def test_draining_ends_after_its_time_even_when_the_model_hangs(gate: Path) -> None:
    env = {"FAKE_GATE": str(gate), "EMBEDDING_DRAIN_SECONDS": "0"}
    with ServiceProcess(env, module=FAKE) as service:
        held = Held(service, gate)

        service.terminate()

        assert held.status() == 503
        assert service.wait() == 0


@pytest.mark.case("S8")
def test_a_breakdown_answers_the_caller_and_ends_the_process(
    gated_service: ServiceProcess,
) -> None:
    answer = post(gated_service, "die")

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_failed")
    assert gated_service.wait() == 1


def test_a_taken_port_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        with pytest.raises(RuntimeError, match=f"EMBEDDING_PORT={port}: cannot listen"):
            ServiceProcess({"EMBEDDING_PORT": port}, module=FAKE).start()


def test_a_line_that_cannot_hold_the_longest_text_is_refused_at_the_start() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 2(.|\n)*expected at least 64"):
        ServiceProcess({"EMBEDDING_MAX_QUEUE_TOKENS": "63"}, module=FAKE).start()


def test_a_memory_limit_below_the_idle_service_is_refused_at_the_start() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 2(.|\n)*EMBEDDING_MAX_MEMORY=67108864"):
        ServiceProcess({"EMBEDDING_MAX_MEMORY": "64MiB"}, module=FAKE).start()


def test_a_closed_ready_descriptor_is_refused_before_anything_is_loaded() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "embedding_service", "--port", "0", "--ready-fd", "99"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert "--ready-fd=99: not an open file descriptor" in ended.stderr


def test_an_interrupt_from_the_keyboard_is_a_normal_end() -> None:
    with ServiceProcess(module=FAKE) as service:
        os.kill(service.pid, signal.SIGINT)

        assert service.wait() == 0


def test_help_names_every_setting() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "embedding_service", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip

    assert "EMBEDDING_MAX_QUEUE_TOKENS" in shown
    assert "--ready-fd" in shown
