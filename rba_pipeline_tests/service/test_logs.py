"""One line of log for each request, in either form, and nothing secret in it."""

import http.client
import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from embedding_service.logs import formatter
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20
SECRET = "Unpublished-board-minutes"


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    env = {"EMBEDDING_LOG_FORMAT": "json"}
    with ServiceProcess(env, module=FAKE) as service:
        yield service


def post(service: ServiceProcess, text: str, **headers: str) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings",
        json={"input": [text, "a"]},
        headers=service.headers | headers,
        timeout=WAIT_S,
    )


def events(service: ServiceProcess, request_id: str) -> list[dict[str, Any]]:
    """Return the lines that concern one request; every line of the log must be JSON."""
    # A request's line is written when its answer has been sent: before the next one is begun.
    requests.get(f"{service.url}/live", timeout=WAIT_S)
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    return [
        line for line in lines
        if request_id in [line.get("request_id"), *line.get("request_ids", [])]
    ]  # fmt: skip


def test_a_request_leaves_one_line_that_says_what_became_of_it(service: ServiceProcess) -> None:
    post(service, "one two three", **{"X-Request-Id": "batch-7"})

    [line] = events(service, "batch-7")
    assert (line["event"], line["method"], line["path"]) == ("request", "POST", "/embeddings")
    assert (line["level"], line["status"], line["texts"], line["tokens"]) == ("INFO", 200, 2, 10)
    assert min(line["wait_s"], line["compute_s"]) >= 0
    assert line["duration_s"] >= line["compute_s"]
    assert line["bytes"] > len("one two three")
    assert line["time"].endswith("+00:00")


def test_a_path_in_other_characters_is_the_same_path(service: ServiceProcess) -> None:
    # The other library would send it decoded.
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_S)
    headers = service.headers | {"X-Request-Id": "percent"}
    line.request("POST", "/%65mbeddings", json.dumps({"input": "a"}), headers)
    status = line.getresponse().status
    line.close()

    [logged] = events(service, "percent")
    assert (status, logged["event"], logged["path"]) == (200, "request", "/%65mbeddings")


def test_what_never_became_a_request_is_logged_with_the_id_that_it_was_answered_with(
    service: ServiceProcess,
) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_S) as line:
        line.sendall(b"no HTTP at all\r\n\r\n")
        head = line.makefile("rb").read().decode()
    request_id = re.search("x-request-id: (.*)\r", head)
    assert request_id is not None

    [refusal] = events(service, request_id[1])
    assert (refusal["event"], refusal["status"], refusal["code"]) == ("refused", 400, "bad_request")


def test_a_refused_request_is_logged_with_its_code(service: ServiceProcess) -> None:
    post(service, " ", **{"X-Request-Id": "empty"})
    post(service, "a", **{"X-Request-Id": "stranger", "Authorization": "Bearer no"})

    lines = events(service, "empty") + events(service, "stranger")
    found = [(line["status"], line["code"]) for line in lines]
    assert found == [(422, "text_empty"), (401, "not_allowed")]


def test_a_failed_batch_names_the_requests_that_were_in_it(service: ServiceProcess) -> None:
    post(service, "a poison b", **{"X-Request-Id": "unlucky"})

    [failure, request] = events(service, "unlucky")
    assert (failure["event"], failure["level"]) == ("a batch of 2 texts failed", "ERROR")
    assert "a poisoned batch" in failure["exc_info"]
    assert (request["status"], request["code"]) == (500, "model_failed")


def test_no_text_and_no_key_is_ever_logged(service: ServiceProcess) -> None:
    post(service, SECRET)
    post(service, f"{SECRET} poison")
    post(service, f"{SECRET} " * 100)
    requests.post(
        f"{service.url}/embeddings?key={SECRET}",
        data=f'{{"{SECRET}": 1, "input": ["{SECRET}"',
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=WAIT_S,
    )

    assert SECRET not in service.log
    assert service.key not in service.log


def test_a_warning_is_a_line_like_the_others() -> None:
    warn = "import logging, warnings; from embedding_service.logs import configure; "
    warn += "configure('json'); warnings.warn('old\\nnew')"
    warned = subprocess.run([sys.executable, "-c", warn], capture_output=True, timeout=WAIT_S)

    [line] = map(json.loads, warned.stderr.splitlines())
    assert line["level"] == "WARNING"
    assert "old\nnew" in line["event"]


def record(**fields: Any) -> logging.LogRecord:
    made = {"name": "x", "levelname": "INFO", "msg": "request", "created": 0.0, **fields}
    return logging.makeLogRecord(made)


def test_a_readable_line_has_the_same_fields() -> None:
    line = formatter("text").format(record(status=200, code=None, request_ids=["a", "b"]))

    assert line.endswith(" INFO request status=200 request_ids=a,b")


def test_a_line_of_json_leaves_out_what_is_not_known() -> None:
    line = json.loads(formatter("json").format(record(status=200, code=None)))

    assert line == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "INFO",
        "event": "request",
        "status": 200,
    }
