"""S4 where the kernel refuses memory that nobody foresaw, and of texts that are only tokenised."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from embedding_service.engine.admission import tokenising_bytes
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.service.callers import ready_status
from rba_pipeline_tests.service.memory import address_space_bytes, peak_bytes
from rba_pipeline_tests.service_process import ServiceProcess

pytestmark = [
    pytest.mark.model,
    pytest.mark.long,
    pytest.mark.case("S4"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no such limit is kept"),
]

RUNTIMES = ["torch", "openvino"]
MIB = 2**20


def served(folder: Path, runtime: str) -> dict[str, str]:
    """Return settings for texts of up to 8,192 tokens, as many in one pass as there are."""
    return {
        "EMBEDDING_MODEL": str(folder),
        "EMBEDDING_RUNTIME": runtime,
        "EMBEDDING_PRECISION": "fp32",
        "EMBEDDING_MAX_SEQ_LENGTH": "8192",
        "EMBEDDING_MAX_BATCH_TOKENS": str(2**20),
    }


def embedded(service: ServiceProcess, texts: list[str]) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings", json={"input": texts}, headers=service.headers, timeout=100
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_pass_that_gets_no_memory_is_told_apart_and_the_next_one_works(
    nomic_folder: Path, runtime: str
) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "rba_pipeline_tests.service.out_of_memory"],
        env=os.environ | served(nomic_folder, runtime),
        cwd=ROOT, capture_output=True, check=True, text=True, timeout=100,
    ).stdout  # fmt: skip

    raised, delta = said.split()
    assert raised == "MemoryError"
    assert float(delta) <= 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_texts_whose_pass_gets_no_memory_are_computed_in_smaller_ones(
    nomic_folder: Path, runtime: str
) -> None:
    with ServiceProcess(served(nomic_folder, runtime)) as service:
        limit = address_space_bytes(service.pid) + 400 * MIB
        # The guard was built before, and so knows nothing of it.
        resource.prlimit(service.pid, resource.RLIMIT_AS, (limit, limit))

        answer = embedded(service, ["rate " * 8000] * 12)

        assert answer.status_code == 200, answer.text
        assert ready_status(service) == 200
        log = service.log
    assert "a pass did not fit into memory" in log


def test_texts_that_are_refused_take_no_more_than_is_set_aside(nomic_folder: Path) -> None:
    """Of 262,000 characters each is a token, so that only the tokenizer finds them too long."""
    env = {
        **served(nomic_folder, "torch"),
        # Eight threads for long bodies.
        "EMBEDDING_THREADS": "16",
        "EMBEDDING_MAX_BODY_BYTES": str(MIB),
        "EMBEDDING_MAX_REQUEST_MEMORY": str(16 * MIB),
    }
    with ServiceProcess(env) as service, ThreadPoolExecutor(8) as threads:
        before = peak_bytes(service.pid)

        answers = list(threads.map(lambda _: embedded(service, ["." * 262_000]), range(16)))

        taken = peak_bytes(service.pid) - before
    assert {answer.status_code for answer in answers} == {422}
    assert taken <= 16 * MIB + tokenising_bytes(10, 8192)
