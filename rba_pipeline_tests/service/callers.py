"""Callers of a service under test: who ask, who stay inside the model, and who wait for a claim."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20


def post(service: ServiceProcess, text: str, **headers: str) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings",
        json={"input": text},
        headers=service.headers | headers,
        timeout=WAIT_S,
    )


def until(claim: Callable[[], bool]) -> None:
    """Ask the service again and again; every question is a round trip, so nothing spins."""
    deadline = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"


def stats(service: ServiceProcess) -> dict[str, Any]:
    answer = requests.get(f"{service.url}/health", headers=service.headers, timeout=WAIT_S)
    found: dict[str, Any] = answer.json()["stats"]
    return found


def ready_status(service: ServiceProcess) -> int:
    return requests.get(f"{service.url}/ready", timeout=WAIT_S).status_code


class Held:
    """A request whose batch stays in the model until ``release``."""

    def __init__(self, service: ServiceProcess, gate: Path) -> None:
        self._pool = ThreadPoolExecutor(1)
        self.answer: Future[requests.Response] = self._pool.submit(post, service, "hold")
        # Returns when the model has the batch.
        self._gate = gate.open("wb")

    def release(self) -> None:
        self._gate.close()

    def status(self) -> int:
        return self.answer.result(WAIT_S).status_code
