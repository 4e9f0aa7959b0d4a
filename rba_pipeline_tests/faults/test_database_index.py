"""An index that is not whole is seen and not used; one that is finds the same (D12, D15)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from urllib.parse import quote

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from rba_pipeline.core.errors import DatabaseBusy, DatabaseError, DatabaseFull
from rba_pipeline.resources import vector_index, vector_search
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.cluster import Cluster
from rba_pipeline_tests.faults.publications import value
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.publishing import Texts, publish, store_of
from rba_pipeline_tests.resources.sample_records import CORPUS, SPACE, document

pytestmark = pytest.mark.postgres

WAIT_S = 30
FLOODS, FROST = document("floods"), document("frost", day=date(2013, 8, 6))
MANY: Texts = {FLOODS: [f"the water stood {height} feet high" for height in range(64)]}
QUERY = oracle_vector("what is asked")


@pytest.fixture
def filled(store: VectorStore) -> VectorStore:
    """Have sixty-four passages published."""
    publish(store, MANY)
    return store


def test_d12_a_build_that_was_cancelled_is_seen_searched_around_and_replaced(
    filled: VectorStore, database_url: str
) -> None:
    before = found_by(filled)
    cancel_a_build(database_url)

    unfinished = filled.spaces()[0].is_indexed
    in_between = found_by(filled)
    built = filled.build_index()

    assert unfinished is False
    assert in_between == before
    assert built
    assert filled.spaces()[0].is_indexed is True
    assert found_by(filled) == before
    assert not filled.build_index()


def test_d12_a_build_that_finds_too_little_shared_memory_says_so_and_search_stays_exact(
    cluster: Cluster,
) -> None:
    url = cluster.new_database()
    # Two that build together share as much memory as both may take, in a file of the server's;
    # with less than 32 MB each, or for so few rows, one builds alone and shares nothing.
    options = quote("-c min_parallel_table_scan_size=0 -c maintenance_work_mem=64MB")
    with store_of(url).open() as store, store_of(f"{url}?options={options}").open() as parallel:
        store.migrate()
        publish(store, MANY)
        before = found_by(store)
        cluster.restart(longest_file=17 * 2**20)

        too_little = "too little shared memory.*could not resize.*max_parallel_maintenance_workers"
        with pytest.raises(DatabaseFull, match=too_little):
            parallel.build_index()
        in_between = found_by(store)
        cluster.restart()
        built = store.build_index()

        assert in_between == found_by(store) == before
        assert built


def test_d12_without_an_index_search_is_exact(filled: VectorStore) -> None:
    before = found_by(filled)
    filled.build_index()

    filled.drop_index()

    assert filled.spaces()[0].is_indexed is None
    assert found_by(filled) == before


def test_d12_two_builds_at_once_are_one(filled: VectorStore, database_url: str) -> None:
    with psycopg.connect(database_url) as holder, store_of(database_url).open() as other:
        holder.execute(f"LOCK TABLE vectors_{SPACE.id} IN ROW EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(other.build_index)
            wait_for_a_build(database_url)
            with pytest.raises(DatabaseBusy, match="another session is building"):
                filled.build_index()
            holder.rollback()
            assert first.result(WAIT_S)


def test_d12_a_space_of_more_dimensions_than_an_index_takes_stays_exact(
    filled: VectorStore, database_url: str
) -> None:
    wide = replace(SPACE, dimensions=2001)
    stays_exact = pytest.raises(DatabaseError, match=r"2001 dimensions.*search stays exact")
    with psycopg.connect(database_url) as connection, stays_exact:
        vector_index.build(connection, wide)


def test_d12_filters_that_leave_little_are_searched_exactly(filled: VectorStore) -> None:
    frost = {FROST: [f"ice on pond {number}" for number in range(3)]}
    publish(filled, {**MANY, **frost})
    filled.build_index()

    in_august = Filters(first_day=date(2013, 8, 1))
    hits = filled.search(QUERY, space=SPACE.id, k=3, filters=in_august)

    assert {hit.text for hit in hits} == set(frost[FROST])


def test_d15_recall_stays_while_rows_come_go_and_are_vacuumed(
    store: VectorStore, database_url: str
) -> None:
    old = {FLOODS: [f"passage {number}" for number in range(800)]}
    new = {FLOODS: [f"passage {number}" for number in range(400, 1200)]}
    publish(store, old)
    store.build_index()
    enough, rounds = threading.Event(), list[int]()

    def churn() -> None:
        with store_of(database_url).open() as writer:
            while not enough.is_set():
                rounds.append(publish(writer, new).deleted + publish(writer, old).deleted)

    def vacuum() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not enough.wait(0.05):
                connection.execute(f"VACUUM vectors_{SPACE.id}")

    with ThreadPoolExecutor(2) as pool, ExitStack() as end:
        end.callback(enough.set)
        others = [pool.submit(churn), pool.submit(vacuum)]
        recalls = list[float]()
        while len(rounds) < 3 and not any(other.done() for other in others):
            recalls.append(recall(database_url, f"question {len(recalls)}"))
        enough.set()
        for other in others:
            other.result(WAIT_S)

    index_scans = value(
        database_url,
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE '%_hnsw'",
    )
    assert set(rounds) == {800}
    assert len(recalls) >= 20
    assert min(recalls) >= 0.8
    assert np.mean(recalls) >= 0.98
    assert isinstance(index_scans, int)
    assert index_scans > 0


def cancel_a_build(url: str) -> None:
    """Begin a build, which waits for a transaction that writes, and cancel it there."""
    with psycopg.connect(url) as writer, store_of(url).open() as other:
        writer.execute(f"LOCK TABLE vectors_{SPACE.id} IN ROW EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(other.build_index)
            pid = wait_for_a_build(url)
            value(url, "SELECT pg_cancel_backend(%s)", pid)
            with pytest.raises(DatabaseError, match="building the index failed: canceling"):
                building.result(WAIT_S)


def found_by(store: VectorStore) -> list[str]:
    """Return the ten passages closest to the question."""
    return [hit.text for hit in store.search(QUERY, space=SPACE.id, k=10, filters=Filters())]


def wait_for_a_build(url: str) -> int:
    """Return the process that builds an index, once it waits for a transaction to end."""
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + WAIT_S
    with psycopg.connect(url, autocommit=True) as connection:
        while (row := connection.execute(waiting).fetchone()) is None:
            assert time.monotonic() < deadline, "nobody builds an index"
    return int(row[0])


def recall(url: str, question: str, k: int = 10) -> float:
    """Return which share of the closest passages the index finds, in one state of the table."""
    query = oracle_vector(question)
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        register_vector(connection)
        # So few rows would rather be sorted.
        connection.execute("SET LOCAL enable_sort = off")
        found = vector_search.search(
            connection, CORPUS, query, space=SPACE.id, k=k, filters=Filters()
        )
        exact = connection.execute(
            "SELECT text FROM vectors WHERE corpus = %s AND space = %s "
            "ORDER BY embedding <=> %s LIMIT %s",
            [CORPUS, SPACE.id, query, k],
        ).fetchall()
    return len({hit.text for hit in found} & {row[0] for row in exact}) / k
