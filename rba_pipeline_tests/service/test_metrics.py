"""What Prometheus reads."""

from collections.abc import Iterator

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """A service that is asked for nothing before the first test."""
    with ServiceProcess(module=FAKE) as service:
        yield service


def figures(service: ServiceProcess) -> Series:
    page = requests.get(f"{service.url}/metrics", headers=service.headers, timeout=WAIT_S)
    assert page.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def post(service: ServiceProcess, *texts: str) -> None:
    requests.post(
        f"{service.url}/embeddings",
        json={"input": list(texts)},
        headers=service.headers,
        timeout=WAIT_S,
    )


def test_everything_that_was_done_is_counted(service: ServiceProcess) -> None:
    post(service, "one", "one two three")
    post(service, " ")
    post(service, "poison")
    requests.get(f"{service.url}/a/guess", headers=service.headers, timeout=WAIT_S)
    requests.get(f"{service.url}/info", timeout=WAIT_S)

    seen = figures(service)

    counted = "embedding_http_requests_total"
    assert value(seen, counted, path="/embeddings", status="200") == 1
    assert value(seen, counted, path="/embeddings", status="422") == 1
    assert value(seen, counted, path="/embeddings", status="500") == 1
    assert value(seen, counted, path="other", status="404") == 1
    assert value(seen, counted, path="/info", status="401") == 1
    refusals = [
        ("text_empty", 1), ("model_failed", 1), ("not_found", 1), ("not_allowed", 1),
    ]  # fmt: skip
    for reason, times in refusals:
        assert value(seen, "embedding_refusals_total", reason=reason) == times
    assert value(seen, "embedding_texts_total") == 2
    assert value(seen, "embedding_tokens_total") == 4 + 6
    assert value(seen, "embedding_padded_tokens_total") == 2 * 6
    assert value(seen, "embedding_padding_ratio") == pytest.approx(1 - 10 / 12)
    assert value(seen, "embedding_failed_batches_total") == 1
    assert value(seen, "embedding_batch_texts_count") == 1
    assert value(seen, "embedding_batch_texts_bucket", le="1.0") == 0
    assert value(seen, "embedding_batch_texts_bucket", le="2.0") == 1
    assert value(seen, "embedding_batch_padded_tokens_sum") == 12
    assert value(seen, "embedding_batch_seconds_count") == 1
    assert value(seen, "embedding_request_wait_seconds_count") == 1
    assert value(seen, "embedding_request_compute_seconds_count") == 1


def test_state_speed_and_memory_are_told(service: ServiceProcess) -> None:
    seen = figures(service)

    assert value(seen, "embedding_ready") == 1
    assert value(seen, "embedding_requests_in_flight") == 0
    assert value(seen, "embedding_queue_tokens", lane="query") == 0
    assert value(seen, "embedding_queue_tokens", lane="document") == 0
    assert value(seen, "embedding_request_memory_bytes") == 0
    assert value(seen, "embedding_tokens_per_second") > 0
    assert value(seen, "embedding_peak_resident_memory_bytes") > 2**20
    about = next(dict(labels) for name, labels in seen if name == "embedding_service_info")
    assert (about["model"], about["runtime"], about["precision"], about["device"]) == (
        "fake", "fake", "fp32", "cpu",
    )  # fmt: skip
    assert len(about["space"]) == 32


def test_a_refusal_below_the_requests_is_counted_too(service: ServiceProcess) -> None:
    requests.get(service.url, headers={"Cookie": "x" * 400_000}, timeout=WAIT_S)

    assert value(figures(service), "embedding_refusals_total", reason="head_too_large") == 1


def test_the_figures_are_for_those_with_the_key(service: ServiceProcess) -> None:
    assert requests.get(f"{service.url}/metrics", timeout=WAIT_S).status_code == 401
