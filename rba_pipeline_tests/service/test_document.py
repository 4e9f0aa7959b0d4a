"""What ``/openapi.json`` says is so: no answer of 500, none undocumented, none that never comes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests

from rba_pipeline_tests.service.callers import WAIT_S, post, ready_status
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess

CONFIG = Path(__file__).with_name("schemathesis.toml")


def document_of(service: ServiceProcess, model: str, dimensions: Sequence[int]) -> str:
    """The document is the same for all models; here it says what one of them is and gives."""
    url = f"{service.url}/openapi.json"
    found = requests.get(url, headers=service.headers, timeout=WAIT_S).json()
    for path in ("/embeddings", "/v1/embeddings"):
        body = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["schema"]["properties"]["model"] = {"enum": [model, "default", None]}
        body["schema"]["properties"]["dimensions"] = {"enum": [*dimensions, None]}
    return json.dumps(found)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("module", "model", "dimensions"),
    [
        pytest.param(FAKE, "fake", [4, 8], id="fake"),
        pytest.param(
            "embedding_service",
            "all-MiniLM-L6-v2",
            [384],
            id="minilm",
            marks=pytest.mark.model,
        ),
    ],
)
def test_hundreds_of_requests_made_from_the_document_are_answered_as_it_says(
    tmp_path: Path, module: str, model: str, dimensions: Sequence[int]
) -> None:
    """Schemathesis makes them, valid and invalid, the same ones each time."""
    limits = {"EMBEDDING_MAX_TEXTS": "100", "EMBEDDING_MAX_BODY_BYTES": "65536"}
    with ServiceProcess(limits, module=module) as service:
        document = tmp_path / "openapi.json"
        document.write_text(document_of(service, model, dimensions))
        tried = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
                *("run", str(document), "--url", service.url, "--no-color"),
                *("--header", f"Authorization: Bearer {service.key}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

        assert tried.returncode == 0, tried.stdout + tried.stderr
        assert "No issues found" in tried.stdout
        assert ready_status(service) == 200
        assert post(service, "next").status_code == 200
        assert "Traceback" not in service.log
