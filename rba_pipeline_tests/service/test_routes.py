"""The paths of the service, asked over a socket; the model behind them is a fake."""

import base64
import gzip
import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
from tokenizers import Tokenizer

from embedding_service.backend.base import Prompts
from embedding_service.backend.fake import FakeBackend
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20
MODEL = FakeBackend(dimensions=8, prompts=Prompts(document="document: ", query="query: "))


def post(service: ServiceProcess, body: Any, **headers: str) -> requests.Response:
    kind = {"json": body} if isinstance(body, dict) else {"data": body}
    return requests.post(
        f"{service.url}/embeddings", headers=service.headers | headers, timeout=WAIT_S, **kind
    )


def float32(values: Any) -> Any:
    return np.array(values, dtype=np.float32)


def get(service: ServiceProcess, path: str) -> Any:
    answer = requests.get(service.url + path, headers=service.headers, timeout=WAIT_S)
    assert answer.status_code == 200
    return answer.json()


def expected(text: str, input_type: Any = "document") -> list[float]:
    vector: list[float] = MODEL.vector(MODEL.tokenise([text], input_type)[0]).tolist()
    return vector


def test_an_answer_has_the_shape_that_openai_gives_and_more(fake_service: ServiceProcess) -> None:
    answer = post(fake_service, {"input": ["one two", "three"]})

    body = answer.json()
    assert (body["object"], body["model"]) == ("list", "fake")
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert [item["tokens"] for item in body["data"]] == [5, 4]
    assert [item["truncated"] for item in body["data"]] == [False, False]
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert body["space"] == MODEL.space.id
    assert float(answer.headers["X-Wait-Seconds"]) >= 0
    assert float(answer.headers["X-Compute-Seconds"]) >= 0
    assert int(answer.headers["X-Queue-Tokens"]) >= 0
    assert float(answer.headers["X-Tokens-Per-Second"]) > 0


@pytest.mark.parametrize("input_type", ["document", "query", "raw"])
def test_the_prompt_follows_the_input_type(fake_service: ServiceProcess, input_type: str) -> None:
    body = post(fake_service, {"input": "a text", "input_type": input_type}).json()

    vector = body["data"][0]["embedding"]
    assert np.array_equal(float32(vector), float32(expected("a text", input_type)))


def test_base64_is_little_endian_float32(fake_service: ServiceProcess) -> None:
    body = post(fake_service, {"input": ["x", "y"], "encoding_format": "base64"}).json()

    vectors = [base64.b64decode(item["embedding"]) for item in body["data"]]
    assert [np.frombuffer(v, dtype="<f4").tolist() for v in vectors] == [
        float32(expected("x")).tolist(),
        float32(expected("y")).tolist(),
    ]


def test_a_cut_vector_is_of_unit_length_in_a_space_of_its_own(fake_service: ServiceProcess) -> None:
    body = post(fake_service, {"input": "x", "dimensions": 4}).json()

    vector = np.array(body["data"][0]["embedding"])
    assert vector.shape == (4,)
    assert abs(np.linalg.norm(vector) - 1) < 1e-6
    assert body["space"] == MODEL.space.cut_to(4).id


def test_a_long_text_is_cut_when_asked_and_it_is_said(fake_service: ServiceProcess) -> None:
    body = post(fake_service, {"input": ["w " * 100, "w"], "truncate": True}).json()

    assert [(item["tokens"], item["truncated"]) for item in body["data"]] == [
        (64, True),
        (4, False),
    ]


def test_a_hundred_texts_keep_their_order(fake_service: ServiceProcess) -> None:
    texts = [f"text {'very ' * (i * 7 % 40)}{i}" for i in range(100)]

    body = post(fake_service, {"input": texts}).json()

    vectors = float32([item["embedding"] for item in body["data"]])
    assert np.array_equal(vectors, float32([expected(text) for text in texts]))


@pytest.mark.parametrize("model", ["fake", "default"])
def test_the_model_may_be_named(fake_service: ServiceProcess, model: str) -> None:
    assert post(fake_service, {"input": "x", "model": model, "user": "someone"}).status_code == 200


SECRET = "Unpublished-board-minutes"


