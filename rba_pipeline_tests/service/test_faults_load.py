"""Faults of load: more callers, longer texts and more departures than the model can serve.

S1 many threads, S2 counting beside encoding, S4 floods of the longest texts, S9 callers who leave,
S10 deadlines that have passed. S3, order and neighbours, is in ``test_served_models`` and
``test_same_vectors``.
"""

import http.client
import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from tokenizers import Tokenizer

from rba_pipeline_tests.service.callers import WAIT_S, Held, post, ready_status, stats, until
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service.memory import peak_bytes
from rba_pipeline_tests.service_process import ServiceProcess

TEXT = "rates rose while wages, in the larger economies, fell 0.4 per cent; see graph 12 —"


def ask(service: ServiceProcess, body: dict[str, Any], **headers: str) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings", json=body, headers=service.headers | headers, timeout=60
    )


def text_of(n_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(TEXT.split(), k=n_words))


@pytest.fixture(params=["torch", pytest.param("openvino", marks=pytest.mark.long)])
def on_either(
    request: pytest.FixtureRequest, nomic: ServiceProcess, nomic_folder: Path
) -> Iterator[ServiceProcess]:
    """The tiny model in fp32, on each runtime."""
    if request.param == "torch":
        yield nomic
        return
    on_openvino = {"EMBEDDING_RUNTIME": "openvino", "EMBEDDING_PRECISION": "fp32"}
    with ServiceProcess({"EMBEDDING_MODEL": str(nomic_folder), **on_openvino}) as service:
        yield service


@pytest.mark.case("S1")
@pytest.mark.model
def test_five_hundred_requests_of_eight_threads_get_the_vectors_of_one(
    on_either: ServiceProcess,
) -> None:
    """The race that broke one request in five."""
    pool = [text_of(n, seed) for seed, n in enumerate((1, 2, 3, 5, 8, 13, 21, 34, 55, 89))]
    golden = np.array([vector(ask(on_either, {"input": text}), 0) for text in pool])

    def worst(seed: int) -> float:
        plan = random.Random(seed)
        chosen = [plan.randrange(len(pool)) for _ in range(plan.randint(1, 3))]
        answer = ask(on_either, {"input": [pool[i] for i in chosen]})
        found = np.array([vector(answer, at) for at in range(len(chosen))])
        return float(np.abs(found - golden[chosen]).max())

    with ThreadPoolExecutor(8) as threads:
        deltas = list(threads.map(worst, range(500)))

    assert len(deltas) == 500
    assert max(deltas) <= 1e-5


def vector(answer: requests.Response, at: int) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["data"][at]["embedding"]
    return found


@pytest.mark.case("S2")
@pytest.mark.model
def test_counts_stay_exact_while_other_texts_are_cut_and_encoded(nomic: ServiceProcess) -> None:
    """Truncation and padding are set on a tokenizer, so a shared one counts wrongly."""
    fetched = requests.get(f"{nomic.url}/tokenizer.json", headers=nomic.headers, timeout=WAIT_S)
    tokenizer = Tokenizer.from_str(fetched.text)
    texts = [text_of(n % 60 + 1, n) for n in range(200)]
    expected = [len(tokenizer.encode(text).ids) for text in texts]
    too_long = "rate " * 3000

    def count(i: int) -> int:
        said = [texts[i], too_long] if i % 20 == 0 else [texts[i]]
        answer = ask(nomic, {"input": said, "input_type": "raw", "truncate": i % 20 == 0})
        assert answer.status_code == 200, answer.text
        tokens: int = answer.json()["data"][0]["tokens"]
        return tokens

    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(count, range(len(texts))))

    assert counts == expected


# Enough for the longest text alone, by what a pass is taken to need, beside what is set aside for
# requests: what they take during a pass is counted as its own. Not for two of them. The limits of a
# batch allow twenty in one pass, which add 1,300 MB to the process.
_LONG_TEXTS, _SPARE_BYTES = 24, 800 * 2**20


