"""Real models behind the real service: the same vector, however it was asked for."""

import base64
import functools
import hashlib
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rba_pipeline_tests.service_process import ServiceProcess

pytestmark = pytest.mark.model

WAIT_S = 60
MAX_DELTA = 1e-5

WORDS = [
    "the",
    "Board",
    "judged",
    "that",
    "growth",
    "in",
    "wages,",
    "prices",
    "and",
    "output",
    "remained",
    "below",
    "its",
    "average;",
    "exports",
    "rose",
    "while",
    "household",
    "consumption",
    "fell",
    "0.4",
    "per",
    "cent",
    "—",
    "see",
    "graph",
    "12",
]


def text_of(n_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


POOL = [text_of(n, seed) for seed, n in enumerate((1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 120, 150))]


def embed(service: ServiceProcess, texts: list[str], **options: Any) -> Any:
    body = {"input": texts, "encoding_format": "base64"} | options
    answer = requests.post(
        f"{service.url}/embeddings", json=body, headers=service.headers, timeout=WAIT_S
    )
    assert answer.status_code == 200, answer.text
    items = answer.json()["data"]
    assert [item["index"] for item in items] == list(range(len(texts)))
    return np.stack([_decoded(item["embedding"]) for item in items])


def _decoded(embedding: str) -> Any:
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4")


@functools.cache
def alone(url: str, key: str) -> Any:
    service = ServiceProcess({"EMBEDDING_API_KEY": key})
    service.port = int(url.rpartition(":")[2])
    return np.concatenate([embed(service, [text]) for text in POOL])


@pytest.mark.case("S1")
@pytest.mark.parametrize("name", ["minilm", pytest.param("nomic", marks=pytest.mark.long)])
def test_eight_threads_of_mixed_lengths_get_the_vectors_of_one(
    request: pytest.FixtureRequest, name: str
) -> None:
    service: ServiceProcess = request.getfixturevalue(name)
    golden = alone(service.url, service.key)
    plans = [random.Random(seed) for seed in range(8)]

    def worst(plan: random.Random) -> float:
        delta = 0.0
        for _ in range(8):
            chosen = [plan.randrange(len(POOL)) for _ in range(plan.randint(1, 6))]
            vectors = embed(service, [POOL[i] for i in chosen])
            delta = max(delta, float(np.abs(vectors - golden[chosen]).max()))
        return delta

    with ThreadPoolExecutor(8) as pool:
        deltas = list(pool.map(worst, plans))

    assert max(deltas) <= MAX_DELTA


@pytest.mark.case("S3")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=12))
def test_a_vector_does_not_depend_on_its_neighbours_or_their_order(
    minilm: ServiceProcess, chosen: list[int]
) -> None:
    golden = alone(minilm.url, minilm.key)

    vectors = embed(minilm, [POOL[i] for i in chosen])

    assert np.abs(vectors - golden[chosen]).max() <= MAX_DELTA
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_official_client_gets_the_same_vectors(minilm: ServiceProcess, encoding: Any) -> None:
    client = openai.OpenAI(base_url=f"{minilm.url}/v1", api_key=minilm.key, timeout=WAIT_S)
    options = {} if encoding is None else {"encoding_format": encoding}

    answer = client.embeddings.create(
        model="all-MiniLM-L6-v2", input=POOL[:5], user="tests", **options
    )

    given: list[Any] = [item.embedding for item in answer.data]
    rows = [_decoded(row) if isinstance(row, str) else row for row in given]
    assert np.abs(np.array(rows) - embed(minilm, POOL[:5])).max() <= MAX_DELTA
    assert answer.usage.total_tokens > 0


def test_a_request_of_2048_texts_is_answered_in_order(nomic: ServiceProcess) -> None:
    texts = [f"{i} {text_of(i % 5, i)}" for i in range(2048)]

    vectors = embed(nomic, texts)

    some = [0, 1, 777, 1500, 2047]
    assert np.abs(vectors[some] - embed(nomic, [texts[i] for i in some])).max() <= MAX_DELTA


