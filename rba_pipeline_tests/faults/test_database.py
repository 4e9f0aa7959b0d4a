"""The database is killed, stopped, filled and locked: nothing is lost, nothing comes twice."""

import base64
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from urllib.parse import urlsplit

import psycopg
import pytest

from rba_pipeline.core.documents import Document
from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
)
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.publication import Published
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.cluster import Cluster, SmallDisk
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate, query
from rba_pipeline_tests.faults.publications import (
    Blocks,
    Striking,
    Tries,
    assert_published_once,
    backend_of,
    content_of,
    raising,
    value,
)
from rba_pipeline_tests.faults.runs import run
from rba_pipeline_tests.installation import ROOT, Installation, failures, total
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.publishing import (
    NEW_SPACE,
    Texts,
    end_other_connections,
    publish,
    rows,
    store_of,
    wait_for_a_waiting_lock,
)
from rba_pipeline_tests.resources.sample_records import (
    SPACE,
    YEAR,
    document,
    sha256,
    vectors_of,
)

pytestmark = pytest.mark.postgres

WAIT_S = 30
FLOODS, FROST = document("floods"), document("frost", day=date(2013, 8, 6))
TEXTS: Texts = {FLOODS: ["water rose", "water fell"], FROST: ["ice on the pond"]}
MANY: Texts = {FLOODS: [f"the water stood {height} feet high" for height in range(64)]}
QUERY = oracle_vector("what is asked")
WAITING_LOCKS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# An advisory lock that nobody else takes: it holds publications before they commit.
GATE = 77
# A run that holds its publication half-way until somebody writes to it.
HOLDING = """
import sys
from rba_pipeline_tests.faults.publications import Striking
from rba_pipeline_tests.resources.publishing import store_of
from rba_pipeline_tests.resources.sample_records import SPACE, YEAR, document

def hold():
    print("inside", flush=True)
    sys.stdin.read()

striking = Striking({document("floods"): ["water rose"]}, "amid vectors", hold)
with store_of(sys.argv[1]).open() as store:
    store.publish(SPACE, YEAR, striking.content())
"""


@pytest.fixture
def doomed(cluster: Cluster) -> Iterator[VectorStore]:
    """Have a store on the server that may be killed."""
    with store_of(cluster.new_database()).open() as opened:
        opened.migrate()
        yield opened


