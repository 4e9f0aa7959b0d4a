"""What Dagster's UI shows of a step while it runs, and in the end."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
import pytest

from rba_pipeline.materialise import PartitionResult
from rba_pipeline.resources.run_history import past_runs
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply

pytestmark = pytest.mark.postgres
KEY = "2011-01-01"


@pytest.fixture
def project(installation: Installation) -> Installation:
    """Have one document of forty chunks, and a database with our schema."""
    installation.environment |= {
        "RBA_CHUNK_TOKENS": "64",
        "RBA_CHUNK_OVERLAP": "0",
        "EMBEDDING_BATCH_SIZE": "4",
        "EMBEDDING_PARALLEL_BATCHES": "1",
        "EMBEDDING_ADAPTIVE": "false",
    }
    texts = [" ".join(f"wheat {place}-{word}" for word in range(10)) for place in range(40)]
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=texts)
    with installation.neighbours() as found:
        found.vector_store.migrate()
    return installation


def observed(asset: str) -> list[dict[str, Any]]:
    """Return the metadata of what was observed of the partition so far, oldest first."""
    with dg.DagsterInstance.get() as instance:
        found = instance.fetch_observations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[KEY]),
            limit=100,
            ascending=True,
        )
    made = [record.event_log_entry.asset_observation for record in found.records]
    return [{name: value.value for name, value in each.metadata.items()} for each in made if each]


def until_observed(asset: str, **figures: Any) -> dict[str, Any]:
    """Return the first observation with these ``figures``, as soon as there is one.

    Dagster is asked again and again. Its watch of a SQLite log hears of writes to the one file, but
    events are written to the journal beside that, and come into the file at some later time.
    """
    never = threading.Event()
    for _ in range(RUN_S * 20):
        for each in observed(asset):
            if figures.items() <= each.items():
                return each
        never.wait(0.05)
    raise AssertionError(f"{figures} was not observed of {asset} within {RUN_S} s")


def log_lines(run_id: str) -> Iterator[str]:
    with dg.DagsterInstance.get() as instance:
        for entry in instance.all_logs(run_id):
            if entry.dagster_event is None:
                yield entry.user_message


def run(project: Installation) -> PartitionResult:
    [result] = project.run(KEY)
    assert failures([result]) == []
    return result


def test_a_slow_step_says_how_far_it_is_while_it_runs_and_in_the_end_all(
    project: Installation, oracle: OracleService
) -> None:
    seen = threading.Event()

    def hold_the_third(number: int, texts: list[str]) -> None:
        if number == 2:
            seen.wait(RUN_S)

    oracle.script = hold_the_third
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, project)
        # On a slow machine it is said before of fewer.
        early = until_observed("embeddings", texts_done=8)
        was_running = not running.done()
        seen.set()
        result = running.result(RUN_S)

    made, last = result.metadata["embeddings"], observed("embeddings")[-1]
    assert was_running
    assert early["texts_done"] == 8
    assert early["texts_done"] + early["texts_left"] == made["texts"] == 40
    assert early["texts_per_second"] > 0
    assert early["seconds_left"] > 0
    assert "waiting_for" not in early
    assert last["texts_done"] == made["embedded"] == 40
    assert last["texts_left"] == last["seconds_left"] == 0
    assert last["texts_per_second"] == made["chunks_per_second"]
    assert any(line.startswith("40 of 40 texts, ") for line in log_lines(result.run_id))


def test_a_run_that_waits_for_the_service_before_it_begins_says_so_and_why(
    project: Installation, oracle: OracleService
) -> None:
    oracle.page_script = lambda path: (
        Reply.error(503, "starting") if oracle.pages.count(path) == 1 else None
    )
    result = run(project)

    waited = [each for each in observed("chunks") if "waiting_for" in each]
    assert ["503 starting" in each["waiting_for"] for each in waited] == [True] * len(waited)
    # For /info, and for the tokenizer, which the embeddings do not need.
    assert len(waited) == 2
    assert any(
        line.startswith("nothing to do but to wait for the embedding service, 0 s so far, 300 s")
        for line in log_lines(result.run_id)
    )


def test_a_step_that_waits_says_for_whom(project: Installation, oracle: OracleService) -> None:
    seen = threading.Event()

    def hold_all(number: int, texts: list[str]) -> None:
        seen.wait(RUN_S)

    oracle.script = hold_all
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, project)
        early = until_observed("embeddings", texts_done=0)
        seen.set()
        result = running.result(RUN_S)

    waiting = f"{oracle.url} (no answer yet)"
    assert early["texts_per_second"] == early["texts_done"] == 0
    assert early["waiting_for"] == waiting
    assert "seconds_left" not in early
    assert f"0 of 40 texts, 0.0 per second, waiting for {waiting}" in log_lines(result.run_id)


def test_a_run_that_waits_for_another_to_read_the_source_says_so_and_counts_it_as_waiting(
    project: Installation,
) -> None:
    held, seen = threading.Event(), threading.Event()
    whom = "another run or command that reads the source"

    def hold() -> None:
        held.set()
        seen.wait(RUN_S)

    with project.neighbours() as other, ThreadPoolExecutor(2) as pool:
        holding = pool.submit(other.vector_store.holding_catalogue, hold)
        assert held.wait(RUN_S)
        running = pool.submit(run, project)
        try:
            early = until_observed("documents", waiting_for=whom)
        finally:
            seen.set()
        result = running.result(RUN_S)
        holding.result(RUN_S)

    told = result.metadata["documents"]
    # Once it is sure to last longer than a moment.
    assert early["seconds_waited"] >= 2
    assert any(f"wait for {whom}, " in line for line in log_lines(result.run_id))
    assert told["seconds_locking"] >= early["seconds_waited"]
    assert told["seconds_database"] < told["seconds"] - told["seconds_locking"]
    with dg.DagsterInstance.get() as instance:
        [past] = past_runs(instance)
    begun, ended = past.course.waiting[0]
    assert ended - begun == pytest.approx(told["seconds_locking"])


def test_the_last_figures_are_the_totals_and_of_nothing_to_be_done_nothing_is_said(
    project: Installation, oracle: OracleService
) -> None:
    project.add("b.html", title="B", day="6 June 2012", paragraphs=["Rain fell on the plain."])
    oracle.script = lambda number, texts: (
        Reply.error(422, "text_invalid", 0) if "7-0" in texts[0] else None
    )

    made = run(project).metadata
    said = observed("embeddings"), observed("documents")
    again = run(project).metadata

    embeddings, (*_, of_texts), (*_, of_files) = made["embeddings"], *said
    assert embeddings["quarantined"] == again["embeddings"]["quarantined"] > 0
    assert of_texts["texts_done"] == embeddings["embedded"] + embeddings["quarantined"] == 40
    assert of_texts["texts_left"] == of_files["files_left"] == 0
    assert of_files["files_done"] == made["documents"]["parsed_files"] == 2
    [of_documents] = observed("chunks")
    assert (of_documents["documents_done"], of_documents["documents_left"]) == (1, 0)
    assert (observed("embeddings"), observed("documents")) == said