@pytest.mark.case("S2")
def test_counts_by_the_fetched_tokenizer_are_exact_with_the_prompt(nomic: ServiceProcess) -> None:
    """One at a time."""
    fetched = requests.get(f"{nomic.url}/tokenizer.json", headers=nomic.headers, timeout=WAIT_S)
    info = requests.get(f"{nomic.url}/info", headers=nomic.headers, timeout=WAIT_S).json()
    tokenizer = Tokenizer.from_str(fetched.text)
    prompt = info["prompts"]["document"]

    counts = [len(tokenizer.encode(prompt + text).ids) for text in POOL]

    body = {"input": POOL}
    answer = requests.post(
        f"{nomic.url}/embeddings", json=body, headers=nomic.headers, timeout=WAIT_S
    )
    assert [item["tokens"] for item in answer.json()["data"]] == counts
    assert hashlib.sha256(fetched.content).hexdigest() == info["tokenizer_sha256"]


def test_a_text_exactly_at_the_limit_fits_and_one_token_more_does_not(
    minilm: ServiceProcess,
) -> None:
    assert embed(minilm, ["rate " * 254]).shape == (1, 384)

    answer = requests.post(
        f"{minilm.url}/embeddings",
        json={"input": ["rate", "rate " * 255]},
        headers=minilm.headers,
        timeout=WAIT_S,
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "text_too_long"
    assert answer.json()["error"]["index"] == 1


def test_a_folder_is_served_with_its_prompts_and_shorter_vectors(nomic: ServiceProcess) -> None:
    info = requests.get(f"{nomic.url}/info", headers=nomic.headers, timeout=WAIT_S).json()

    document = embed(nomic, ["text"])
    query = embed(nomic, ["text"], input_type="query")
    spelt_out = embed(nomic, ["search_query: text"], input_type="raw")

    assert (info["model"], info["dimensions"], info["max_tokens"]) == ("tiny-nomic", 128, 2048)
    assert info["prompts"] == {"document": "search_document: ", "query": "search_query: "}
    assert np.abs(document - query).max() > 1e-3
    assert np.abs(query - spelt_out).max() <= MAX_DELTA
    assert embed(nomic, ["text"], dimensions=64).shape == (1, 64)


def test_the_libraries_below_write_no_line_of_their_own_form(nomic: ServiceProcess) -> None:
    lines = [json.loads(line) for line in nomic.log.splitlines()]

    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert any(line["event"].startswith("ready on") for line in lines)


@pytest.mark.case("S17")
@pytest.mark.long
def test_live_answers_before_the_model_is_loaded_and_ready_only_after() -> None:
    port = _free_port()
    # torch takes seconds to import: nobody is too late to see the time before it is ready.
    service = ServiceProcess({"EMBEDDING_PORT": str(port), "EMBEDDING_RUNTIME": "torch"})
    with open(service.spawn(), "rb", buffering=0) as ready, service:
        service.port = port
        answered = _first_answer(f"{service.url}/live")
        early = requests.get(f"{service.url}/ready", timeout=WAIT_S)
        refused = requests.get(f"{service.url}/info", headers=service.headers, timeout=WAIT_S)

        line = ready.readline()

        late = requests.get(f"{service.url}/ready", timeout=WAIT_S)
        assert answered.json() == {"live": True}
        assert (early.status_code, early.json()["error"]["code"]) == (503, "not_ready")
        assert int(early.headers["Retry-After"]) >= 1
        assert refused.status_code == 503
        assert str(service.pid).encode() in line
        assert late.status_code == 200
        assert service.stop() == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _first_answer(url: str) -> requests.Response:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            return requests.get(url, timeout=WAIT_S)
        except requests.ConnectionError:
            continue
    raise TimeoutError(f"{url} never answered")