@pytest.mark.case("S14")
@pytest.mark.parametrize(
    ("body", "status", "code", "index"),
    [
        pytest.param({"input": ["a", f"{SECRET} " * 80]}, 422, "text_too_long", 1, id="too-long"),
        pytest.param({"input": ["a", " "]}, 422, "text_empty", 1, id="empty"),
        pytest.param({"input": ""}, 422, "text_empty", 0, id="empty-single"),
        pytest.param({"input": [SECRET, 5]}, 422, "text_invalid", 1, id="number"),
        pytest.param({"input": [[1, 2]]}, 422, "text_invalid", 0, id="token-ids"),
        pytest.param(b'{"input": ["a", "\\ud800"]}', 422, "text_invalid", 1, id="lone-surrogate"),
        pytest.param({"input": []}, 422, "bad_request", None, id="no-texts"),
        pytest.param({}, 422, "bad_request", None, id="no-input"),
        pytest.param({"input": None}, 422, "bad_request", None, id="null"),
        pytest.param({"input": "a", "model": "other"}, 422, "bad_request", None, id="model"),
        pytest.param({"input": "a", "dimensions": 5}, 422, "bad_request", None, id="dimensions"),
        pytest.param({"input": "a", "truncate": "no"}, 422, "bad_request", None, id="truncate"),
        pytest.param({"input": "a", "encoding_format": "hex"}, 422, "bad_request", None, id="hex"),
        pytest.param({"input": "a", "input_type": "x"}, 422, "bad_request", None, id="input-type"),
        pytest.param({"input": "a", "truncat": True}, 422, "bad_request", None, id="misspelt"),
        pytest.param(b'{"input": [NaN]}', 422, "bad_request", None, id="not-a-number"),
        pytest.param(b'{"input": "\xff"}', 422, "bad_request", None, id="not-utf-8"),
        pytest.param(b'{"input": "a", "input": "b"}', 422, "bad_request", None, id="twice"),
        pytest.param(b"[" * 60_000, 422, "bad_request", None, id="deeply-nested"),
        pytest.param(b"9" * 60_000, 422, "bad_request", None, id="a-long-number"),
        pytest.param(b"[1]", 422, "bad_request", None, id="not-an-object"),
        pytest.param(b"", 422, "bad_request", None, id="no-body"),
        pytest.param({"input": ["a"] * 101}, 413, "too_large", None, id="too-many-texts"),
        pytest.param({"input": "a" * 70_000}, 413, "too_large", None, id="body-too-large"),
        pytest.param({"input": "a poison b"}, 500, "model_failed", None, id="model-fails"),
    ],
)
def test_a_refusal_says_why_and_repeats_no_text(
    fake_service: ServiceProcess, body: Any, status: int, code: str, index: int | None
) -> None:
    answer = post(fake_service, body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("index")) == (status, code, index)
    assert error["message"]
    assert SECRET not in answer.text
    assert fake_service.key not in answer.text
    assert post(fake_service, {"input": "next"}).status_code == 200


@pytest.mark.case("S12")
def test_a_compressed_body_is_refused_for_that(fake_service: ServiceProcess) -> None:
    body = gzip.compress(b'{"input": "x"}')

    answer = post(fake_service, body, **{"Content-Encoding": "gzip"})

    assert answer.status_code == 422
    assert "uncompressed" in answer.json()["error"]["message"]
    assert post(fake_service, {"input": "x"}, **{"Content-Encoding": "Identity"}).ok


def test_a_body_without_a_length_is_limited_all_the_same(fake_service: ServiceProcess) -> None:
    answer = post(fake_service, iter([b"x" * 40_000] * 2))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.case("S10")
@pytest.mark.parametrize(
    ("patience", "status", "code"),
    [
        ("0", 504, "deadline_passed"),
        ("-5", 504, "deadline_passed"),
        ("soon", 422, "bad_request"),
        ("1.5", 422, "bad_request"),
        ("9" * 13, 422, "bad_request"),
    ],
)
def test_a_deadline_that_has_passed_is_not_worth_computing_for(
    fake_service: ServiceProcess, patience: str, status: int, code: str
) -> None:
    answer = post(fake_service, {"input": "x"}, **{"X-Request-Timeout-Ms": patience})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.case("S15")
@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="none"),
        pytest.param(b"Bearer wrong", id="wrong"),
        pytest.param(b"Bearer ", id="empty"),
        pytest.param(b"Basic a-key-for-tests", id="another-scheme"),
        pytest.param(b"a-key-for-tests", id="no-scheme"),
        pytest.param("Bearer schlüssel".encode(), id="not-ascii"),
        pytest.param(b"Bearer a-key-for-tests,another", id="more-than-the-key"),
    ],
)
@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings", "/info", "/health", "/nowhere"])
def test_nothing_is_answered_without_the_key(
    fake_service: ServiceProcess, header: bytes | None, path: str
) -> None:
    headers = {} if header is None else {"Authorization": header}

    answer = requests.post(fake_service.url + path, headers=headers, timeout=WAIT_S)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_allowed")


def test_the_key_in_another_header_is_no_key(fake_service: ServiceProcess) -> None:
    headers = {"X-Api-Key": fake_service.key, "Api-Key": fake_service.key}

    answer = requests.get(f"{fake_service.url}/info", headers=headers, timeout=WAIT_S)

    assert answer.status_code == 401


def test_two_authorization_headers_open_nothing(fake_service: ServiceProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fake_service.port, timeout=WAIT_S)
    connection.putrequest("GET", "/info")
    for key in ("wrong", fake_service.key):
        connection.putheader("Authorization", f"Bearer {key}")
    connection.endheaders()

    assert connection.getresponse().status == 401
    connection.close()


