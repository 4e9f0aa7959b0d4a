"""The contract as a property test: random batches, eight callers, texts of all lengths.

S1 and S3 of the service's faults, on both runtimes and in every precision of this machine, by the
operator's own command. That it sees a model that breaks the contract is shown in ``test_check``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_service.backend.openvino import capabilities

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("batches", [60, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        pytest.param("torch", "fp32", id="torch-fp32", marks=pytest.mark.long),
        pytest.param("openvino", "fp32", id="openvino-fp32", marks=pytest.mark.long),
        pytest.param("openvino", "bf16", id="openvino-bf16"),
        pytest.param("openvino", "int8", id="openvino-int8", marks=pytest.mark.long),
    ],
)
def test_a_vector_depends_on_nothing_but_its_text(
    nomic_folder: Path, runtime: str, precision: str, batches: int
) -> None:
    """Max |delta| 1e-5 in fp32, cosine 0.9999 in bf16 and int8: the contract's own bounds."""
    settings = {
        "MODEL": str(nomic_folder),
        "RUNTIME": runtime,
        "PRECISION": precision,
        # Far beyond what the model was trained for, which is a path of its own.
        "MAX_SEQ_LENGTH": "8192",
        "MAX_BATCH_TOKENS": "768",
        "SERVER_BATCH_SIZE": "8",
    }

    checked = subprocess.run(
        [sys.executable, "-m", "embedding_service", "check", "--batches", str(batches)],
        env=os.environ | {f"EMBEDDING_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    if precision == "bf16" and "BF16" not in capabilities():
        # A processor without the instructions: nothing may be served in this precision here.
        assert checked.returncode == 2
        assert f"EMBEDDING_PRECISION={precision}: openvino on this cpu computes" in checked.stderr
        return
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = {line[:14].rstrip(): line[14:] for line in checked.stdout.splitlines()}
    assert int(found["compositions"]) >= batches
    # Two at a time, once in twenty batches.
    assert int(found["long texts"]) >= 2 * batches // 20
    assert found["result"] == "passed"
