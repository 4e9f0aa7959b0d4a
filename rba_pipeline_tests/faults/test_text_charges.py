"""A run that sent a text in vain counts once against it, whatever it repeats, wherever it ends."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rba_pipeline_tests.faults.conftest import IN_FLIGHT, PARTITION, add_documents
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate, query
from rba_pipeline_tests.faults.invariants import check_failure, check_invariants
from rba_pipeline_tests.faults.runs import figure, run, start
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.publishing import wait_for_a_waiting_lock

pytestmark = [pytest.mark.postgres, pytest.mark.case("C9")]

LONG = pytest.mark.long
UNLOCKING = query(b"pg_advisory_unlock")


def fail_at_one(number: int, texts: list[str]) -> Reply | None:
    return Reply.error(500, "model_failed") if any("A-7-3" in text for text in texts) else None


def rejecting(poison: str, *, then_ends: bool = False) -> Callable[[int, list[str]], Reply | None]:
    """Return a script that rejects one text, sent alone, and lets nobody in soon afterwards."""
    rejected = list[int]()

    def script(number: int, texts: list[str]) -> Reply | None:
        if poison in texts[0]:
            rejected.append(number)
            return Reply.error(422, "text_invalid", 0)
        ends = then_ends and rejected and number > rejected[0] + 4
        return Reply.error(401, "not_allowed") if ends else None

    return script


def charges(project: Installation) -> list[int]:
    """Return the attempts of each text that the next run knows as at fault."""
    window = project.window(PARTITION)
    with project.neighbours() as found:
        space = found.embedding_store.outcomes(window).space.id
        return [row.attempts for row in found.embedding_store.earlier(window, space).values()]


class Loses:
    """Lets the connection that holds the outcomes' lock meet ``fate``, ``left`` times."""

    def __init__(self, fate: Fate, left: int) -> None:
        self.fate, self.left = fate, left
        self._of_outcomes = threading.local()

    def watch(self, kind: bytes, content: bytes) -> Fate:
        """Be told of every message; see ``DatabaseProxy``."""
        if b": the outcomes" in content:
            self._of_outcomes.held = True
        is_it = UNLOCKING(kind, content) and getattr(self._of_outcomes, "held", False)
        if not is_it or not self.left:
            return Fate.PASSES
        self.left -= 1
        return self.fate


@pytest.mark.parametrize(
    ("fate", "times"),
    [
        pytest.param(Fate.CUT, 1, id="amid-the-work"),
        pytest.param(Fate.ANSWER_CUT, 2, id="after-the-work-twice", marks=LONG),
        pytest.param(Fate.CUT, 1000, id="always", marks=LONG),
    ],
)
def test_a_run_that_loses_the_lock_for_what_it_writes_charges_a_text_once(
    project: Installation, oracle: OracleService, fate: Fate, times: int
) -> None:
    oracle.script, lost = fail_at_one, Loses(fate, times)
    with (
        DatabaseProxy(project.environment["RBA_DATABASE_URL"]) as proxy,
        pytest.MonkeyPatch.context() as environment,
    ):
        proxy.watch = lost.watch
        # The resources of a run in this process are made from its own environment.
        environment.setenv("RBA_DATABASE_URL", proxy.url)
        results = project.run(
            PARTITION, config={"resources": {"vector_store": {"config": {"retry_for_s": 2}}}}
        )
    charged = charges(project)
    again = run(project)

    if times == 1000:
        assert "DatabaseUnavailable" in check_failure(results)
        assert lost.left < times - 2
    else:
        assert failures(results) == []
        assert lost.left == 0
    assert charged == [1]
    assert failures(again) == []
    assert charges(project) == [2]


def test_a_second_chance_that_is_given_while_a_run_fails_is_not_lost(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_BATCH_SIZE"] = "1"
    oracle.script = rejecting("A-7-3")
    first = run(project)
    add_documents(project, paragraphs=12, names="C")
    oracle.sent.clear()
    refuse, holding = rejecting("C-0-3", then_ends=True), threading.Event()

    def give_a_second_chance() -> None:
        with project.neighbours() as found:
            (name,) = (each.name for each in found.vector_store.quarantine())

            def change() -> None:
                holding.set()
                wait_for_a_waiting_lock(project.environment["RBA_DATABASE_URL"])
                found.embedding_store.change_quarantined(
                    [name], lambda row: replace(row, attempts=0)
                )

            found.vector_store.holding_outcomes(change)

    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(give_a_second_chance)
        assert holding.wait(RUN_S)
        oracle.script = refuse
        failed = run(project)
        giving.result(RUN_S)

    assert failures(first) == []
    assert "NotAllowed" in check_failure(failed)
    assert sorted(charges(project)) == [0, 1]


@pytest.mark.case("O1")
@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(("open", "/rejected/", "1"), id="before-they-are-written", marks=LONG),
        pytest.param(("os.rename", "/rejected/", "1"), id="before-they-are-there", marks=LONG),
    ],
)
def test_a_run_that_is_killed_as_it_keeps_the_texts_at_fault_is_run_again_and_all_is_well(
    project: Installation, oracle: OracleService, gate: tuple[str, ...]
) -> None:
    project.environment["EMBEDDING_BATCH_SIZE"] = "1"
    oracle.script = rejecting("A-7-3", then_ends=True)
    process = start(project, *gate)
    output, _ = process.communicate(timeout=RUN_S)
    oracle.script = rejecting("A-7-3")
    results = run(project)

    assert process.returncode == -signal.SIGKILL, output
    assert failures(results) == []
    assert charges(project) == [1]
    check_invariants(project, oracle, results, resent=IN_FLIGHT, quarantined=1)


@pytest.mark.case("O1")
@pytest.mark.long
def test_a_run_that_is_killed_before_it_removes_what_a_failed_one_kept_has_charged_once(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script, window = fail_at_one, project.window(PARTITION)
    first = run(project)
    with project.neighbours() as found:
        made = found.embedding_store.outcomes(window)
        found.embedding_store.write_rejected(
            window, made.space, made.chunking_id, made.quarantined.values()
        )
    process = start(project, "os.remove", "/rejected/", "1")
    output, _ = process.communicate(timeout=RUN_S)
    charged = charges(project)
    third = run(project)

    assert process.returncode == -signal.SIGKILL, output
    assert failures([*first, *third]) == []
    assert charged == [2]
    assert charges(project) == [3]
    assert figure(third, "quarantined") == 1
