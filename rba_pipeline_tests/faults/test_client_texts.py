"""Texts that the service fails at, or seems to: C cases, as runs of a partition."""

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import dagster as dg
import psycopg
import pytest

from rba_pipeline.assets.embeddings import embeddings_asset
from rba_pipeline.assets.vectors import vectors_asset
from rba_pipeline.definitions import build_resources
from rba_pipeline.partitions import partitions_by
from rba_pipeline.resources.locks import lock_key
from rba_pipeline.second_chances import forget, retry
from rba_pipeline_tests.faults.conftest import (
    BATCH,
    IN_FLIGHT,
    PARTITION,
    add_documents,
)
from rba_pipeline_tests.faults.invariants import (
    check_failure,
    check_invariants,
)
from rba_pipeline_tests.faults.runs import figure, run, start
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.publishing import wait_for_a_waiting_lock

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long


def fails_at(poison: str) -> Callable[[int, list[str]], Reply | None]:
    def script(number: int, texts: list[str]) -> Reply | None:
        return Reply.error(500, "model_failed") if any(poison in text for text in texts) else None

    return script


def rejects(poison: str) -> Callable[[int, list[str]], Reply | None]:
    def script(number: int, texts: list[str]) -> Reply | None:
        bad = [place for place, text in enumerate(texts) if poison in text]
        return Reply.error(422, "text_invalid", bad[0]) if bad else None

    return script


def succeeds(project: Installation, of: Callable[..., dg.AssetsDefinition]) -> bool:
    """Materialise one asset of the partition alone."""
    settings = project.settings
    return dg.materialize(
        [of(partitions_by(settings.grain, settings.first_year), None)],
        partition_key=PARTITION,
        resources=build_resources(settings),
        instance=dg.DagsterInstance.ephemeral(),
    ).success


def forget_all(project: Installation) -> tuple[int, int]:
    """Forget all texts; return how many were listed before, and are afterwards."""
    with project.neighbours() as found:
        before = found.vector_store.quarantine()
        forget(found.embedding_store, found.vector_store, None)
        return len(before), len(found.vector_store.quarantine())


@pytest.mark.case("C9")
def test_one_poisoned_text_of_32_is_found_in_ten_calls_and_its_neighbours_are_stored(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_BATCH_SIZE"] = "32"
    oracle.script = fails_at("A-7-3")
    results = run(project)

    needed = math.ceil(figure(results, "texts") / 32)
    assert failures(results) == []
    assert len(oracle.sent) + oracle.canaries - 1 - needed <= 10
    assert figure(results, "quarantined_by_reason") == {"model_failed": 1}
    assert len(project.rows()) == figure(results, "texts") - 1
    check_invariants(project, oracle, results, resent=3 * 32, quarantined=1)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(Reply.error(401, "not_allowed"), id="401", marks=pytest.mark.case("C14")),
        pytest.param(Reply.error(503, "starting"), id="away", marks=LONG),
    ],
)
@pytest.mark.case("C9")
def test_a_text_at_fault_is_not_searched_for_again_after_a_run_that_failed_later(
    project: Installation, oracle: OracleService, end: Reply
) -> None:
    project.environment |= {"EMBEDDING_BATCH_SIZE": "1", "EMBEDDING_OUTAGE_SECONDS": "2"}
    alone = list[int]()

    def reject(number: int, texts: list[str]) -> Reply | None:
        return Reply.error(422, "text_invalid", 0) if "A-7-3" in texts[0] else None

    def reject_then_fail(number: int, texts: list[str]) -> Reply | None:
        alone.extend([number] if "A-7-3" in texts[0] else [])
        return end if alone and number > alone[0] + 4 else reject(number, texts)

    oracle.script = reject_then_fail
    oracle.canary_script = lambda: end if alone and len(oracle.sent) > alone[0] + 5 else None
    failed = run(project)
    with project.neighbours() as found:
        listed = found.vector_store.quarantine()
    oracle.script, oracle.canary_script = reject, lambda: None
    results = run(project)

    check_failure(failed)
    assert listed == []
    assert failures(results) == []
    assert figure(results, "quarantined_by_reason") == {"text_invalid": 1}
    assert sum("A-7-3" in text for text in oracle.texts_sent) == 1
    check_invariants(project, oracle, results, resent=IN_FLIGHT, quarantined=1)


