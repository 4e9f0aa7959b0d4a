"""The document at ``/openapi.json`` is true: its examples work, and answers are as it says."""

from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator

from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20
EXAMPLES = ["one", "several", "search", "openai"]


@pytest.fixture(scope="module")
def document(fake_service: ServiceProcess) -> Any:
    return ask(fake_service, "GET", "/openapi.json").json()


def ask(service: ServiceProcess, method: str, path: str, **more: Any) -> requests.Response:
    return requests.request(
        method, service.url + path, headers=service.headers, timeout=WAIT_S, **more
    )


def body_is_as_documented(document: Any, path: str, answer: requests.Response) -> bool:
    """Check one answer's status, headers, media type and body; raise if one is not as it should."""
    said = document["paths"][path][answer.request.method.lower()]["responses"]
    found = said[str(answer.status_code)]
    assert set(map(str.lower, found.get("headers", {}))) <= set(map(str.lower, answer.headers))
    media_type = answer.headers["Content-Type"].partition(";")[0]
    schema = found["content"][media_type]["schema"]
    if media_type == "application/json":
        whole = schema | {"components": document["components"]}
        Draft202012Validator(whole).validate(answer.json())
    return True


def schema_of(document: Any, path: str) -> dict[str, Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema: dict[str, Any] = content["schema"]
    return schema


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_of_a_request_is_answered_as_documented(
    fake_service: ServiceProcess, document: Any, path: str, name: str
) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert set(content["examples"]) == set(EXAMPLES)
    example = content["examples"][name]["value"]

    answer = ask(fake_service, "POST", path, json=example)

    Draft202012Validator(schema_of(document, path)).validate(example)
    assert answer.status_code == 200
    assert body_is_as_documented(document, path, answer)


@pytest.mark.parametrize(
    "path", ["/live", "/ready", "/health", "/info", "/tokenizer.json", "/metrics"]
)
def test_every_other_path_answers_as_documented(
    fake_service: ServiceProcess, document: Any, path: str
) -> None:
    answer = ask(fake_service, "GET", path)

    assert answer.status_code == 200
    assert body_is_as_documented(document, path, answer)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"input": "a poison b"}', id="500"),
        pytest.param(b'{"input": " "}', id="422"),
        pytest.param(b"x" * 70_000, id="413"),
    ],
)
def test_an_error_answers_as_documented(
    fake_service: ServiceProcess, document: Any, body: bytes
) -> None:
    answer = ask(fake_service, "POST", "/embeddings", data=body)

    assert body_is_as_documented(document, "/embeddings", answer)


def test_the_examples_of_answers_have_their_own_shape(document: Any) -> None:
    checked = 0
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    if "example" in content:
                        whole = content["schema"] | {"components": document["components"]}
                        Draft202012Validator(whole).validate(content["example"])
                        checked += 1
    assert checked > 20


def test_every_path_that_needs_the_key_says_so(fake_service: ServiceProcess, document: Any) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            status = requests.request(method, fake_service.url + path, timeout=WAIT_S).status_code
            assert (status == 401) == ("security" in operation) == ("401" in operation["responses"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/embeddings"), ("POST", "/info")])
def test_another_method_is_refused_with_the_allowed_one(
    fake_service: ServiceProcess, method: str, path: str
) -> None:
    answer = ask(fake_service, method, path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == ("POST" if method == "GET" else "GET")