class TestKills:
    """D1, D2, D3 and the points between: publication is begun again, and ends as if undisturbed."""

    @pytest.mark.parametrize(
        "point",
        [
            f"{when} {noun}"
            for noun in ("documents", "chunks", "vectors")
            for when in ("before", "amid")
        ],
    )
    def test_d7_a_backend_that_is_ended_while_rows_come_in_is_replaced(
        self, store: VectorStore, database_url: str, point: str
    ) -> None:
        striking = Striking(TEXTS, point, lambda: end_other_connections(database_url))

        published = store.publish(SPACE, YEAR, striking.content())

        assert striking.attempts == 2
        assert (published.inserted, published.rows) == (3, 3)
        assert_published_once(database_url, TEXTS)

    @pytest.mark.parametrize(
        "trigger",
        [
            pytest.param("BEFORE INSERT ON documents", id="applying-documents"),
            pytest.param("BEFORE INSERT ON vectors", id="applying-chunks"),
            pytest.param("BEFORE INSERT ON active_spaces", id="switching"),
            pytest.param("AT COMMIT ON published_documents", id="committing"),
        ],
    )
    def test_d7_a_backend_that_is_ended_while_rows_are_applied_is_replaced(
        self, store: VectorStore, database_url: str, trigger: str
    ) -> None:
        ended = "PERFORM pg_terminate_backend(pg_backend_pid())"
        tries = Tries(database_url, ended, trigger, first=1)

        published = store.publish(SPACE, YEAR, content_of(TEXTS))

        assert tries.count() > 1
        assert (published.inserted, published.rows) == (3, 3)
        assert_published_once(database_url, TEXTS)

    def test_d1_a_backend_that_is_killed_amid_copy_takes_the_cluster_down_and_is_survived(
        self, doomed: VectorStore
    ) -> None:
        url = doomed.database_url
        striking = Striking(TEXTS, "amid vectors", lambda: os.kill(backend_of(url), signal.SIGKILL))

        published = doomed.publish(SPACE, YEAR, striking.content())

        assert striking.attempts == 2
        assert published.rows == 3
        assert_published_once(url, TEXTS)

    def test_d2_a_server_that_is_stopped_amid_copy_and_comes_back_is_survived(
        self, doomed: VectorStore, cluster: Cluster
    ) -> None:
        starting: list[threading.Thread] = []

        def crash() -> None:
            cluster.crash()
            starting.append(cluster.restart_when_somebody_calls())

        striking = Striking(TEXTS, "amid vectors", crash)

        published = doomed.publish(SPACE, YEAR, striking.content())
        starting[0].join(WAIT_S)

        assert striking.attempts == 2
        assert published.rows == 3
        assert_published_once(doomed.database_url, TEXTS)

    def test_d7_work_that_went_well_for_longer_than_one_tries_again_is_tried_again(
        self, database_url: str
    ) -> None:
        def strike_late() -> None:
            with psycopg.connect(database_url) as connection:
                connection.execute("SELECT pg_sleep(1.5)")
            end_other_connections(database_url)

        striking = Striking(TEXTS, "amid vectors", strike_late)
        with store_of(database_url, retry_for_s=1).open() as store:
            store.migrate()
            store.publish(SPACE, YEAR, striking.content())

        assert striking.attempts == 2
        assert_published_once(database_url, TEXTS)

    def test_d2_a_server_that_does_not_come_back_is_named_with_the_attempts(
        self, database_url: str
    ) -> None:
        with store_of(database_url, retry_for_s=1).open() as store:
            store.migrate()
            attempts: list[int] = []

            def dies_every_time(wanted: set[str]) -> Blocks:
                attempts.append(len(wanted))
                yield [sha256("water rose")], vectors_of(["water rose"])
                end_other_connections(database_url)

            with pytest.raises(
                DatabaseUnavailable,
                match=r"publishing 2013-01-01 failed \d+ times within .*make up.*nothing is lost",
            ) as raised:
                publish(store, TEXTS, vectors=dies_every_time)

        assert 2 <= len(attempts) <= 12
        assert "test@" not in str(raised.value)
        assert rows(database_url) == []

    def test_d7_a_run_that_loses_the_lock_amid_its_reading_writes_no_catalogue_and_reads_again(
        self, project: Installation
    ) -> None:
        looking, struck = query(b"SELECT 1\0"), threading.Event()

        def watch(kind: bytes, content: bytes) -> Fate:
            if struck.is_set() or not looking(kind, content):
                return Fate.PASSES
            struck.set()
            return Fate.CUT

        with (
            DatabaseProxy(project.environment["RBA_DATABASE_URL"]) as proxy,
            pytest.MonkeyPatch.context() as environment,
        ):
            proxy.watch = watch
            # The resources of a run in this process are made from its own environment.
            environment.setenv("RBA_DATABASE_URL", proxy.url)
            results = run(project)

        assert failures(results) == []
        assert struck.is_set()
        assert total(results, "documents", "parsed_files") == 2

    def test_d7_a_server_without_a_free_connection_is_busy_and_asked_again(
        self, database_url: str
    ) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("CREATE ROLE crowd LOGIN PASSWORD 'test' CONNECTION LIMIT 0")
        crowded = database_url.replace("//rba:", "//crowd:")
        try:
            with (
                store_of(crowded, retry_for_s=1).open() as store,
                pytest.raises(DatabaseBusy, match=r"failed \d+ times.*raise max_connections"),
            ):
                store.count()
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("DROP ROLE crowd")

    @pytest.mark.parametrize(
        ("fate", "inserted"),
        [
            pytest.param(Fate.ANSWER_CUT, 0, id="reply-lost-after-the-commit"),
            pytest.param(Fate.CUT, 3, id="lost-before-the-commit"),
        ],
    )
    def test_d3_a_commit_in_doubt_is_begun_again_and_doubles_nothing(
        self, store: VectorStore, database_url: str, fate: Fate, inserted: int
    ) -> None:
        with DatabaseProxy(database_url) as proxy:
            strike = partial(strike_the_next_commit, proxy, fate)
            striking = Striking(TEXTS, "amid vectors", strike)
            with store_of(proxy.url).open() as behind:
                published = behind.publish(SPACE, YEAR, striking.content())

        assert proxy.answer_lost.is_set()
        assert striking.attempts == 2
        assert (published.inserted, published.rows) == (inserted, 3)
        assert_published_once(database_url, TEXTS)

    def test_d3_a_quarantine_whose_commit_is_in_doubt_is_written_once(
        self, store: VectorStore, database_url: str
    ) -> None:
        entry = QuarantineEntry("text", "x", YEAR.start, YEAR.end, "text_invalid", "refused", 1)
        with (
            DatabaseProxy(database_url) as proxy,
            store_of(proxy.url).open() as behind,
        ):
            behind.count()
            strike_the_next_commit(proxy, Fate.ANSWER_CUT)
            behind.replace_quarantine("text", YEAR, [entry])

        assert proxy.answer_lost.is_set()
        assert store.quarantine() == [entry]