def test_every_one_of_several_keys_opens_the_service() -> None:
    with ServiceProcess({"EMBEDDING_API_KEY": "the-new-one,the-old-one"}, module=FAKE) as service:
        statuses = [
            requests.get(
                f"{service.url}/info", headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S
            ).status_code
            for key in ("the-new-one", "the-old-one", "the-new-one,the-old-one", "another")
        ]

    assert statuses == [200, 200, 401, 401]


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        pytest.param("partition-2024/7", True, id="usable"),
        pytest.param("x" * 128, True, id="longest"),
        pytest.param("x" * 129, False, id="too-long"),
        pytest.param("two words", False, id="a-space"),
        pytest.param("schlüssel", False, id="not-ascii"),
        pytest.param("", False, id="empty"),
    ],
)
@pytest.mark.parametrize("path", ["/live", "/info", "/nowhere"])
def test_a_request_keeps_its_id_or_gets_one(
    fake_service: ServiceProcess, path: str, shown: str, kept: bool
) -> None:
    headers = {"X-Request-Id": shown.encode()}

    answer = requests.get(fake_service.url + path, headers=headers, timeout=WAIT_S)

    given = answer.headers["X-Request-Id"]
    assert (given == shown) is kept
    assert 0 < len(given) <= 128


@pytest.mark.parametrize("path", ["/live", "/ready"])
def test_a_supervisor_needs_no_key(fake_service: ServiceProcess, path: str) -> None:
    assert requests.get(fake_service.url + path, timeout=WAIT_S).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"input": "a", "a secret": 1}, id="as-a-field"),
        pytest.param({"input": "a", "model": "a secret"}, id="as-the-model"),
        pytest.param({"input": "a", "encoding_format": "a secret"}, id="as-a-format"),
    ],
)
def test_a_refusal_never_repeats_what_was_sent(
    fake_service: ServiceProcess, body: dict[str, Any]
) -> None:
    refused = post(fake_service, body)

    assert refused.status_code == 422
    assert "secret" not in refused.text


def test_a_slash_too_many_is_another_path(fake_service: ServiceProcess) -> None:
    url = f"{fake_service.url}/info/"
    answer = requests.get(url, headers=fake_service.headers, timeout=WAIT_S, allow_redirects=False)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_an_unknown_path_is_refused_in_the_same_shape(fake_service: ServiceProcess) -> None:
    answer = requests.get(f"{fake_service.url}/nope", headers=fake_service.headers, timeout=WAIT_S)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_info_tells_space_prompts_and_limits(fake_service: ServiceProcess) -> None:
    info = get(fake_service, "/info")

    assert info["model"] == "fake"
    assert info["space"]["id"] == MODEL.space.id
    assert info["space"]["document_prompt"] == info["prompts"]["document"] == "document: "
    assert (info["dimensions"], info["max_tokens"]) == (8, 64)
    assert info["limits"] == {
        "max_texts": 100,
        "max_tokens_per_text": 64,
        "max_batch_tokens": 2048,
        "server_batch_size": 32,
        "max_queue_tokens": 2_097_152,
        "max_query_queue_tokens": 262_144,
        "max_body_bytes": 65_536,
        "max_chars_per_text": 2048,
    }


def test_counts_by_the_fetched_tokenizer_are_those_of_the_service(
    fake_service: ServiceProcess,
) -> None:
    fetched = requests.get(
        f"{fake_service.url}/tokenizer.json", headers=fake_service.headers, timeout=WAIT_S
    )
    text = "document: some words, seven of them here"

    tokens = len(Tokenizer.from_str(fetched.text).encode(text).ids)

    answer = post(fake_service, {"input": text, "input_type": "raw"})
    assert answer.json()["data"][0]["tokens"] == tokens


def test_health_counts_requests_by_size_and_number(fake_service: ServiceProcess) -> None:
    before = get(fake_service, "/health")["stats"]

    post(fake_service, {"input": ["a", "b c"]})
    post(fake_service, {"input": []})

    health = get(fake_service, "/health")
    after = health["stats"]
    grown = {name: after[name] - before[name] for name in after}
    assert (health["live"], health["ready"], health["model"]) == (True, True, "fake")
    assert (grown["requests"], grown["refused_requests"], grown["texts"]) == (2, 1, 2)
    assert (grown["tokens"], grown["padded_tokens"], grown["batches"]) == (9, 10, 1)
    assert after["requests_in_flight"] == 0
    assert after["largest_request_texts"] >= 2


def test_more_callers_than_threads_are_all_answered(fake_service: ServiceProcess) -> None:
    start = threading.Barrier(80)

    def ask(i: int) -> bool:
        start.wait(WAIT_S)
        body = post(fake_service, {"input": f"caller {i}"}).json()
        vector = float32(body["data"][0]["embedding"])
        return np.array_equal(vector, float32(expected(f"caller {i}")))

    with ThreadPoolExecutor(80) as pool:
        assert all(pool.map(ask, range(80)))


def test_a_caller_who_hangs_up_in_the_middle_of_a_body_harms_nobody(
    fake_service: ServiceProcess,
) -> None:
    with socket.create_connection(("127.0.0.1", fake_service.port), WAIT_S) as connection:
        head = (
            f"POST /embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fake_service.key}\r\n"
        )
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")

    assert post(fake_service, {"input": "next"}).status_code == 200
