"""The sensor under a real daemon: what changed is run, and once, whenever the daemon is killed;
and which of the runs that nobody watches are launched again.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg
import psycopg
import pytest
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG, WILL_RETRY_TAG

from rba_pipeline.backfills import LAUNCHED_BY
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.run_outcomes import failure_of
from rba_pipeline.sensors import CHANGED
from rba_pipeline_tests.faults.conftest import LIVE_BATCH, LIVE_PARALLEL, add_documents, fill
from rba_pipeline_tests.faults.invariants import check_invariants
from rba_pipeline_tests.faults.live_dagster import IN_ONE_PROCESS, LiveDagster, key_of, result_of
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(1800)]

# Generous: only a failure takes as long.
_SETTLED_S = 600
_NOTHING_DIFFERS = "no partition differs from the source"
# An advisory lock that nobody else takes: it holds the daemon at one statement.
_GATE = 8_211_403


@pytest.fixture(scope="module")
def live_settings(live_settings: dict[str, str]) -> dict[str, str]:
    return {
        **live_settings,
        "RBA_SENSOR_SECONDS": "5",
        "RBA_SCHEDULED_RUN_CONFIG": json.dumps(IN_ONE_PROCESS),
    }


@dataclass
class Watched:
    """A project with the sensor over it, and the runs that came of it."""

    live: LiveDagster
    project: Installation
    oracle: OracleService
    _earlier: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._earlier = {run.run_id for run in self.runs()}

    def runs(self) -> list[dg.DagsterRun]:
        """Return the runs of this test, the oldest first."""
        found = self.live.instance.get_runs(RunsFilter(job_name=PUBLISH))
        return [run for run in reversed(found) if run.run_id not in self._earlier]

    def settled(self) -> list[dg.DagsterRun]:
        """Return the runs since the last call, once a look that begins now finds nothing to do."""
        since = time.time()

        def nothing_differs() -> bool:
            tick = self.last_look()
            return (
                tick is not None and tick.timestamp > since and tick.skip_reason == _NOTHING_DIFFERS
            )

        self.live.until(nothing_differs, _SETTLED_S)
        self.live.until(lambda: all(run.is_finished for run in self.runs()))
        new = [run for run in self.runs() if run.run_id not in self._told]
        self._told |= {run.run_id for run in new}
        return new

    def last_look(self) -> InstigatorTick | None:
        return self.live.last_tick(CHANGED)

    def check(self, *, resent: int) -> None:
        """Assert the invariants, with the last run of every partition."""
        last = {key_of(run): run for run in self.runs()}
        results = [result_of(self.live.instance, run) for run in last.values()]
        assert failures(results) == []
        check_invariants(self.project, self.oracle, results, resent=resent)


@pytest.fixture
def watched(
    live: LiveDagster, live_project: Installation, live_oracle: OracleService
) -> Iterator[Watched]:
    """Have an empty project; the sensor, if it was switched on, is off again afterwards."""
    made = Watched(live, live_project, live_oracle)
    yield made
    live.switch(CHANGED, on=False)
    live.until(lambda: (look := made.last_look()) is None or look.status is not TickStatus.STARTED)


def test_just_what_changed_is_run_and_a_daemon_killed_before_the_look_loses_nothing(
    watched: Watched,
) -> None:
    source = watched.project.source
    keys = fill(watched.project, 4)
    add_documents(watched.project, paragraphs=3, names=["extra"], year=1962)
    watched.live.switch(CHANGED, on=True)
    first = watched.settled()

    add_documents(watched.project, paragraphs=3, names=["more"], year=1960)
    add_documents(watched.project, paragraphs=12, names=["1961"], year=1961, word="barley")
    (source / "extra.html").unlink()
    os.utime(source / "1963.html", (1, 1))
    second = watched.settled()

    watched.live.kill_daemon()
    add_documents(watched.project, paragraphs=3, names=["new"], year=1964)
    (source / "more.html").unlink()
    os.utime(source / "1961.html", (2, 2))
    watched.live.start_daemon()
    third = watched.settled()

    assert sorted(map(key_of, first)) == keys
    assert sorted(map(key_of, second)) == keys[:3]
    assert sorted(map(key_of, third)) == [keys[0], "1964-01-01"]
    for run in [*first, *second, *third]:
        assert run.status is DagsterRunStatus.SUCCESS
        assert run.tags[LAUNCHED_BY] == CHANGED
    texts = {text for *_, text, _ in watched.project.rows().values()}
    assert [word for word in ("more-", "extra-", "1961-0-0 of wheat") if word in str(texts)] == []
    # The removed texts were sent too, each once.
    assert len(watched.oracle.texts_sent) == len(set(watched.oracle.texts_sent))
    watched.check(resent=0)


@dataclass
class Gate:
    """Holds whoever comes to a statement of Dagster's storage, while the block lasts.

    Attributes:
        statement: As triggers name it, like ``INSERT ON runs``.
        mark: A condition on ``NEW``.
    """

    url: str
    statement: str
    mark: str

    def __enter__(self) -> "Gate":
        self._link = psycopg.connect(self.url, autocommit=True)
        self._link.execute("SELECT pg_advisory_lock(%s)", [_GATE])
        self._link.execute(
            "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"PERFORM pg_advisory_xact_lock_shared({_GATE}); RETURN NEW; END $$"
        )
        self._link.execute(
            f"CREATE TRIGGER held BEFORE {self.statement} FOR EACH ROW WHEN ({self.mark}) "
            "EXECUTE FUNCTION held()"
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._link:
            self._link.execute("SELECT pg_advisory_unlock_all()")
            self._link.execute("DROP FUNCTION held CASCADE")

    def holds(self) -> bool:
        return self._held() != []

    def undo(self) -> None:
        """Let what was held not have happened."""
        for backend in self._held():
            self._link.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])

    def _held(self) -> list[int]:
        waiting = (
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
        )
        return [pid for (pid,) in self._link.execute(waiting, [_GATE])]


@pytest.mark.parametrize(
    ("statement", "mark", "is_undone"),
    [
        pytest.param("UPDATE ON job_ticks", "tick_body LIKE '%{}%'", True, id="nothing-is-written"),
        pytest.param("INSERT ON runs", "partition = '{}'", True, id="one-of-two-runs-is-written"),
        pytest.param("INSERT ON runs", "partition = '{}'", False, id="one-of-two-runs-is-queued"),
        # In the cursor; the last run's key, which has the partition as well, stays there for ever.
        pytest.param(
            "UPDATE ON instigators",
            """instigator_body LIKE '%asked_":{{_"{}%'""",
            True,
            id="both-are-queued-and-the-cursor-is-not-written",
        ),
    ],
)
def test_a_daemon_killed_while_the_sensor_asks_loses_no_run_and_doubles_none(
    watched: Watched, statement: str, mark: str, is_undone: bool
) -> None:
    keys = fill(watched.project, 2)
    url = watched.project.environment["DAGSTER_POSTGRES_URL"]
    # The newest partition is asked for first.
    with Gate(url, statement, f"NEW.{mark.format(keys[0])}") as gate:
        watched.live.switch(CHANGED, on=True)
        watched.live.until(gate.holds, _SETTLED_S)
        watched.live.kill_daemon()
        if is_undone:
            gate.undo()
    watched.live.start_daemon()
    runs = watched.settled()

    assert sorted(map(key_of, runs)) == keys
    watched.check(resent=0)


def test_a_run_whose_processes_were_killed_is_launched_once_more_and_goes_on(
    watched: Watched,
) -> None:
    fill(watched.project, 1)
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        if number == 1:
            reached.set()
            gone.wait(RUN_S)

    watched.oracle.script = hold
    watched.live.switch(CHANGED, on=True)
    assert reached.wait(_SETTLED_S)
    [begun] = watched.runs()
    watched.live.kill(begun.run_id)
    gone.set()
    killed, again = watched.settled()

    assert killed.status is DagsterRunStatus.FAILURE
    assert again.status is DagsterRunStatus.SUCCESS
    assert again.parent_run_id == killed.run_id == begun.run_id
    watched.check(resent=2 * LIVE_BATCH * LIVE_PARALLEL)


@pytest.mark.parametrize(
    ("is_refused", "cause"),
    [
        pytest.param(True, "refuses the key", id="the-key-is-wrong"),
        pytest.param(False, "space", id="another-model-answers"),
    ],
)
def test_a_run_that_failed_with_a_reason_is_not_launched_again(
    watched: Watched, is_refused: bool, cause: str
) -> None:
    oracle = watched.oracle
    [key] = fill(watched.project, 1)

    def script(number: int, texts: list[str]) -> Reply:
        other = oracle.regular(texts).body.replace(oracle.space().encode(), b"0" * 32)
        return Reply.error(401, "not_allowed") if is_refused else Reply(200, other)

    oracle.script = script
    watched.live.switch(CHANGED, on=True)
    watched.live.until(
        lambda: any(WILL_RETRY_TAG in run.tags for run in watched.runs()), _SETTLED_S
    )
    decided = time.time()
    watched.live.until(
        lambda: (
            (look := watched.last_look()) is not None
            and look.timestamp > decided
            and look.skip_reason == f"asked for before, and not due again yet: {key}"
        ),
        _SETTLED_S,
    )
    [failed] = watched.runs()
    oracle.script = lambda number, texts: None
    watched.project.run(key)
    # The sensor forgets that it has asked: the next test has the same documents.
    watched.settled()

    assert failed.status is DagsterRunStatus.FAILURE
    assert failed.tags[MAX_RETRIES_TAG] == "1"
    assert failed.tags[WILL_RETRY_TAG] == "false"
    assert cause in failure_of(watched.live.instance, failed)
    assert [failed.run_id] == [run.run_id for run in watched.runs() if not run.is_success]
    watched.check(resent=2 * LIVE_BATCH * LIVE_PARALLEL)
