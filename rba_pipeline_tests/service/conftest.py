"""Services that several tests may talk to, each started once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from filelock import FileLock

from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.service_process import ServiceProcess

FAKE = "rba_pipeline_tests.service.fake_service"

Post = Callable[..., requests.Response]


@pytest.fixture(scope="session")
def fake_service() -> Iterator[ServiceProcess]:
    """The real server around a fake model that takes 64 tokens; nobody may stop it."""
    limits = {"EMBEDDING_MAX_TEXTS": "100", "EMBEDDING_MAX_BODY_BYTES": "65536"}
    with ServiceProcess(limits, module=FAKE) as service:
        yield service


@pytest.fixture
def gated_service(gate: Path) -> Iterator[ServiceProcess]:
    """A fake service of this test's own, with room for 120 tokens in its line."""
    env = {"FAKE_GATE": str(gate), "EMBEDDING_MAX_QUEUE_TOKENS": "120"}
    with ServiceProcess(env, module=FAKE) as service:
        yield service
        service.kill()


@pytest.fixture(scope="session")
def minilm() -> Iterator[ServiceProcess]:
    """The default model on the default runtime, in fp32; nobody may stop it."""
    with ServiceProcess({"EMBEDDING_PRECISION": "fp32"}) as service:
        yield service


@pytest.fixture(scope="session")
def nomic_folder(shared_folder: Path) -> Path:
    """A tiny model of nomic's shape, made by the script that makes the full one.

    Once per test run, for all its workers. Two layers: a pass takes a few milliseconds.
    """
    folder = shared_folder / "tiny-nomic"
    size = ["--layers", "2", "--width", "128"]
    with FileLock(shared_folder / "tiny-nomic.lock", timeout=100):
        if not folder.exists():
            half = folder.with_suffix(".half")
            subprocess.run(
                [sys.executable, "-m", "benchmarks.nomic_shaped_model", "--out", half, *size],
                cwd=ROOT, check=True, timeout=100,
            )  # fmt: skip
            half.rename(folder)
    return folder


@pytest.fixture(scope="session")
def nomic(nomic_folder: Path) -> Iterator[ServiceProcess]:
    """The tiny model on torch, its log in JSON; nobody may stop it."""
    on_torch = {"EMBEDDING_RUNTIME": "torch", "EMBEDDING_PRECISION": "fp32"}
    env = {"EMBEDDING_MODEL": str(nomic_folder), "EMBEDDING_LOG_FORMAT": "json", **on_torch}
    with ServiceProcess(env) as service:
        yield service
