"""What ``docs/service.md`` says is what the service has: no name is missing, and none too many."""

import dataclasses
import inspect
import json
import re
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from embedding_service import connections, server
from embedding_service.api import errors
from embedding_service.api.answers import Limits
from embedding_service.api.memory import RequestMemory
from embedding_service.api.records import RequestRecord
from embedding_service.api.schemas import EmbeddingRequest
from embedding_service.api.security import OPEN_PATHS
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.service.callers import WAIT_S, post
from rba_pipeline_tests.service_process import ServiceProcess

GUIDE = (ROOT / "docs" / "service.md").read_text()
SOURCE = "".join(inspect.getsource(module) for module in (errors, connections))


def section(heading: str) -> str:
    return re.split(r"^## ", GUIDE.partition(f"\n## {heading}\n")[2], flags=re.M)[0]


def columns(heading: str) -> list[list[str]]:
    """Return the cells of the section's table, by column; not the names of the columns."""
    rows = [row.split("|") for row in re.findall(r"^\|(.*)\|$", section(heading), re.M)[2:]]
    return [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]


def names(cells: list[str]) -> list[str]:
    """Return all code in ``cells``."""
    return re.findall(r"`([^`]+)`", " ".join(cells))


@pytest.fixture(scope="module")
def document(fake_service: ServiceProcess) -> Any:
    return page(fake_service, "/openapi.json").json()


def page(service: ServiceProcess, path: str) -> requests.Response:
    return requests.get(service.url + path, headers=service.headers, timeout=WAIT_S)


def test_every_path_is_there_and_whether_it_needs_the_key(document: Any) -> None:
    path, key, _ = columns("Paths")
    keyless = [cell for cell, needed in zip(path, key, strict=True) if needed == "no"]

    assert {*names(path)} == {*document["paths"], "/openapi.json"}
    assert {*names(keyless)} == OPEN_PATHS


def test_every_field_of_a_request_is_there_and_the_example_works(
    fake_service: ServiceProcess,
) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", GUIDE, re.S)

    answer = requests.post(
        f"{fake_service.url}/embeddings",
        json=json.loads(example),
        headers=fake_service.headers,
        timeout=WAIT_S,
    )

    assert answer.status_code == 200, answer.text
    assert {*names(columns("Requests")[0])} == {*EmbeddingRequest.model_fields}


def test_every_header_is_there(document: Any) -> None:
    operation = document["paths"]["/embeddings"]["post"]
    asked = {each["name"] for each in operation["parameters"]}
    answered = {name for of in operation["responses"].values() for name in of["headers"]}

    assert {*names(columns("Headers")[0])} == asked | answered


def test_every_error_is_there_with_its_status() -> None:
    status, code, _ = columns("Errors")
    raised = {(str(number), kind.code) for kind, number in errors.STATUS.items()}
    # What is refused before and behind our routes stands in the code where it is refused.
    refused = re.findall(r'(\d{3})[:,] (?:{"code": )?"(\w+)"', SOURCE)

    assert {*zip(status, names(code), strict=True)} == raised | {*refused}


def test_every_limit_is_there() -> None:
    assert {*names(columns("Limits")[0])} == {field.name for field in dataclasses.fields(Limits)}


def test_every_figure_is_there_with_its_labels(fake_service: ServiceProcess) -> None:
    name, labels, _ = columns("Figures")
    said = {
        each: {*filter(None, of.split(", "))}
        for cell, of in zip(name, labels, strict=True)
        for each in names([cell])
    }
    # Some have no labels before there was something to count.
    assert post(fake_service, " ").status_code == 422

    shown = page(fake_service, "/metrics").text

    assert said == {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in text_string_to_metric_families(shown)
        # Since when the library's own ones count is nothing that we say.
        if family.name.startswith("embedding_") and not family.name.endswith("_created")
    }


def test_every_field_of_the_log_is_there() -> None:
    record = RequestRecord("an-id", "POST", "/", "/", RequestMemory(1).holding())

    assert names([section("Log")]) == ["EMBEDDING_LOG_FORMAT", "request", *record.fields()]


def test_every_exit_code_is_there() -> None:
    ended = (server.EXIT_STOPPED, server.EXIT_BROKEN, server.EXIT_REFUSED)

    assert columns("Stopping")[0] == [str(code) for code in ended]
