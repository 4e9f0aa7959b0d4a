"""A run's report names the level that was slowed, over real neighbours slowed by real means."""

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rba_pipeline.core.stages import STAGES_OF, Level
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.service_process import ServiceProcess
from rba_pipeline_tests.slow_line import SlowLine

pytestmark = pytest.mark.postgres

FAKE = "rba_pipeline_tests.service.fake_service"
YEAR = "2011-01-01"
AWAY_S = 0.05


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """The real server around a model that works at once, but for texts that hold ``labour``."""
    with ServiceProcess({"FAKE_MAX_TOKENS": "64"}, module=FAKE) as running:
        yield running


@pytest.fixture
def served(
    installation: Installation, service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """Have the service in the oracle's place, asked for four texts by each of two requests."""
    settings = {
        "EMBEDDING_API_URL": service.url,
        "EMBEDDING_API_KEY": service.key,
        "EMBEDDING_BATCH_SIZE": "4",
        "EMBEDDING_PARALLEL_BATCHES": "2",
        "EMBEDDING_ADAPTIVE": "false",
        "RBA_CHUNK_TOKENS": "64",
        "RBA_CHUNK_OVERLAP": "0",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    installation.environment |= settings
    with installation.neighbours() as found:
        found.vector_store.migrate()
    return installation


def add(served: Installation, name: str, count: int, word: str = "credit") -> None:
    """Write a document of ``count`` paragraphs that differ."""
    paragraphs = [
        " ".join(f"{word} figure {place}-{number}" for number in range(16)) + "."
        for place in range(count)
    ]
    served.add(name, title="Statement", day="5 May 2011", paragraphs=paragraphs)


def metadata_of(served: Installation) -> dict[str, dict[str, Any]]:
    results = served.run(YEAR)
    assert failures(results) == []
    return results[0].metadata


def test_much_to_parse_and_to_cut_is_the_clients(served: Installation) -> None:
    # The same texts in every document: they are embedded once.
    for number in range(40):
        add(served, f"{number}.html", 60)

    told = metadata_of(served)["vectors"]

    assert told["bottleneck"] == "client"
    assert "The client (level 1)" in told["bottleneck_report"]
    assert "max_concurrent_runs" in told["bottleneck_report"]


def test_a_long_way_to_the_service_is_http(
    served: Installation, service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(served, "a.html", 100)
    with SlowLine(service.port, seconds=AWAY_S) as line:
        monkeypatch.setitem(served.environment, "EMBEDDING_API_URL", line.url)
        told = metadata_of(served)

    assert told["embeddings"]["bottleneck"] == told["vectors"]["bottleneck"] == "HTTP"
    assert "batch_size=8 (now 4 texts × 2 requests)" in told["vectors"]["bottleneck_report"]


def test_a_model_that_computes_long_is_the_model(served: Installation) -> None:
    add(served, "a.html", 60, word="labour")

    told = metadata_of(served)

    assert told["embeddings"]["bottleneck"] == told["vectors"]["bottleneck"] == "model"
    assert "The model (level 3)" in told["vectors"]["bottleneck_report"]
    assert told["embeddings"]["model_busy_share"] > 0.5


@pytest.mark.long
def test_a_long_way_to_the_database_is_the_database(
    served: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(served, "a.html", 8)

    def carry(kind: bytes, content: bytes) -> Fate:
        # The end of what is sent at once: one of them for each answer.
        if kind in (b"S", b"Q"):
            on_its_way.wait(AWAY_S)
        return Fate.PASSES

    on_its_way = threading.Event()
    with DatabaseProxy(served.environment["RBA_DATABASE_URL"]) as proxy:
        proxy.watch = carry
        monkeypatch.setenv("RBA_DATABASE_URL", proxy.url)
        told = metadata_of(served)

    assert told["vectors"]["bottleneck"] == "database"
    assert "RBA_DATABASE_URL" in told["vectors"]["bottleneck_report"]


class FarStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store of objects that is far away: whatever is opened takes a while."""

    protocol = "far"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    root_marker = "/"

    def _open(self, *arguments: Any, **options: Any) -> Any:
        threading.Event().wait(AWAY_S)
        return super()._open(*arguments, **options)


@pytest.mark.long
def test_a_long_way_to_the_store_is_the_record(
    served: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("far", FarStore, clobber=True)
    add(served, "a.html", 8)
    monkeypatch.setitem(served.environment, "RBA_STORE", "far://store")
    monkeypatch.setenv("RBA_STORE", "far://store")

    # Of a partition that is as it should be everything is read, and nothing is written.
    _, told = metadata_of(served), metadata_of(served)

    assert told["vectors"]["bottleneck"] == "record"
    assert "Most of it was reading the record in" in told["vectors"]["bottleneck_report"]
    assert "RBA_STORE" in told["vectors"]["bottleneck_report"]


def test_every_run_has_the_same_figures_to_plot_and_speed_only_if_something_was_sent(
    served: Installation,
) -> None:
    add(served, "a.html", 8)

    first, again = metadata_of(served), metadata_of(served)

    speed = {"chunks_per_second", "tokens_per_second", "padding_share", "model_busy_share"}
    assert numbers(first["embeddings"]) - numbers(again["embeddings"]) == speed
    for asset, stages in STAGES_OF.items():
        named = {"seconds", *(f"seconds_{stage}" for stage in stages)}
        assert named <= numbers(first[asset])
        assert numbers(again[asset]) <= numbers(first[asset])
        spent = sum(first[asset][f"seconds_{stage}"] for stage in stages)
        assert first[asset]["seconds"] == pytest.approx(spent, abs=0.01)
    assert (first["embeddings"]["reuse_share"], again["embeddings"]["reuse_share"]) == (0.0, 1.0)
    assert 0 <= first["embeddings"]["padding_share"] < 1
    assert "nothing was sent" in again["embeddings"]["pace"]
    assert again["vectors"]["bottleneck"] in set(Level)


def numbers(metadata: dict[str, Any]) -> set[str]:
    """Return the names of what Dagster draws over time and over partitions."""
    return {name for name, value in metadata.items() if type(value) in (int, float)}