@pytest.mark.case("C9")
def test_publishing_alone_lists_the_texts_without_a_vector(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = fails_at("A-7-3")
    first = run(project)
    with project.neighbours() as found:
        (before,) = found.vector_store.quarantine()
        found.vector_store.drop_from_quarantine("text", [before.name])

    published = succeeds(project, vectors_asset)

    assert failures(first) == []
    assert published
    with project.neighbours() as found:
        assert found.vector_store.quarantine() == [before]


@pytest.mark.case("C9")
def test_a_text_that_is_forgotten_while_its_vectors_wait_for_their_turn_is_not_listed_again(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = rejects("A-7-3")
    first = run(project)
    url, corpus = project.environment["RBA_DATABASE_URL"], project.environment["RBA_CORPUS"]

    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key("corpus", corpus)])

        def forget_in_line() -> tuple[int, int]:
            with closing(holder):
                wait_for_a_waiting_lock(url)
                return forget_all(project)

        forgetting = pool.submit(forget_in_line)
        published = succeeds(project, vectors_asset)
        forgotten = forgetting.result(RUN_S)

    assert failures(first) == []
    assert published
    assert forgotten == (1, 0)
    with project.neighbours() as found:
        assert found.vector_store.quarantine() == []


@pytest.mark.case("C9")
def test_a_text_that_is_forgotten_after_its_outcome_was_written_is_not_listed_again(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = rejects("A-7-3")
    first = run(project)
    forgotten = list[tuple[int, int]]()
    # Nothing is left to be sent: the canary alone is, by the checks at the end.
    oracle.canary_script = lambda: forgotten.append(forget_all(project))
    embedded = succeeds(project, embeddings_asset)

    assert failures(first) == []
    assert embedded
    assert forgotten == [(1, 0)]
    with project.neighbours() as found:
        assert found.vector_store.quarantine() == []


@pytest.mark.case("C9")
@pytest.mark.long
def test_a_text_in_quarantine_is_tried_again_only_on_demand(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = rejects("A-7-3")
    first = run(project)
    check_invariants(project, oracle, first, resent=BATCH, quarantined=1)
    oracle.sent.clear()
    second = run(project)
    assert oracle.sent == []
    assert figure(second, "quarantined") == 1
    oracle.script = lambda number, texts: None
    with project.neighbours() as found:
        (entry,) = found.vector_store.quarantine()
        retry(found.embedding_store, found.vector_store, [entry.name])
    third = run(project)

    assert figure(third, "quarantined") == 0
    assert len(oracle.texts_sent) == 1
    oracle.sent.extend([row[6]] for row in project.rows().values())
    check_invariants(project, oracle, third, resent=1)


@pytest.mark.case("C9")
@pytest.mark.long
def test_a_second_chance_given_while_a_run_is_under_way_is_not_lost(
    project: Installation, oracle: OracleService
) -> None:
    def give_a_second_chance(number: int, texts: list[str]) -> None:
        if number == 0:
            with project.neighbours() as found:
                (entry,) = found.vector_store.quarantine()
                retry(found.embedding_store, found.vector_store, [entry.name])

    oracle.script = rejects("A-7-3")
    run(project)
    project.add("late.html", title="Late", day="9 May 2011", paragraphs=["Wheat rose."])
    oracle.sent.clear()
    oracle.script = give_a_second_chance
    meanwhile = run(project)
    afterwards = run(project)

    assert failures([*meanwhile, *afterwards]) == []
    assert figure(meanwhile, "quarantined") == 1
    assert figure(afterwards, "quarantined") == 0


@pytest.mark.case("C9")
@pytest.mark.long
def test_a_second_chance_that_another_run_has_used_meanwhile_is_named(
    project: Installation, oracle: OracleService
) -> None:
    ended = list[int]()

    def be_overtaken(number: int, texts: list[str]) -> None:
        if number == 0:
            with project.neighbours() as found:
                (entry,) = found.vector_store.quarantine()
                retry(found.embedding_store, found.vector_store, [entry.name])
            # As in life a process of its own: two runs in one may block each other's logging.
            other = start(project)
            other.communicate(timeout=RUN_S)
            ended.append(other.returncode)

    # For as long as the other run takes.
    project.environment["EMBEDDING_API_TIMEOUT"] = str(RUN_S)
    oracle.script = rejects("A-7-3")
    run(project)
    add_documents(project, paragraphs=1, names="C")
    oracle.sent.clear()
    oracle.script = be_overtaken
    overtaken = run(project)
    afterwards = run(project)

    message = check_failure(overtaken)
    assert "another run has changed that meanwhile. Materialise 'embeddings' again" in message
    assert ended == [0]
    assert failures(afterwards) == []
    assert figure(afterwards, "quarantined") == 0


@pytest.mark.case("C11")
@pytest.mark.long
def test_a_service_that_fails_at_everything_is_no_poison(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "4"

    def outage(number: int, texts: list[str]) -> Reply | None:
        return Reply.error(500, "model_failed") if number >= 3 else None

    oracle.script = outage
    oracle.canary_script = lambda: (
        Reply.error(500, "model_failed") if len(oracle.sent) > 3 else None
    )
    failed = run(project)
    attempts = len(oracle.sent)
    oracle.script, oracle.canary_script = lambda number, texts: None, lambda: None
    results = run(project)

    message = check_failure(failed)
    assert "ModelFailed" in message
    assert "No text is blamed" in message
    # By what it says itself: four seconds, and the pause that they ended in.
    waited = re.search(r"Nothing was answered for (\d+) s", message)
    assert waited
    assert 4 <= int(waited[1]) <= 12
    assert attempts <= 3 + 6
    assert failures(results) == []
    assert figure(results, "quarantined") == 0
    check_invariants(project, oracle, results, resent=6 * BATCH)


@pytest.mark.case("C11", "C12")
@pytest.mark.parametrize(
    ("refusal", "named"),
    [
        pytest.param(
            Reply(413, b"<html>"), "nginx: client_max_body_size", id="413-of-a-proxy", marks=LONG
        ),
        pytest.param(Reply.error(413, "too_large"), "it is not the texts", id="413", marks=LONG),
        pytest.param(Reply.error(422, "text_empty", 0), "it is not the texts", id="422"),
        pytest.param(Reply.error(500, "model_failed"), "it is not the texts", id="500", marks=LONG),
    ],
)
@pytest.mark.parametrize("is_new", [True, pytest.param(False, marks=LONG)], ids=["one", "all"])
def test_a_service_that_embeds_nothing_but_its_canary_has_no_text_blamed(
    project: Installation, oracle: OracleService, refusal: Reply, named: str, is_new: bool
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "300"
    if is_new:
        assert failures(run(project)) == []
        add_documents(project, paragraphs=1, names="C")
    before, known = len(oracle.texts_sent), project.rows().keys()
    oracle.script = lambda number, texts: refusal
    failed = run(project)
    in_vain = len(oracle.texts_sent) - before
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert named in message
    assert failures(results) == []
    assert figure(results, "quarantined") == 0
    new = [row[6] for name, row in project.rows().items() if name not in known]
    assert 0 < in_vain <= len(new) + IN_FLIGHT
    # Afterwards each of them once more, and nothing else.
    assert sorted(oracle.texts_sent[before + in_vain :]) == sorted(new)
    check_invariants(project, oracle, results, resent=in_vain)


@pytest.mark.case("C12")
def test_a_request_that_is_too_large_is_split_and_one_text_that_is_goes_to_quarantine(
    project: Installation, oracle: OracleService
) -> None:
    most = 1200

    def too_large(number: int, texts: list[str]) -> Reply | None:
        huge = any("B-9-2" in text for text in texts)
        is_large = sum(map(len, texts)) > most
        return Reply.error(413, "too_large") if huge or is_large else None

    oracle.script = too_large
    results = run(project)

    assert failures(results) == []
    assert figure(results, "quarantined_by_reason") == {"too_large": 1}
    assert len({tuple(sent) for sent in oracle.sent}) == len(oracle.sent)
    # What was in flight when the limit was met, what is beside the text that is too large, and the
    # few requests that were tried since.
    resent = IN_FLIGHT + 3 * BATCH
    assert resent < figure(results, "texts")
    check_invariants(project, oracle, results, resent=resent, quarantined=1)
