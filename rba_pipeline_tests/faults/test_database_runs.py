"""D cases as whole runs: the database fails while a partition is published, and all is well."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from rba_pipeline_tests.faults.cluster import Cluster
from rba_pipeline_tests.faults.conftest import add_documents
from rba_pipeline_tests.faults.database_proxy import (
    DatabaseProxy,
    Fate,
    Sees,
    copying_into,
    query,
)
from rba_pipeline_tests.faults.invariants import check_failure, check_invariants
from rba_pipeline_tests.faults.publications import Tries, backend_of, raising, refuse_texts, value
from rba_pipeline_tests.faults.runs import run
from rba_pipeline_tests.installation import Installation, failures, total
from rba_pipeline_tests.oracle_service import OracleService
from rba_pipeline_tests.resources.publishing import end_other_connections

pytestmark = [pytest.mark.postgres, pytest.mark.long]

WAIT_S = 30
BEGINNING = query(b"COPY staged_documents")


@pytest.fixture
def database_url(cluster: Cluster) -> str:
    """Have an empty database on the server that may be killed."""
    return cluster.new_database()


class Drama:
    """What happens to a run's publication: acts, each at the first message that is for it.

    Attributes:
        url: The database's own address.
        other: A session of somebody else, with nothing open.
        starting: Whoever starts the server again.
        attempts: How often a publication began.
    """

    def __init__(self, cluster: Cluster, url: str, other: psycopg.Connection) -> None:
        self.cluster = cluster
        self.url = url
        self.other = other
        self.starting: list[threading.Thread] = []
        self.attempts = 0
        self.left: list[tuple[Sees, Callable[[], object], Fate]] = []

    def then(self, sees: Sees, act: Callable[[], object], fate: Fate = Fate.PASSES) -> None:
        """Let ``act`` happen before the message that ``sees`` is for, and that meet ``fate``."""
        self.left.append((sees, act, fate))

    def watch(self, kind: bytes, content: bytes) -> Fate:
        """Be told of every message; see ``DatabaseProxy``."""
        self.attempts += BEGINNING(kind, content)
        if not self.left or not self.left[0][0](kind, content):
            return Fate.PASSES
        _, act, fate = self.left.pop(0)
        act()
        return fate


@pytest.fixture
def drama(cluster: Cluster, database_url: str) -> Iterator[Drama]:
    with psycopg.connect(database_url) as other:
        yield Drama(cluster, database_url, other)


def nothing() -> None:
    """Only wait for the message."""


def kill_the_backend(drama: Drama) -> None:
    drama.then(
        copying_into(b"staged_vectors"), lambda: os.kill(backend_of(drama.url), signal.SIGKILL)
    )


def crash_the_server(drama: Drama) -> None:
    def crash() -> None:
        drama.cluster.crash()
        drama.starting.append(drama.cluster.restart_when_somebody_calls())

    drama.then(copying_into(b"staged_vectors"), crash)


def lose_the_answer_to_the_commit(drama: Drama) -> None:
    drama.then(BEGINNING, nothing)
    drama.then(query(b"COMMIT"), nothing, Fate.ANSWER_CUT)


def lock_the_table_for_one_attempt(drama: Drama) -> None:
    drama.then(BEGINNING, lambda: drama.other.execute("LOCK TABLE vectors"))
    drama.then(BEGINNING, drama.other.rollback)


def end_connections_amid_copy(drama: Drama) -> None:
    drama.then(copying_into(b"staged_chunks"), lambda: end_other_connections(drama.url))


def end_connections_before_rows_are_inserted(drama: Drama) -> None:
    drama.then(query(b"INSERT INTO vectors"), lambda: end_other_connections(drama.url))


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(kill_the_backend, id="D1-backend-killed-amid-copy"),
        pytest.param(crash_the_server, id="D2-server-crashes-and-comes-back"),
        pytest.param(lose_the_answer_to_the_commit, id="D3-commit-in-doubt"),
        pytest.param(lock_the_table_for_one_attempt, id="D5-lock-given-up-in-time"),
        pytest.param(end_connections_amid_copy, id="D7-ended-amid-copy"),
        pytest.param(end_connections_before_rows_are_inserted, id="D7-ended-before-inserting"),
    ],
)
def test_a_run_begins_its_publication_again_and_all_is_well(
    project: Installation,
    oracle: OracleService,
    drama: Drama,
    happens: Callable[[Drama], None],
) -> None:
    happens(drama)
    with DatabaseProxy(drama.url) as proxy, pytest.MonkeyPatch.context() as environment:
        proxy.watch = drama.watch
        # The resources of a run in this process are made from its own environment.
        environment.setenv("RBA_DATABASE_URL", f"{proxy.url}?options=-c%20lock_timeout%3D100")
        results = run(project)
    for thread in drama.starting:
        thread.join(WAIT_S)
    drama.other.close()

    assert failures(results) == []
    assert drama.left == []
    assert drama.attempts == 2
    # Whatever the database does, no text is sent for it again.
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.parametrize(
    "state", [pytest.param("40001", id="D7-40001"), pytest.param("57P01", id="D7-57P01")]
)
def test_a_run_tries_again_what_passes(
    project: Installation, oracle: OracleService, database_url: str, state: str
) -> None:
    tries = Tries(database_url, raising(state), "BEFORE INSERT ON vectors", first=1)

    results = run(project)

    assert failures(results) == []
    assert tries.count() == 2
    check_invariants(project, oracle, results, resent=0)


def a_new_document(project: Installation) -> None:
    add_documents(project, paragraphs=4, names="C")


def an_edited_document(project: Installation) -> None:
    file = project.source / "A.html"
    file.write_text(file.read_text().replace(" A-31-", " A-41-"))


def a_deleted_document(project: Installation) -> None:
    (project.source / "B.html").unlink()


@pytest.mark.case("D7")
@pytest.mark.parametrize(
    ("change", "new"),
    [
        pytest.param(a_new_document, {" C-"}, id="new"),
        pytest.param(an_edited_document, {" A-41-"}, id="T11-edited"),
        pytest.param(a_deleted_document, set(), id="T12-deleted"),
    ],
)
def test_a_change_that_is_refused_for_good_changes_nothing_and_is_made_by_the_next_run(
    project: Installation,
    oracle: OracleService,
    database_url: str,
    change: Callable[[Installation], None],
    new: set[str],
) -> None:
    first, before = run(project), project.rows()
    change(project)
    tries = Tries(database_url, raising("53100"), "BEFORE INSERT ON vectors", first=1)

    failed = run(project)
    attempts, kept, sent = tries.count(), project.rows(), len(oracle.sent)
    results = run(project)

    assert failures(first) == failures(results) == []
    assert "DatabaseFull" in check_failure(failed)
    assert (attempts, kept) == (1, before)
    # What the failed run had embedded is there.
    assert len(oracle.sent) == sent
    added = {row[6] for row in project.rows().values()} - {row[6] for row in before.values()}
    assert bool(added) is bool(new)
    assert all(any(word in text for word in new) for text in added)
    # What is on record is what is in search, so that what was edited or deleted has left it.
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("D9")
def test_a_run_leaves_out_what_the_database_refuses_until_it_is_taken(
    project: Installation, oracle: OracleService, database_url: str
) -> None:
    text = "A-17-3 "
    refuse_texts(database_url, [text])

    without = run(project)

    assert failures(without) == []
    assert total(without, "vectors", "refused_by_database") == 1
    assert not any(text in row[6] for row in project.rows().values())
    check_invariants(project, oracle, without, resent=0, refused=1)

    value(database_url, "DROP TRIGGER refused ON vectors")
    taken = run(project)

    assert failures(taken) == []
    check_invariants(project, oracle, taken, resent=0)
