"""Answers that are none, or not right: C cases, as runs of a partition."""

import base64
import json
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rba_pipeline.core.embeddings import CANARY, CANARY_COSINE
from rba_pipeline_tests.faults.conftest import (
    BATCH,
    IN_FLIGHT,
    PARALLEL,
    PARTITION,
    add_documents,
)
from rba_pipeline_tests.faults.invariants import (
    check_failure,
    check_invariants,
)
from rba_pipeline_tests.faults.runs import figure, run
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply, oracle_vector
from rba_pipeline_tests.resources.sample_records import sha256

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long


@pytest.mark.case("C14")
@pytest.mark.parametrize("status", [401, pytest.param(403, marks=LONG)])
def test_a_refused_key_fails_at_once_and_is_not_shown(
    project: Installation, oracle: OracleService, status: int
) -> None:
    oracle.script = lambda number, texts: Reply.error(status, "not_allowed")
    failed = run(project)
    attempts = len(oracle.sent)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "check EMBEDDING_API_KEY" in message
    assert attempts <= PARALLEL
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


def change(oracle: OracleService, texts: list[str], how: Callable[[list[Any]], object]) -> Reply:
    body = json.loads(oracle.regular(texts).body)
    how(body["data"])
    return Reply(200, json.dumps(body).encode())


def with_values(data: list[Any], place: int, *values: float) -> None:
    vector = np.zeros(8, "<f4")
    vector[: len(values)] = values
    data[place]["embedding"] = base64.b64encode(vector.tobytes()).decode()


