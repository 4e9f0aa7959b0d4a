"""The settings of the resource ``embedding``: what is in force, and what is refused."""

import pytest

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import Bounds, Preset
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline_tests.oracle_service import KEY, OracleService


@pytest.mark.parametrize(
    ("preset", "batch", "parallel", "expected"),
    [
        pytest.param("auto", None, None, Bounds(4, 2), id="auto-on-two-cores"),
        pytest.param("cpu-prod", None, None, Bounds(8, 4), id="a-preset"),
        pytest.param("gpu", 5, None, Bounds(5, 8), id="one-value-beats-the-preset"),
        pytest.param("gpu", 2048, 64, Bounds(100, 64), id="never-more-than-the-service-takes"),
    ],
)
def test_the_bounds_are_what_was_set_then_the_preset_within_the_services_limits(
    preset: str, batch: int | None, parallel: int | None, expected: Bounds
) -> None:
    class Small(OracleService):
        def info(self) -> dict[str, object]:
            limits = {**super().info()["limits"], "max_texts": 100}
            return {**super().info(), "limits": limits}

    resource = Embedding(
        preset=Preset(preset), batch_size=batch, parallel_batches=parallel, adaptive=False
    )
    with Small() as oracle:
        resource = resource.model_copy(update={"api_url": oracle.url, "api_key": KEY})
        with resource.open():
            info = resource.handshake()

    assert resource.bounds(info) == expected


def test_the_effective_settings_are_complete_and_without_the_key(oracle: OracleService) -> None:
    resource = Embedding(api_url=oracle.url, api_key=KEY, batch_size=6, adaptive=False)

    with resource.open():
        effective = resource.effective(resource.handshake())

    assert effective == {
        "preset": "auto",
        "batch_size": 6,
        "parallel_batches": 2,
        "timeout_s": 240,
        "outage_s": 300,
        "adaptive": False,
        "backlog_batches": "0:8,100:16,1000:32",
        "truncate": False,
        "api_url": oracle.url,
    }


@pytest.mark.parametrize(
    ("adaptive", "told"),
    [
        pytest.param(False, ["parallel_batches=8, from preset gpu, is too much"], id="fixed"),
        pytest.param(True, [], id="only-the-bounds-of-a-run-that-finds-its-pace"),
    ],
)
def test_a_preset_is_judged_where_its_values_hold(
    oracle: OracleService, adaptive: bool, told: list[str]
) -> None:
    resource = Embedding(api_url=oracle.url, api_key=KEY, preset=Preset.gpu, adaptive=adaptive)

    with resource.open():
        found = resource.advice(resource.handshake(), texts=100, tokens=1000)

    assert [sentence.partition(" parallelism")[0] for sentence in found] == told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size=0", id="batch-size"),
        pytest.param({"parallel_batches": 65}, "from 1 to 64", id="parallel-batches"),
        pytest.param({"timeout_s": 0}, "from 1 to 3600", id="timeout"),
        pytest.param({"outage_s": 0}, "from 1 to 86400", id="outage"),
        pytest.param({"backlog_batches": "8"}, "texts left:texts per request", id="backlog"),
        pytest.param({"api_url": ""}, "expected one or several http", id="no-address"),
        pytest.param({"api_url": "localhost:8000"}, "expected one or several", id="no-scheme"),
        pytest.param({"api_url": "http://a,ftp://b"}, "expected one or several", id="one-is-wrong"),
        pytest.param({"api_url": "http://[a"}, "expected one or several", id="open-bracket"),
        pytest.param({"api_url": "http://a:80x"}, "expected one or several", id="no-port"),
        pytest.param({"api_url": "http://u:p@a"}, "EMBEDDING_API_KEY", id="password-in-address"),
    ],
)
def test_a_bad_value_is_refused_when_the_resource_is_opened(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(BadSetting, match=message), Embedding(**values).open():
        pytest.fail("it was opened")


def test_a_password_in_an_address_is_not_repeated_in_the_message() -> None:
    with pytest.raises(BadSetting) as raised, Embedding(api_url="http://u:hush@a").open():
        pytest.fail("it was opened")

    assert "hush" not in str(raised.value)


def test_several_addresses_may_have_spaces_a_last_comma_and_come_twice(
    oracle: OracleService,
) -> None:
    resource = Embedding(api_url=f" {oracle.url} , {oracle.url}/, http://b ,", api_key=KEY)

    with resource.open() as client:
        assert client.addresses == [oracle.url, "http://b"]


def test_the_client_is_there_only_while_the_resource_is_open(oracle: OracleService) -> None:
    resource = Embedding(api_url=oracle.url, api_key=KEY)
    with resource.open():
        assert resource.handshake().device == "cpu"

    with pytest.raises(RuntimeError, match="before it was opened"):
        _ = resource.client
