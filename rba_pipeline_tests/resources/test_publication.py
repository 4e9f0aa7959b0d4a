"""Publishing: a window becomes searchable whole or not at all, and touches nothing else."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import date

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from rba_pipeline.core.errors import (
    DatabaseError,
    HoleInPartition,
    RbaError,
    SchemaMismatch,
)
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.publication import Publication, Published
from rba_pipeline.resources.staging import Content, VectorBlocks
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.resources.publishing import (
    Texts,
    publish,
    rows,
    store_of,
    vectors_from,
    wait_for_a_waiting_lock,
)
from rba_pipeline_tests.resources.sample_records import (
    CORPUS,
    SPACE,
    YEAR,
    chunk_batches,
    document,
    sha256,
    vectors_of,
)

pytestmark = pytest.mark.postgres

FLOODS, FROST = document("floods"), document("frost", day=date(2013, 8, 6))
HAIL, SNOW = document("hail"), document("snow", day=date(2014, 2, 2))
TEXTS: Texts = {FLOODS: ["water rose", "water fell"], FROST: ["ice on the pond"]}
LATER = Window(date(2014, 1, 1), date(2015, 1, 1))
WAIT_S = 30


@pytest.fixture
def store(database_url: str) -> Iterator[VectorStore]:
    """Have an empty store."""
    with store_of(database_url).open() as opened:
        opened.migrate()
        yield opened


def test_a_window_is_published_with_all_its_columns(store: VectorStore, database_url: str) -> None:
    published = publish(store, TEXTS)

    assert published == Published(
        inserted=3, updated=0, deleted=0, rows=3, quarantined=0, activated=True
    )
    assert store.count() == (2, 3)
    with psycopg.connect(database_url) as connection:
        chunk = connection.execute(
            "SELECT d.title, published_on, url, section, page, start, tokens, text_hash "
            "FROM vectors JOIN documents d USING (corpus, document_id) WHERE text = 'water fell'"
        ).fetchone()
    assert chunk == (
        "On floods", date(2013, 6, 4), "https://example.org/floods", "Weather", 3, 10, 4,
        sha256("water fell"),
    )  # fmt: skip


def test_publishing_the_same_again_changes_nothing_and_asks_for_no_vector(
    store: VectorStore, database_url: str
) -> None:
    publish(store, TEXTS)
    before = rows(database_url)
    asked: list[set[str]] = []

    again = publish(store, TEXTS, vectors=lambda wanted: asked.append(wanted) or [])

    assert again == Published(
        inserted=0, updated=0, deleted=0, rows=3, quarantined=0, activated=False
    )
    assert asked == [set()]
    assert rows(database_url) == before


def test_new_moved_and_gone_chunks_are_counted(store: VectorStore, database_url: str) -> None:
    publish(store, TEXTS)

    # "water fell" moves to the front, "water rose" goes, "mud stayed" is new.
    published = publish(store, {FLOODS: ["water fell", "mud stayed"], FROST: TEXTS[FROST]})

    assert (published.inserted, published.updated, published.deleted) == (1, 1, 1)
    assert [row[2:] for row in rows(database_url)] == [
        ("ice on the pond", 0), ("mud stayed", 1), ("water fell", 0),
    ]  # fmt: skip


def test_a_document_that_is_gone_takes_its_chunks_along(store: VectorStore) -> None:
    publish(store, TEXTS)

    published = publish(store, {FROST: TEXTS[FROST]})

    assert (published.deleted, published.rows) == (2, 1)
    assert store.count() == (1, 1)
    assert store.filing_dates() == [date(2013, 8, 6)]


def test_a_document_that_moves_here_from_another_window_is_moved_whole(store: VectorStore) -> None:
    earlier = Window(date(2012, 1, 1), date(2013, 1, 1))
    publish(store, {replace(FLOODS, published_on=date(2012, 5, 5)): ["old text"]}, window=earlier)

    publish(store, TEXTS)
    left = publish(store, {}, window=earlier)

    assert left.rows == left.deleted == 0
    assert store.count() == (2, 3)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({}, id="not-stored"),
        pytest.param({YEAR: date(2013, 5, 5)}, id="stored-in-this-window"),
        pytest.param({LATER: date(2014, 5, 5)}, id="stored-in-the-other-window"),
    ],
)
def test_a_document_that_another_window_holds_by_now_stays_as_it_is(
    store: VectorStore, database_url: str, stored: dict[Window, date]
) -> None:
    for window, day in stored.items():
        publish(store, {replace(FLOODS, published_on=day): ["old text"]}, window=window)

    published = publish(store, TEXTS, elsewhere=lambda: [FLOODS.document_id])

    assert (published.inserted, published.deleted, published.rows) == (1, 0, 1)
    assert store.filing_dates() == sorted([*stored.values(), FROST.published_on])
    assert [row[2] for row in rows(database_url)] == [
        "ice on the pond",
        *["old text" for _ in stored],
    ]


def test_another_window_is_not_touched(store: VectorStore) -> None:
    earlier = Window(date(2012, 1, 1), date(2013, 1, 1))
    publish(store, TEXTS)

    publish(store, {document("hail", day=date(2012, 12, 31)): ["stones"]}, window=earlier)
    emptied = publish(store, {}, window=earlier)

    assert emptied.deleted == 1
    assert store.count() == (2, 3)


def test_two_corpora_with_the_same_documents_stay_apart(
    store: VectorStore, database_url: str
) -> None:
    publish(store, TEXTS)
    before = rows(database_url)
    with store_of(database_url, "other").open() as other:
        publish(other, TEXTS)
        publish(other, {FLOODS: ["only this"]})

        assert other.count() == (1, 1)
    assert [row for row in rows(database_url) if row[0] == CORPUS] == before


def test_one_text_in_many_chunks_is_searchable_in_each(store: VectorStore) -> None:
    published = publish(store, {FLOODS: ["same words"], FROST: ["same words"]})

    assert published.rows == 2


def test_a_chunk_without_vector_and_quarantine_entry_is_a_hole_and_nothing_is_published(
    store: VectorStore, database_url: str
) -> None:
    publish(store, TEXTS)
    before = rows(database_url), store.count()

    with pytest.raises(HoleInPartition, match=r"1 chunks of 2013-01-01 .*'embeddings' again"):
        publish(store, {FLOODS: ["water rose", "unheard of"]}, vectors=vectors_from(TEXTS))

    assert (rows(database_url), store.count()) == before


def test_a_quarantined_text_is_left_out_and_its_neighbours_are_published(
    store: VectorStore,
) -> None:
    known = {FLOODS: ["water rose"]}

    published = publish(
        store,
        {FLOODS: ["water rose", "unheard of"]},
        vectors=vectors_from(known),
        quarantined=[sha256("unheard of")],
    )

    assert (published.inserted, published.rows) == (1, 1)


@pytest.mark.case("C18")
@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(np.ones((1, 3), np.float32) / np.sqrt(3), id="another-dimension"),
        pytest.param(np.zeros((1, 8), np.float32), id="zero"),
        pytest.param(np.full((1, 8), 2.0, np.float32), id="not-of-unit-length"),
        pytest.param(np.full((1, 8), np.nan, np.float32), id="nan"),
    ],
)
def test_a_vector_that_cannot_be_searched_is_refused_and_nothing_is_published(
    store: VectorStore, vector: NDArray[np.float32]
) -> None:
    with pytest.raises(DatabaseError):
        publish(store, TEXTS, vectors=lambda wanted: [([name], vector) for name in wanted])

    assert store.count() == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "text_hash = ''",
        f"document_id = '{FROST.document_id}'",
        f"document_id = '{HAIL.document_id}'",
        f"document_id = '{SNOW.document_id}'",
    ],
    ids=["text", "document", "document-that-goes", "document-of-another-window"],
)
def test_a_row_that_got_another_text_or_document_meanwhile_is_inserted_anew(
    store: VectorStore, database_url: str, damage: str
) -> None:
    columns = "SELECT text, text_hash, document_id, embedding::text FROM vectors ORDER BY 1"
    publish(store, {SNOW: []}, window=LATER)
    publish(store, TEXTS)
    with psycopg.connect(database_url) as connection:
        before = connection.execute(columns).fetchall()
    publish(store, {**TEXTS, HAIL: []})
    with psycopg.connect(database_url) as connection:
        connection.execute(f"UPDATE vectors SET {damage} WHERE text = 'water fell'")

    again = publish(store, TEXTS)

    assert (again.inserted, again.deleted, again.rows) == (1, 1, 3)
    with psycopg.connect(database_url) as connection:
        assert connection.execute(columns).fetchall() == before


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ("NEW.text_hash := ''; RETURN NEW;", "3 rows are due, 3 of them are there, and 1 that are"),
        (
            f"NEW.document_id := '{FROST.document_id}'; RETURN NEW;",
            "3 rows are due, 3 of them are there, and 1 that are",
        ),
        ("RETURN NULL;", "the database dropped 1 chunks of 2013-01-01 without a word"),
    ],
    ids=["another-text", "another-document", "dropped"],
)
def test_a_trigger_that_makes_another_row_of_a_chunk_or_none_leaves_nothing_published(
    store: VectorStore, database_url: str, trigger: str, said: str
) -> None:
    publish(store, {})
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.text = 'water fell' THEN {trigger} END IF; RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE TRIGGER meddles BEFORE INSERT ON vectors FOR EACH ROW EXECUTE FUNCTION meddle()"
        )

    with pytest.raises(RbaError, match=said):
        publish(store, TEXTS)

    assert rows(database_url) == []


@pytest.mark.parametrize(("servers", "used"), [("4MB", "32MB"), ("48MB", "48MB")])
def test_a_publication_has_memory_for_its_joins_and_keeps_what_is_more(
    store: VectorStore, database_url: str, servers: str, used: str
) -> None:
    def asked() -> str:
        return str(next(connection.execute("SHOW work_mem"))[0])

    def vectors(wanted: Iterable[str]) -> VectorBlocks:
        during.append(asked())
        return vectors_from(TEXTS)(set(wanted))

    publish(store, TEXTS)
    during: list[str] = []
    content = Content(lambda: list(TEXTS), lambda: chunk_batches(TEXTS), vectors)
    with psycopg.connect(database_url, autocommit=True) as connection:
        register_vector(connection)
        connection.execute(f"SET work_mem = '{servers}'")
        with connection.transaction():
            work = Publication(connection, CORPUS, space=SPACE, window=YEAR, content=content)
            work.publish(Stopwatch("vectors"))
        after = asked()

    assert (during, after) == ([used], servers)


def test_a_space_with_another_dimension_than_before_is_refused(store: VectorStore) -> None:
    publish(store, TEXTS)

    with pytest.raises(SchemaMismatch, match="has 8 dimensions in the database, 9 in the service"):
        publish(store, TEXTS, space=replace(SPACE, dimensions=9))


def test_a_source_of_vectors_that_fails_leaves_everything_as_it_was(
    store: VectorStore, database_url: str
) -> None:
    publish(store, TEXTS)
    before = rows(database_url)

    def fails_half_way(wanted: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        yield [sha256("new words")], vectors_of(["new words"])
        raise FileNotFoundError("a part is gone")

    with pytest.raises(FileNotFoundError):
        publish(store, {FLOODS: ["new words", "more new words"]}, vectors=fails_half_way)

    assert rows(database_url) == before
    assert publish(store, TEXTS).rows == 3


def test_two_publications_of_one_window_follow_each_other(
    store: VectorStore, database_url: str
) -> None:
    inside, go_on, second_is_staging = threading.Event(), threading.Event(), threading.Event()
    seen_by_second: list[int] = []

    def hold(wanted: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        inside.set()
        go_on.wait(WAIT_S)
        yield from vectors_from(TEXTS)(wanted)

    def look(wanted: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        second_is_staging.set()
        seen_by_second.append(len(rows(database_url)))
        yield from vectors_from({FLOODS: ["last words"]})(wanted)

    with ThreadPoolExecutor(2) as pool, store_of(database_url).open() as other, ExitStack() as end:
        end.callback(go_on.set)
        first = pool.submit(publish, store, TEXTS, vectors=hold)
        assert inside.wait(WAIT_S)
        second = pool.submit(publish, other, {FLOODS: ["last words"]}, vectors=look)
        wait_for_a_waiting_lock(database_url)
        assert not second_is_staging.is_set()
        go_on.set()

        assert first.result(WAIT_S).inserted == 3
        assert second.result(WAIT_S).deleted == 3

    assert seen_by_second == [3]
    assert [row[2] for row in rows(database_url)] == ["last words"]


def test_a_document_that_moves_while_its_window_waits_is_not_taken_back(
    store: VectorStore, database_url: str
) -> None:
    inside, go_on, moved = threading.Event(), threading.Event(), list[str]()

    def hold(wanted: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        inside.set()
        go_on.wait(WAIT_S)
        yield from vectors_from(TEXTS)(wanted)

    later = {replace(FLOODS, published_on=date(2014, 5, 5)): TEXTS[FLOODS]}
    with ThreadPoolExecutor(2) as pool, store_of(database_url).open() as other, ExitStack() as end:
        end.callback(go_on.set)
        first = pool.submit(publish, store, later, window=LATER, vectors=hold)
        assert inside.wait(WAIT_S)
        second = pool.submit(publish, other, TEXTS, elsewhere=lambda: list(moved))
        wait_for_a_waiting_lock(database_url)
        moved.append(FLOODS.document_id)
        go_on.set()

        assert first.result(WAIT_S).inserted == 2
        assert second.result(WAIT_S).rows == 1

    assert store.filing_dates() == [FROST.published_on, date(2014, 5, 5)]
