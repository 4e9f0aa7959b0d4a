"""What a plan says is what the runs after it report, over real runs and a real database."""

import json
from collections.abc import Iterator
from itertools import count

import dagster as dg
import pytest

from benchmarks.plan_counts import planned as promised
from benchmarks.plan_counts import reported
from rba_pipeline import second_chances
from rba_pipeline.core.chunks import Chunk
from rba_pipeline.core.documents import Document
from rba_pipeline.core.plans import Plan
from rba_pipeline.core.run_costs import Way
from rba_pipeline.core.standings import State
from rba_pipeline.definitions import build_defs
from rba_pipeline.dry_run import plan_partitions
from rba_pipeline.materialise import PartitionResult
from rba_pipeline.partitions import today
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply, tokens_of
from rba_pipeline_tests.resources.sample_records import sha256

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def tokens_are_counted_as_planned(oracle: OracleService) -> None:
    oracle.length = tokens_of


def planned(installation: Installation, *keys: str) -> Plan:
    """Return the plan for runs as ``Installation.run`` launches them."""
    with installation.neighbours() as found:
        found.vector_store.migrate()
        return plan_partitions(installation.settings, found, keys or None, way=Way.ONE_PROCESS)


def check(installation: Installation, *, needed: list[bool]) -> tuple[Plan, list[PartitionResult]]:
    """Plan everything, run it, and compare."""
    plan = planned(installation)
    results = installation.run(*(each.key for each in plan.partitions))

    assert failures(results) == []
    assert [reported(each) for each in results] == [promised(each) for each in plan.partitions]
    assert [each.is_needed for each in plan.partitions] == needed
    return plan, results


@pytest.mark.long
def test_a_plan_says_what_the_runs_then_report(installation: Installation) -> None:
    words = [f"Paragraph {number} names figure {number * 7}." for number in range(40)]
    for year in (2011, 2012):
        for month in ("March", "September"):
            installation.add(
                f"{year}-{month}.html",
                title=f"Of {month} {year}",
                day=f"5 {month} {year}",
                paragraphs=words,
            )
    empty = planned(installation)
    assert {each.standing.state for each in empty.partitions} == {State.MISSING}
    assert empty.parsed == 4
    first = installation.run("2011-01-01")
    assert failures(first) == []
    assert reported(first[0]) == promised(empty.partitions[0])

    check(installation, needed=[False, True])
    unchanged, _ = check(installation, needed=[False, False])
    assert {each.standing.state for each in unchanged.partitions} == {State.CURRENT}

    # One is changed, one moves, one is removed.
    installation.add(
        "2011-March.html", title="Of March 2011", day="5 March 2011", paragraphs=words[:20]
    )
    installation.add(
        "2011-September.html", title="Of September 2011", day="5 May 2012", paragraphs=words
    )
    (installation.source / "2012-September.html").unlink()
    changed, _ = check(installation, needed=[True, True])
    assert min(each.work.delete for each in changed.partitions) > 0

    for path in installation.source.glob("2012*"):
        path.rename(path.with_suffix(".htm"))
    installation.environment |= {"RBA_CHUNK_TOKENS": "64", "RBA_CHUNK_OVERLAP": "16"}
    smaller, _ = check(installation, needed=[True, True])
    assert "chunking" in smaller.partitions[0].standing.reasons


def test_a_text_in_quarantine_is_held_until_it_is_to_be_sent_again(
    installation: Installation, oracle: OracleService
) -> None:
    for name in ("rain", "frost"):
        installation.add(f"{name}.html", title=name, day="5 May 2011", paragraphs=[f"Of {name}."])

    def reject_frost(number: int, texts: list[str]) -> Reply | None:
        bad = [place for place, text in enumerate(texts) if "Of frost" in text]
        return Reply.error(422, "text_invalid", bad[0]) if bad else None

    oracle.script = reject_frost
    assert failures(installation.run_all()) == []

    held, _ = check(installation, needed=[False])
    with installation.neighbours() as found:
        second_chances.retry(found.embedding_store, found.vector_store, None)
    oracle.script = lambda number, texts: None
    waiting, _ = check(installation, needed=[True])
    after = planned(installation)

    assert held.partitions[0].work.held == 1
    assert [each.partitions[0].standing.reasons for each in (held, waiting, after)] == [
        (), ("retry",), (),
    ]  # fmt: skip


def test_a_text_of_two_partitions_of_a_year_is_embedded_by_the_first(
    installation: Installation,
) -> None:
    installation.environment["RBA_GRAIN"] = "month"
    for month in ("March", "June", "July"):
        installation.add(f"{month}.html", title=month, day=f"5 {month} 2011", paragraphs=["Rain."])
    planned(installation)
    # Chunks of ours in the record: those that are cut begin with their month.
    number = count()

    def cut(document: Document) -> Iterator[Chunk]:
        for text in ("Of every month.", f"Of {document.title}."):
            yield Chunk(
                sha256(str(next(number)))[:32], document.document_id, 0, "", None, 0, text,
                sha256(text), tokens_of(text),
            )  # fmt: skip

    with installation.neighbours() as found:
        info = found.embedding.handshake()
        catalogue = found.source.catalogue(today())
        for key in ("2011-03-01", "2011-06-01", "2011-07-01"):
            window = installation.window(key)
            entries = catalogue.documents(window.start, window.end)
            found.records.write_documents(window, entries, found.source.read(entries))
            chunking_id = found.chunking.settings(info).chunking_id
            found.records.write_chunks(window, chunking_id, cut)

    apart = planned(installation, "2011-06-01", "2011-08-01")
    plan, _ = check(installation, needed=[True, True, True])

    assert [(each.work.embed, each.work.reuse) for each in plan.partitions] == [
        (2, 0), (1, 1), (1, 1),
    ]  # fmt: skip
    assert [(each.key, each.work.embed) for each in apart.partitions] == [
        ("2011-06-01", 2), ("2011-08-01", 0),
    ]  # fmt: skip