class TestTurns:
    """O6: two runs of one window follow each other, whatever happens to the first."""

    def test_o6_the_second_run_goes_on_when_the_first_ones_backend_is_ended(
        self, store: VectorStore, database_url: str
    ) -> None:
        with store_of(database_url).open() as other, ThreadPoolExecutor(1) as pool:
            second: list[Future[Published]] = []

            def let_a_second_wait_and_end_the_first() -> None:
                mine = backend_of(database_url)
                second.append(pool.submit(publish, other, TEXTS))
                wait_for_a_waiting_lock(database_url)
                value(database_url, "SELECT pg_terminate_backend(%s)", mine)
                # Only the lock of the first one can have kept it waiting.
                assert second[0].result(WAIT_S).inserted == 3

            striking = Striking(TEXTS, "amid vectors", let_a_second_wait_and_end_the_first)
            first = store.publish(SPACE, YEAR, striking.content())

        assert striking.attempts == 2
        assert (first.inserted, first.rows) == (0, 3)
        assert_published_once(database_url, TEXTS)

    def test_o6_of_two_that_would_commit_at_once_what_the_later_one_says_is_stored(
        self, store: VectorStore, database_url: str
    ) -> None:
        # The first publication of all has search switch: others would wait for that as well.
        publish(store, {})
        at_the_gate = f"PERFORM pg_advisory_xact_lock_shared({GATE})"
        Tries(database_url, at_the_gate, "AT COMMIT ON published_documents", first=99)
        earlier, later = {FLOODS: TEXTS[FLOODS]}, {FROST: TEXTS[FROST]}
        with (
            ThreadPoolExecutor(2) as pool,
            store_of(database_url).open() as other,
            psycopg.connect(database_url, autocommit=True) as keeper,
        ):
            keeper.execute("SELECT pg_advisory_lock(%s)", [GATE])
            publications: list[Future[Published]] = []
            for of, texts in ((store, earlier), (other, later)):
                publications.append(pool.submit(publish, of, texts))
                deadline = time.monotonic() + WAIT_S
                # The first at the gate, the second in line or, without one, there as well.
                while value(database_url, WAITING_LOCKS) != len(publications):
                    assert time.monotonic() < deadline
            keeper.execute("SELECT pg_advisory_unlock_all()")
            for publication in publications:
                publication.result(WAIT_S)

        assert {row[2] for row in rows(database_url)} == set(TEXTS[FROST])

    def test_o6_a_run_that_waited_long_enough_names_whom_it_waited_for(
        self, store: VectorStore, database_url: str
    ) -> None:
        refused: list[BaseException | None] = []

        def try_beside() -> None:
            with ThreadPoolExecutor(1) as pool:
                refused.append(pool.submit(publish, other, TEXTS).exception(WAIT_S))

        with store_of(database_url, turn_timeout_s=1).open() as other:
            striking = Striking(TEXTS, "amid vectors", try_beside)
            first = store.publish(SPACE, YEAR, striking.content())

        assert first.inserted == 3
        assert isinstance(refused[0], DatabaseBusy)
        assert "(rba_pipeline publishing 2013-01-01 of invented, active" in str(refused[0])

    def test_o6_the_lock_of_a_killed_run_is_free_at_once(
        self, store: VectorStore, database_url: str
    ) -> None:
        run = subprocess.Popen(
            [sys.executable, "-c", HOLDING, database_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "inside\n"

        run.kill()
        run.communicate(timeout=WAIT_S)
        published = publish(store, TEXTS)

        assert published.inserted == 3
        assert_published_once(database_url, TEXTS)


class FullByTrigger:
    """What a full disk says, said by a trigger: for machines on which nothing may be mounted."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fill(self) -> None:
        Tries(self.url, raising("53100"), "BEFORE INSERT ON vectors", first=99)

    def make_room(self) -> None:
        value(self.url, "DROP TRIGGER tried ON vectors")


class TestRoomAndRights:
    """D4: a server without room, or one that takes no changes, is named and not asked again."""

    @pytest.fixture
    def disk(self, cluster: Cluster) -> Iterator[SmallDisk | FullByTrigger]:
        """Have an empty database whose disk can be filled."""
        with cluster.small_disk() as small:
            yield small or FullByTrigger(cluster.new_database())

    def test_d4_a_disk_without_space_is_named_not_retried_and_resumed_from(
        self, disk: SmallDisk | FullByTrigger
    ) -> None:
        dice = random.Random(4)
        texts = {FLOODS: [base64.b64encode(dice.randbytes(6000)).decode() for _ in range(600)]}
        striking = Striking({**TEXTS, **texts}, "", lambda: None)
        with store_of(disk.url).open() as store:
            store.migrate()
            publish(store, TEXTS)
            before = rows(disk.url)
            disk.fill()

            with pytest.raises(DatabaseFull, match=r"its disk is full.*Make room, then") as raised:
                store.publish(SPACE, YEAR, striking.content())
            attempts, kept = striking.attempts, rows(disk.url)
            disk.make_room()
            resumed = store.publish(SPACE, YEAR, striking.content())

        assert isinstance(raised.value.__cause__, psycopg.errors.DiskFull)
        assert (attempts, kept) == (1, before)
        assert "service" not in str(raised.value)
        assert resumed.rows == 601
        assert_published_once(disk.url, striking.texts)

    def test_d4_a_full_disk_is_named_not_retried_and_resumed_from(
        self, doomed: VectorStore, cluster: Cluster
    ) -> None:
        # Incompressible, and more of it than fits into a file of 17 MiB: 16 are for the WAL.
        dice = random.Random(4)
        texts = {FLOODS: [base64.b64encode(dice.randbytes(6000)).decode() for _ in range(2600)]}
        striking = Striking(texts, "", lambda: None)
        cluster.restart(longest_file=17 * 2**20)

        with pytest.raises(DatabaseFull, match=r"its disk is full.*Make room, then run") as raised:
            doomed.publish(SPACE, YEAR, striking.content())
        attempts, kept = striking.attempts, rows(doomed.database_url)
        cluster.restart()
        resumed = doomed.publish(SPACE, YEAR, striking.content())

        assert (attempts, kept) == (1, [])
        assert "File too large" in str(raised.value)
        assert "service" not in str(raised.value)
        assert resumed.rows == 2600

    def test_d4_a_read_only_server_is_named_before_any_work_and_still_searched(
        self, store: VectorStore, database_url: str
    ) -> None:
        publish(store, TEXTS)
        switch = f"ALTER DATABASE {urlsplit(database_url).path[1:]} "
        value(database_url, f"{switch} SET default_transaction_read_only = on")
        striking = Striking(MANY, "", lambda: None)

        with store_of(database_url).open() as other:
            for act in (
                lambda: other.require_room(SPACE),
                lambda: other.publish(SPACE, YEAR, striking.content()),
            ):
                with pytest.raises(DatabaseReadOnly, match=r"takes no changes.*primary"):
                    act()
            hits = other.search(QUERY, space=SPACE.id, k=9, filters=Filters())

        assert striking.attempts == 0
        assert len(hits) == 3


class TestLocks:
    """D5: waiting for others is bounded, tried again, and names them."""

    @pytest.fixture
    def hasty(self, store: VectorStore, database_url: str) -> Iterator[VectorStore]:
        """Have a store that waits for a lock for a tenth of a second, and knows the space."""
        publish(store, {})
        url = f"{database_url}?options=-c%20lock_timeout%3D100"
        with store_of(url, retry_for_s=1).open() as opened:
            yield opened

    def test_d5_a_lock_that_somebody_keeps_ends_the_run_and_names_them(
        self, hasty: VectorStore, database_url: str
    ) -> None:
        striking = Striking(TEXTS, "", lambda: None)
        with psycopg.connect(database_url, application_name="night shift") as other:
            other.execute("LOCK TABLE vectors")

            with pytest.raises(
                DatabaseBusy,
                match=r"failed \d+ times.*held a lock for too long.*\(night shift, idle in trans",
            ):
                hasty.publish(SPACE, YEAR, striking.content())

        assert 2 <= striking.attempts <= 12

    @pytest.mark.parametrize(
        "staged_s",
        [
            pytest.param(0, id="met-at-once"),
            pytest.param(1.5, id="met-after-longer-than-one-tries-again"),
        ],
    )
    def test_d5_a_lock_that_is_given_up_in_time_only_delays_the_run(
        self, hasty: VectorStore, database_url: str, staged_s: float
    ) -> None:
        attempts: list[int] = []
        with psycopg.connect(database_url) as other:
            other.execute("LOCK TABLE vectors")

            def give_up_when_asked_twice() -> list[Document]:
                attempts.append(len(attempts))
                if len(attempts) == 2:
                    other.rollback()
                else:
                    time.sleep(staged_s)
                return list(TEXTS)

            content = replace(content_of(TEXTS), documents=give_up_when_asked_twice)
            published = hasty.publish(SPACE, YEAR, content)

        assert len(attempts) == 2
        assert published.rows == 3
        assert_published_once(database_url, TEXTS)

    def test_d5_room_for_a_space_is_made_while_a_publication_in_another_is_open(
        self, store: VectorStore, database_url: str
    ) -> None:
        made: list[Published] = []
        with store_of(database_url, "other", retry_for_s=0).open() as other:
            striking = Striking(
                TEXTS, "amid vectors", lambda: made.append(publish(other, TEXTS, space=NEW_SPACE))
            )
            first = store.publish(SPACE, YEAR, striking.content())

        assert (made[0].inserted, first.inserted) == (3, 3)
        assert len(rows(database_url)) == 6

    def test_d5_room_for_a_space_waits_for_who_writes_as_for_a_turn(
        self, store: VectorStore, database_url: str
    ) -> None:
        heard: list[float] = []
        hasty = store_of(f"{database_url}?options=-c%20lock_timeout%3D100", retry_for_s=0)
        with hasty.open(), psycopg.connect(database_url) as writer:
            writer.execute("LOCK TABLE documents IN ROW EXCLUSIVE MODE")

            def let_it_end_when_told_again(waited_s: float) -> float:
                heard.append(waited_s)
                if waited_s:
                    writer.rollback()
                return math.inf

            waiting = Waiting(on_wait=let_it_end_when_told_again)
            published = hasty.publish(SPACE, YEAR, content_of(TEXTS), waiting)

        assert len(heard) == 2
        assert heard[1] > 0.1
        assert published.rows == 3

    def test_d5_a_writer_that_does_not_end_ends_the_first_publication_in_a_space(
        self, store: VectorStore, database_url: str
    ) -> None:
        with (
            store_of(database_url, turn_timeout_s=1).open() as impatient,
            psycopg.connect(database_url, application_name="night shift") as writer,
        ):
            writer.execute("LOCK TABLE documents IN ROW EXCLUSIVE MODE")

            with pytest.raises(DatabaseBusy, match=r"held a lock for too long.*\(night shift"):
                publish(impatient, TEXTS)

        assert store.spaces() == []
        assert publish(store, TEXTS).rows == 3

    def test_d5_of_runs_that_make_room_at_once_each_has_it(
        self, store: VectorStore, database_url: str
    ) -> None:
        spaces = [SPACE, NEW_SPACE, replace(SPACE, id="c" * 32)]

        def publish_first(number: int) -> int:
            with store_of(database_url, f"corpus-{number}", retry_for_s=0).open() as opened:
                return publish(opened, TEXTS, space=spaces[number % 3]).rows

        with ThreadPoolExecutor(6) as pool:
            published = list(pool.map(publish_first, range(6)))

        assert published == [3] * 6
        assert {held.space.id for held in store.spaces()} == {space.id for space in spaces}


class TestStates:
    """D7: which SQLSTATEs are tried again, and which are not."""

    @pytest.mark.parametrize(
        "state",
        [
            "40001",
            "40P01",
            "40003",
            "55P03",
            "53300",
            "08006",
            "57P01",
            "57P02",
            "57P03",
            "57P05",
            "25P03",
        ],
    )
    def test_d7_a_state_that_passes_is_tried_again(
        self, store: VectorStore, database_url: str, state: str
    ) -> None:
        tries = Tries(database_url, raising(state), "BEFORE INSERT ON documents", first=2)

        published = publish(store, TEXTS)

        assert tries.count() == 3
        assert published.rows == 3
        assert_published_once(database_url, TEXTS)

    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            pytest.param("57014", DatabaseError, id="57014-statement-time-out"),
            pytest.param("53100", DatabaseFull, id="53100-disk-full"),
            pytest.param("53200", DatabaseFull, id="53200-out-of-memory"),
            pytest.param("25006", DatabaseReadOnly, id="25006-read-only"),
            pytest.param("42501", DatabaseError, id="42501-no-privilege"),
            pytest.param("57P04", DatabaseError, id="57P04-database-dropped"),
            pytest.param("P0001", DatabaseError, id="P0001-outside-of-the-rows"),
            pytest.param("XX000", DatabaseError, id="XX000-internal"),
        ],
    )
    def test_d7_a_state_that_does_not_pass_is_not_tried_again(
        self, store: VectorStore, database_url: str, state: str, kind: type[DatabaseError]
    ) -> None:
        tries = Tries(database_url, raising(state), "BEFORE INSERT ON documents", first=99)

        with pytest.raises(DatabaseError, match="publishing 2013-01-01 failed: ") as raised:
            publish(store, TEXTS)

        assert type(raised.value) is kind
        assert tries.count() == 1
        assert rows(database_url) == []

    def test_d7_a_statement_that_takes_too_long_is_ended_and_not_tried_again(
        self, store: VectorStore, database_url: str
    ) -> None:
        tries = Tries(database_url, "PERFORM pg_sleep(60)", "BEFORE INSERT ON documents", first=99)
        url = f"{database_url}?options=-c%20statement_timeout%3D200"

        with store_of(url).open() as hasty, pytest.raises(DatabaseError, match="statement timeout"):
            publish(hasty, TEXTS)

        assert tries.count() == 1

    def test_d7_a_state_that_passes_too_late_is_named_with_the_attempts(
        self, store: VectorStore, database_url: str
    ) -> None:
        tries = Tries(database_url, raising("40001"), "BEFORE INSERT ON documents", first=99)

        message = r"failed \d+ times within .* in the way"
        impatient = store_of(database_url, retry_for_s=1)
        with impatient.open(), pytest.raises(DatabaseBusy, match=message):
            publish(impatient, TEXTS)

        assert 2 <= tries.count() <= 12


def strike_the_next_commit(proxy: DatabaseProxy, fate: Fate) -> None:
    """Let the next COMMIT through ``proxy`` meet ``fate``; all else passes."""

    def watch(kind: bytes, content: bytes) -> Fate:
        if b"COMMIT\x00" not in content:
            return Fate.PASSES
        proxy.watch = lambda kind, content: Fate.PASSES
        return fate

    proxy.watch = watch