@pytest.mark.parametrize(
    ("how", "named"),
    [
        pytest.param(lambda data: data.pop(), "vectors came back", id="C15-one-too-few",
                     marks=pytest.mark.case("C15")),
        pytest.param(lambda data: data.append(dict(data[0], index=len(data))),
                     "vectors came back", id="C15-one-too-many",
                     marks=[pytest.mark.case("C15"), LONG]),
        pytest.param(lambda data: data[1].update(index=0), "index 0", id="C16-index-twice",
                     marks=pytest.mark.case("C16")),
        pytest.param(lambda data: data[1].pop("index"), "index None", id="C16-index-missing",
                     marks=[pytest.mark.case("C16"), LONG]),
        pytest.param(lambda data: with_values(data, 2, float("nan")), "vector 2 holds NaN",
                     id="C18-nan", marks=pytest.mark.case("C18")),
        pytest.param(lambda data: with_values(data, 2, float("inf")), "vector 2 holds NaN or",
                     id="C18-infinity", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: with_values(data, 0), "vector 0 has length",
                     id="C18-zero", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding=None), "vector 3 is not base64",
                     id="C18-null", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding=[0.6, "0.8"]), "vector 3 is not base64",
                     id="C18-list-with-text", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding="!!!!"), "vector 3 is not base64",
                     id="C18-no-base64", marks=[pytest.mark.case("C18"), LONG]),
    ],
)  # fmt: skip
def test_a_reply_that_breaks_the_contract_is_refused_whole(
    project: Installation, oracle: OracleService, how: Callable[[list[Any]], object], named: str
) -> None:
    bad: list[str] = []

    def once(number: int, texts: list[str]) -> Reply | None:
        if number != 3:
            return None
        bad.extend(texts)
        return change(oracle, texts, how)

    oracle.script = once
    failed = run(project)
    with project.neighbours() as found:
        window = project.window(PARTITION)
        blocks = list(found.embedding_store.kept(oracle.space(), window.year))
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ContractBroken" in message
    assert named in message
    at = re.search(rf"failed last: text (\w+) and {BATCH - 1} more, at try 1\)$", message)
    assert at
    assert at[1] in map(sha256, bad)
    assert {name for _, names in blocks for name in names}.isdisjoint(map(sha256, bad))
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("T14")
def test_a_text_that_was_cut_by_a_run_that_failed_is_known_as_cut_afterwards(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_TRUNCATE"] = "true"

    def cut_one_then_break(number: int, texts: list[str]) -> Reply | None:
        if number == 0:
            return change(oracle, texts, lambda data: data[0].update(truncated=True))
        return None if number < 6 else Reply.error(400, "no_such_thing")

    oracle.script = cut_one_then_break
    message = check_failure(run(project))
    oracle.script = lambda number, texts: None
    results = run(project)

    assert "no_such_thing" in message
    assert failures(results) == []
    assert figure(results, "truncated") == 1
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C16")
def test_a_reply_in_another_order_is_placed_by_index(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: change(
        oracle, texts, lambda data: random.Random(number).shuffle(data)
    )
    results = run(project)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C20")
def test_a_connection_that_is_reset_in_the_body_is_retried_and_nothing_partial_is_kept(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: (
        Reply(200, oracle.regular(texts).body, manner="cut") if number == 3 else None
    )
    results = run(project)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=BATCH)


@pytest.mark.case("C21")
@pytest.mark.parametrize(
    ("reply", "named"),
    [
        pytest.param(Reply(200, b"<html>all is well</html>"), "not JSON", id="html"),
        pytest.param(Reply(200, b"{}", {"Content-Type": "text/html"}), "not JSON but text/html",
                     id="another-type", marks=LONG),
        pytest.param(Reply(200, b'{"data": ['), "not JSON", id="cut-off-json", marks=LONG),
        pytest.param(Reply(200, b"[" * 60_000), "not JSON", id="deep-json", marks=LONG),
        pytest.param(Reply(200, b'{"data": "' + b"x" * (1 << 22) + b'"}'),
                     "has more than", id="endless", marks=LONG),
        pytest.param(Reply(200, b"\x1f\x8b" + b"0" * 99, {"Content-Encoding": "gzip"}),
                     "is compressed", id="compressed", marks=LONG),
    ],
)  # fmt: skip
def test_a_reply_that_is_none_is_refused(
    project: Installation, oracle: OracleService, reply: Reply, named: str
) -> None:
    oracle.script = lambda number, texts: reply if number == 3 else None
    failed = run(project)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ContractBroken" in message
    assert named in message
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C24")
def test_another_model_between_two_batches_stops_the_partition_and_mixes_nothing(
    project: Installation, oracle: OracleService
) -> None:
    first = oracle.space()

    def swap(number: int, texts: list[str]) -> None:
        if number == 3:
            oracle.model = "another"

    oracle.script = swap
    failed = run(project)
    in_between = project.rows()
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "WrongSpace" in message
    assert first in message
    assert oracle.space() in message
    assert in_between == {}
    assert failures(results) == []
    assert {row[1] for row in project.rows().values()} == {oracle.space()}
    # What was sent before the swap was seen.
    check_invariants(project, oracle, results, resent=(3 + PARALLEL) * BATCH)


def with_noise(oracle: OracleService, cosine: float) -> Reply:
    """Return the canary's vector with so much noise that it has ``cosine`` to itself without."""
    answer = json.loads(oracle.regular([CANARY]).body)
    clean = oracle_vector(CANARY).astype(np.float64)
    noise = oracle_vector("noise").astype(np.float64)
    noise -= (noise @ clean) / (clean @ clean) * clean
    noisy = cosine * clean + np.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)
    encoded = base64.b64encode(noisy.astype(np.float32).tobytes()).decode()
    answer["data"][0]["embedding"] = encoded
    return Reply(200, json.dumps(answer).encode())


@LONG
@pytest.mark.case("C25")
def test_the_same_space_with_other_numbers_stops_the_next_run(
    project: Installation, oracle: OracleService
) -> None:
    first = run(project)
    before, sent = project.rows(), len(oracle.sent)
    add_documents(project, paragraphs=4, names="C")
    oracle.canary_script = lambda: with_noise(oracle, CANARY_COSINE - 1e-5)
    failed = run(project)
    kept, sent_in_vain = project.rows(), len(oracle.sent) - sent
    oracle.canary_script = lambda: None
    results = run(project)

    message = check_failure(failed, of_texts=False)
    assert failures(first) == failures(results) == []
    assert "VectorsDrifted" in message
    assert f"a cosine of {CANARY_COSINE - 1e-5:.5f}" in message
    assert "python -m embedding_service check" in message
    assert sent_in_vain == 0
    assert kept == before
    check_invariants(project, oracle, results, resent=0)


@LONG
@pytest.mark.case("C25")
def test_the_noise_of_another_machine_stops_nothing(
    project: Installation, oracle: OracleService
) -> None:
    first = run(project)
    add_documents(project, paragraphs=4, names="C")
    oracle.canary_script = lambda: with_noise(oracle, CANARY_COSINE + 1e-5)
    results = run(project)

    assert failures(first) == failures(results) == []
    assert figure(results, "embedded") > 0
    check_invariants(project, oracle, results, resent=0)
