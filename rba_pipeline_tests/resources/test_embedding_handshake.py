"""What the service says of itself before any work, and addresses that are not what was meant."""

import json
import math
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from rba_pipeline.core.errors import ContractBroken, ServiceUnavailable, WrongSpace
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.service_answers import Work
from rba_pipeline_tests.oracle_service import DIMENSIONS, KEY, OracleService, tokenizer_json

NOBODY = "http://127.0.0.1:9"


def client_of(*addresses: str) -> EmbeddingClient:
    return EmbeddingClient(addresses, key=KEY, timeout_s=10)


def answer_to_info(body: bytes) -> Exception | None:
    """Return what the client raises when ``/info`` is answered with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            client_of(f"http://127.0.0.1:{server.server_address[1]}").info()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what a caller sees
            return error
        finally:
            server.shutdown()
            thread.join(10)
    return None


def test_the_info_has_space_limits_prompt_and_tokenizer(oracle: OracleService) -> None:
    info = client_of(oracle.url + "/").info()

    assert (info.space.id, info.space.model, info.space.dimensions) == (
        oracle.space(), "oracle", DIMENSIONS,
    )  # fmt: skip
    assert (info.device, info.cores, info.max_tokens, info.max_texts) == ("cpu", 2, 256, 2048)
    assert info.tokenizer_sha256 == oracle.info()["tokenizer_sha256"]


def test_the_tokenizer_comes_byte_for_byte(oracle: OracleService) -> None:
    assert client_of(oracle.url).tokenizer() == tokenizer_json()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda info: info.pop("space"), id="no-space"),
        pytest.param(lambda info: info.update(space="abc"), id="space-is-text"),
        pytest.param(lambda info: info.update(dimensions=None), id="no-dimensions"),
        pytest.param(lambda info: info.update(dimensions=0), id="zero-dimensions"),
        pytest.param(lambda info: info.update(max_tokens="many"), id="words-for-numbers"),
        pytest.param(lambda info: info.update(max_tokens=math.inf), id="no-end"),
        pytest.param(lambda info: info["limits"].update(max_texts=0), id="takes-no-texts"),
        pytest.param(lambda info: info.clear(), id="another-service"),
    ],
)
def test_an_info_that_is_not_the_services_is_refused_with_what_to_check(
    oracle: OracleService, change: Callable[[dict[str, Any]], object]
) -> None:
    info = oracle.info()
    change(info)

    error = answer_to_info(json.dumps(info).encode())

    assert isinstance(error, ContractBroken)
    assert "check EMBEDDING_API_URL" in str(error)


@pytest.mark.parametrize("body", [b"<html></html>", b"[]", b"null", b""])
def test_a_page_that_is_no_object_is_refused(body: bytes) -> None:
    assert isinstance(answer_to_info(body), ContractBroken)


def test_an_address_that_is_down_is_named_and_the_others_serve(oracle: OracleService) -> None:
    client = client_of(NOBODY, oracle.url)

    info = client.info()

    assert client.unreachable == (NOBODY,)
    assert info.space.id == oracle.space()


def test_a_run_keeps_within_the_limits_of_every_address(oracle: OracleService) -> None:
    with OracleService() as small:
        small.max_queue_tokens = 1000
        assert client_of(oracle.url, small.url).info().max_queue_tokens == 1000
        assert client_of(small.url, oracle.url).info().max_queue_tokens == 1000


def test_where_no_address_answers_one_is_named_with_what_to_do() -> None:
    with pytest.raises(ServiceUnavailable, match=rf"{NOBODY} .*make up.*EMBEDDING_API_URL"):
        client_of(NOBODY, "http://127.0.0.1:10").info()


def test_addresses_with_different_models_are_refused_and_both_named(oracle: OracleService) -> None:
    with OracleService(model="another") as other, pytest.raises(WrongSpace) as raised:
        client_of(oracle.url, other.url).info()

    for part in (oracle.url, other.url, "serves oracle", "serves another"):
        assert part in str(raised.value)


def test_the_busy_time_of_all_addresses_is_summed(oracle: OracleService) -> None:
    assert client_of(oracle.url, oracle.url).busy_s() == 0.0


def test_the_speed_of_all_engines_is_summed_once_they_have_worked() -> None:
    with OracleService() as one, OracleService() as other:
        one.stats = other.stats = {"busy_s": 4.0, "tokens": 1000, "padded_tokens": 1000}
        assert client_of(one.url, other.url).tokens_per_second() == 500.0
        one.stats = {"busy_s": 0.1, "tokens": 1000, "padded_tokens": 1000}
        assert client_of(one.url, NOBODY).tokens_per_second() == 0.0


@pytest.mark.parametrize(
    "stats",
    [
        pytest.param({"busy_s": 1.0, "tokens": 5}, id="says-nothing-of-padding"),
        pytest.param({"busy_s": "long", "tokens": 5, "padded_tokens": 6}, id="words-for-numbers"),
        pytest.param(None, id="no-figures"),
    ],
)
def test_what_an_address_does_not_say_of_its_work_is_left_out(
    oracle: OracleService, stats: dict[str, float] | None
) -> None:
    with OracleService() as silent:
        oracle.stats = {"busy_s": 2.0, "tokens": 90, "padded_tokens": 120}
        silent.stats = stats  # type: ignore[assignment]

        client = client_of(oracle.url, silent.url, NOBODY)

        assert client.work() == {oracle.url: Work(2.0, 90, 120)}
        assert (client.tokens_per_second(), client.busy_s()) == (45.0, 2.0)