@pytest.fixture
def long_texts(nomic_folder: Path) -> Iterator[tuple[ServiceProcess, int]]:
    """The tiny model for texts of 8,192 tokens, 24 of which may wait, and its memory limit."""
    env = {
        "EMBEDDING_MODEL": str(nomic_folder),
        "EMBEDDING_MAX_SEQ_LENGTH": "8192",
        "EMBEDDING_MAX_QUEUE_TOKENS": str(_LONG_TEXTS * 8192),
        "EMBEDDING_MAX_BATCH_TOKENS": str(2**20),
        "EMBEDDING_MAX_BODY_BYTES": str(2**21),
        "EMBEDDING_MAX_REQUEST_MEMORY": str(2**24),
    }
    limit = least_memory(env) + _SPARE_BYTES
    with ServiceProcess(env | {"EMBEDDING_MAX_MEMORY": str(limit)}) as service:
        yield service, limit
        # The text in the model is nobody's any more.
        service.kill()


def least_memory(env: dict[str, str]) -> int:
    """Return the least limit of memory, in bytes, under which the service says it can start."""
    with pytest.raises(RuntimeError, match="expected at least") as refused:
        ServiceProcess(env | {"EMBEDDING_MAX_MEMORY": "64MiB"}).start()
    (least,) = re.findall(r"EMBEDDING_MAX_MEMORY=\d+: expected at least (\d+)", str(refused.value))
    return int(least)


@pytest.mark.case("S4")
@pytest.mark.model
@pytest.mark.long
def test_a_flood_of_the_longest_texts_is_refused_while_a_query_is_answered(
    long_texts: tuple[ServiceProcess, int],
) -> None:
    """8 callers of 24 texts each, under a limit that only smaller passes than asked for keep.

    Patience bounds what is computed on a slow machine.
    """
    service, limit = long_texts
    flood = {"input": ["rate " * 8000] * _LONG_TEXTS}
    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(ask, service, flood, **{"X-Request-Timeout-Ms": "30000"})
            for _ in range(8)
        ]
        until(lambda: stats(service)["queue_tokens"] > 8 * 8000)
        before = stats(service)["batches"]

        query = ask(service, {"input": "why did rates rise?", "input_type": "query"})
        after = stats(service)

        answers = [future.result() for future in asked]
        computed = stats(service)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert peak_bytes(service.pid) <= limit
    # Two of the longest are not known to fit, so every pass was of one text.
    assert computed["texts"] == computed["batches"] > 1
    assert query.status_code == 200
    # Its own pass and the one that was under way, of one text; or one more, which ended before the
    # query was there. Documents that were there before it wait still.
    assert after["batches"] - before <= 3
    assert after["queue_tokens"] >= 8000
    assert {answer.status_code for answer in answers} <= {200, 429, 504}
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert ready_status(service) == 200


# The fake model's prompt, one word, and its two special tokens are counted with them.
TOKENS_OF_TWO_WORDS = 5


@pytest.mark.case("S9")
def test_a_hundred_callers_who_hang_up_are_not_computed(gate: Path) -> None:
    with ServiceProcess({"FAKE_GATE": str(gate)}, module=FAKE) as service:
        held = Held(service, gate)
        before = stats(service)
        leaving = [waiting_line(service, f"gone {i}") for i in range(100)]
        # All of them are in the line, none on its way there.
        until(lambda: stats(service)["queue_tokens"] == len(leaving) * TOKENS_OF_TWO_WORDS)

        for connection in leaving:
            connection.close()
        until(lambda: stats(service)["dropped_texts"] == before["dropped_texts"] + 100)
        held.release()

        assert held.status() == 200
        after = stats(service)
        assert after["texts"] == before["texts"] + 1
        assert (after["queue_tokens"], after["requests_in_flight"]) == (0, 0)


def waiting_line(service: ServiceProcess, text: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_S)
    connection.request("POST", "/embeddings", json.dumps({"input": text}), service.headers)
    return connection


@pytest.mark.case("S10")
@pytest.mark.parametrize("patience_ms", ["0", "-1"])
def test_a_request_whose_deadline_has_passed_is_not_computed(
    fake_service: ServiceProcess, patience_ms: str
) -> None:
    """A deadline that passes while its caller waits is in ``test_process``."""
    before = stats(fake_service)

    late = post(fake_service, "late", **{"X-Request-Timeout-Ms": patience_ms})

    after = stats(fake_service)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
    assert (after["texts"], after["batches"]) == (before["texts"], before["batches"])
