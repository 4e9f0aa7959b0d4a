"""Answers with status 200 that do not keep the contract: nothing of them is taken."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rba_pipeline.core.errors import ContractBroken, WrongSpace
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply, oracle_vector

TEXTS = ["rain", "frost and hail", "wind"]


@pytest.fixture
def client(oracle: OracleService) -> Iterator[EmbeddingClient]:
    made = EmbeddingClient([oracle.url], key=KEY, timeout_s=30)
    yield made
    made.close()


def once(reply: Reply) -> Callable[[int, list[str]], Reply | None]:
    return lambda number, texts: reply if number == 0 else None


def altered(oracle: OracleService, change: Callable[[dict[str, Any]], object]) -> Reply:
    """Return the regular answer to ``TEXTS`` after ``change`` was made to it."""
    body = json.loads(oracle.regular(TEXTS).body)
    change(body)
    return Reply(200, json.dumps(body).encode())


def test_items_in_another_order_are_placed_by_their_index(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    oracle.script = once(altered(oracle, lambda body: body["data"].reverse()))

    answer = client.embed(oracle.url, TEXTS, info=client.info())

    np.testing.assert_array_equal(answer.vectors, [oracle_vector(text) for text in TEXTS])
    assert answer.tokens == (1, 3, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda body: body["data"].pop(), "3 texts were sent, 2 vectors", id="too-few"),
        pytest.param(lambda body: body.pop("data"), "no list 'data'", id="no-data"),
        pytest.param(lambda body: body.update(data={}), "no list 'data'", id="data-is-an-object"),
        pytest.param(
            lambda body: body["data"][1].update(truncated=True), "text 1 was cut", id="cut-unasked"
        ),
        pytest.param(lambda body: body["data"][1].update(index=0), "index 0", id="index-twice"),
        pytest.param(lambda body: body["data"][2].update(tokens=None), "tokens", id="null-tokens"),
        pytest.param(
            lambda body: body["data"][2].update(tokens="x"), "tokens", id="text-as-tokens"
        ),
        pytest.param(
            lambda body: body["data"][2].update(tokens=10**400), "tokens=1000", id="absurd-tokens"
        ),
        pytest.param(lambda body: body["data"][0].update(embedding="AAAA"), "vector 0", id="short"),
    ],
)
def test_an_answer_that_does_not_fit_its_request_is_refused_whole(
    client: EmbeddingClient,
    oracle: OracleService,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    oracle.script = once(altered(oracle, change))

    with pytest.raises(ContractBroken, match=message):
        client.embed(oracle.url, TEXTS, info=client.info())

    assert len(oracle.sent) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"<html>all is well</html>", "not JSON", id="html"),
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b'{"data": [', "not JSON", id="cut-off"),
        pytest.param(b"\xff\xfe\x00", "not JSON", id="binary"),
        pytest.param(b"[]", "not an object", id="list"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    client: EmbeddingClient, oracle: OracleService, body: bytes, message: str
) -> None:
    oracle.script = once(Reply(200, body))

    with pytest.raises(ContractBroken, match=message):
        client.embed(oracle.url, TEXTS, info=client.info())


def test_a_service_that_was_restarted_with_another_model_stops_the_run(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    info, first = client.info(), oracle.space()
    oracle.model = "another"

    with pytest.raises(WrongSpace, match=f"space {oracle.space()}.*{first}.*oracle"):
        client.embed(oracle.url, TEXTS, info=info)