def test_minutes_follow_from_the_service_then_from_the_runs_before(
    installation: Installation, oracle: OracleService
) -> None:
    for year in (2011, 2012):
        installation.add(
            f"{year}.html", title=f"Of {year}", day=f"5 March {year}", paragraphs=["Rain."] * 9
        )
    oracle.stats = {"busy_s": 10.0, "tokens": 20, "padded_tokens": 20}
    by_service = planned(installation)
    oracle.stats = {"busy_s": 0.0, "tokens": 0, "padded_tokens": 0}
    by_probe = planned(installation)
    first = installation.run("2011-01-01")
    by_runs = planned(installation)

    assert (by_service.costs.rate, by_service.costs.rate_from) == (2.0, "measured by the service")
    for each in by_service.partitions:
        costs = by_service.costs
        expected = costs.run_s + each.work.cut_s + each.work.tokens / 2 + costs.chunk_s
        assert each.seconds == pytest.approx(expected)
    assert "measured now with 2 of the texts" in by_probe.costs.rate_from
    made = first[0].metadata["embeddings"]
    rate = made["tokens"] / made["stream_seconds"]
    assert (by_runs.costs.rate, by_runs.costs.rate_from) == (
        pytest.approx(rate, rel=1e-3), "of earlier runs",
    )  # fmt: skip
    assert by_runs.costs.run_from == "median of 1 earlier runs"
    assert 0 < by_runs.costs.run_s < first[0].ended - first[0].started


def test_a_run_reports_how_far_off_the_plan_for_it_was(installation: Installation) -> None:
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=["Rain fell."])
    of_missing, (first,) = check(installation, needed=[True])
    again = installation.run("2011-01-01")
    of_current, (third,) = check(installation, needed=[False])

    for plan, result in ((of_missing, first), (of_current, third)):
        told = result.metadata["vectors"]
        assert told["predicted_minutes"] * 60 == pytest.approx(plan.partitions[0].seconds)
        assert 0 < told["real_minutes"] * 60 <= result.ended - result.started
        error = told["predicted_minutes"] / told["real_minutes"] - 1
        assert told["prediction_error"] == pytest.approx(error)
    assert "prediction_error" not in again[0].metadata["vectors"]


def test_the_plan_is_an_asset_with_a_table_and_figures_to_plot(installation: Installation) -> None:
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=["Rain fell."])
    with installation.neighbours() as found:
        found.vector_store.migrate()
    job = build_defs(installation.settings).resolve_job_def("plan_partitions")
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance)

    (made,) = result.asset_materializations_for_node("make_plan")
    assert "| 2011-01-01 | missing | 1 | 0 | 0 | 1 | 0 | 0 | 0 |" in str(
        made.metadata["plan"].value
    )
    assert made.metadata["texts_to_embed"].value == made.metadata["documents_new"].value == 1
    assert made.metadata["minutes"].value > 0


def test_a_plan_without_a_service_fails_with_one_message(
    installation: Installation, oracle: OracleService
) -> None:
    job = build_defs(installation.settings).resolve_job_def("plan_partitions")
    oracle.crash()
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)

    (failed,) = result.get_step_failure_events()
    said = failed.step_failure_data.user_failure_data
    assert said is not None
    assert str(said.description).startswith("ServiceUnavailable: cannot reach")


def test_the_command_prints_a_line_for_each_partition_that_needs_a_run(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RBA_DATABASE_URL", "EMBEDDING_API_URL"):
        monkeypatch.setenv(name, installation.environment[name].replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", installation.environment["RBA_DATABASE_URL"])
    monkeypatch.setenv("RBA_PROJECT", str(installation.folder))
    for year in (2011, 2012, 2013):
        installation.add(
            f"{year}.html", title=f"Of {year}", day=f"5 March {year}", paragraphs=["Rain."]
        )
    assert called("migrate").exit_code == 0
    assert failures(installation.run("2012-01-01")) == []

    whole = called("plan")
    part = called("plan", "--partitions", "2012-01-01...2013-01-01", "--only", "missing", "--json")
    unchanged = called("plan", "--only", "stale")
    both = called("plan", "--only", "missing", "--only", "stale", "--json")

    assert [each.exit_code for each in (whole, part, unchanged, both)] == [0, 0, 0, 0]
    lines = whole.output.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["2011-01-01", "missing"], ["2013-01-01", "missing"], ["2", "needed"], ["1", "current"],
    ]  # fmt: skip
    assert max(map(len, lines)) <= 100
    assert [each["partition"] for each in json.loads(part.output)["partitions"]] == ["2013-01-01"]
    assert unchanged.output.splitlines()[2].startswith("0 needed")
    assert [each["partition"] for each in json.loads(both.output)["partitions"]] == [
        "2011-01-01", "2013-01-01",
    ]  # fmt: skip
