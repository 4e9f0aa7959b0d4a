"""A row that the database refuses is left out and charged; its neighbours are stored (D9)."""

from collections.abc import Callable, Mapping

import psycopg
import pytest
from pgvector.psycopg import register_vector

from rba_pipeline.core.errors import DatabaseError, HoleInPartition
from rba_pipeline.resources.publication import Publication
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.publications import (
    Blocks,
    Tries,
    assert_published_once,
    content_of,
    refuse_texts,
    value,
)
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.publishing import Texts, publish, rows, vectors_from
from rba_pipeline_tests.resources.sample_records import CORPUS, SPACE, YEAR, document, sha256

pytestmark = pytest.mark.postgres

FLOODS = document("floods")
MANY: Texts = {FLOODS: [f"the water stood {height} feet high" for height in range(64)]}
QUERY = oracle_vector("what is asked")
BAD = "33 feet high"


@pytest.mark.parametrize(
    "state",
    [
        pytest.param("P0001", id="raised-by-a-trigger"),
        pytest.param("23514", id="check-violation"),
        pytest.param("22003", id="number-out-of-range"),
    ],
)
def test_d9_one_refused_row_is_quarantined_and_the_others_are_stored(
    store: VectorStore, database_url: str, state: str
) -> None:
    refuse_texts(database_url, [BAD], state)
    tries = Tries(database_url, "NULL", "BEFORE INSERT ON vectors", first=0)

    published = publish(store, MANY)

    hits = store.search(QUERY, space=SPACE.id, k=99, filters=Filters())
    entries = store.quarantine()
    assert (published.rows, published.quarantined, published.refused) == (63, 1, 1)
    assert tries.count() - 1 <= 2 * 6
    assert {hit.text for hit in hits} == {text for text in MANY[FLOODS] if BAD not in text}
    assert [(entry.kind, entry.reason, entry.attempts) for entry in entries] == [
        ("chunk", "refused_by_database", 1)
    ]
    assert entries[0].detail == "not this row"


def test_d9_a_refused_row_is_tried_with_every_publication_until_it_is_taken(
    store: VectorStore, database_url: str
) -> None:
    refuse_texts(database_url, [BAD])
    publish(store, MANY)

    again = publish(store, MANY)
    attempts = [entry.attempts for entry in store.quarantine()]
    value(database_url, "DROP TRIGGER refused ON vectors")
    taken = publish(store, MANY)

    assert (again.inserted, again.refused, attempts) == (0, 1, [2])
    assert (taken.inserted, taken.rows) == (1, 64)
    assert store.quarantine() == []
    assert_published_once(database_url, MANY)


def test_d9_the_charge_survives_the_rollback(store: VectorStore, database_url: str) -> None:
    refuse_texts(database_url, [BAD])
    hole = sha256(MANY[FLOODS][0])

    def all_but_one(wanted: set[str]) -> Blocks:
        yield from vectors_from(MANY)(wanted - {hole})

    for _ in range(2):
        with pytest.raises(HoleInPartition):
            publish(store, MANY, vectors=all_but_one)

    assert rows(database_url) == []
    assert [(entry.kind, entry.attempts) for entry in store.quarantine()] == [("chunk", 2)]


def test_d9_more_refused_rows_than_can_be_their_own_fault_stop_the_publication(
    store: VectorStore, database_url: str
) -> None:
    refuse_texts(database_url, ["feet high"])
    tries = Tries(database_url, "NULL", "BEFORE INSERT ON vectors", first=0)

    with pytest.raises(DatabaseError, match=r"17 of the 64 chunks .*nothing was published"):
        publish(store, MANY)

    assert tries.count() <= 17 * 2 * 6
    assert rows(database_url) == store.quarantine() == []


def test_no_statement_inserts_or_updates_more_rows_than_a_slice(
    store: VectorStore, database_url: str
) -> None:
    publish(store, {})
    changed = count_rows_per_statement(database_url)
    # Two of them are new, all others have another place than before.
    later = {FLOODS: ["mud", "silt", *MANY[FLOODS]]}

    publish_in_slices(database_url, MANY)
    inserted = changed("INSERT")
    publish_in_slices(database_url, later)

    assert inserted == [10] * 6 + [4]
    assert sum(changed("UPDATE")) == 64
    assert max(changed("UPDATE")) <= 10
    assert_published_once(database_url, later)
    assert [row[3] for row in rows(database_url) if row[2] == "mud"] == [0]


def test_d9_a_row_that_is_refused_in_one_slice_costs_no_other_slice_anything(
    store: VectorStore, database_url: str
) -> None:
    publish(store, {})
    refuse_texts(database_url, [BAD])
    tries = Tries(database_url, "NULL", "BEFORE INSERT ON vectors", first=0)

    refused = publish_in_slices(database_url, MANY)

    assert list(refused.values()) == ["not this row"]
    assert len(rows(database_url)) == 63
    assert tries.count() <= 7 + 2 * 4


@pytest.mark.case("D7", "T11")
def test_what_fails_in_a_later_slice_takes_the_earlier_ones_back(
    store: VectorStore, database_url: str
) -> None:
    publish(store, {FLOODS: ["old words"]})
    before = rows(database_url)
    refuse_texts(database_url, [BAD], "57014")

    with pytest.raises(psycopg.errors.QueryCanceled):
        publish_in_slices(database_url, MANY)

    assert rows(database_url) == before


def publish_in_slices(url: str, texts: Texts) -> Mapping[str, str]:
    """Publish ``texts``, ten rows at once; return what was said of those that were refused."""
    with psycopg.connect(url) as connection:
        register_vector(connection)
        publication = Publication(
            connection, CORPUS, space=SPACE, window=YEAR, content=content_of(texts), rows_at_once=10
        )
        publication.publish(Stopwatch("vectors"))
    return publication.refused


def count_rows_per_statement(url: str) -> Callable[[str], list[int]]:
    """Keep how many vectors each statement changes; return what asks for those of one kind."""
    value(url, "CREATE TABLE changed (at serial, kind text, rows integer)")
    value(
        url,
        "CREATE FUNCTION count_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO changed (kind, rows) SELECT TG_OP, count(*) FROM made; RETURN NULL; END $$",
    )
    for kind in ("INSERT", "UPDATE"):
        value(
            url,
            f"CREATE TRIGGER counted_{kind} AFTER {kind} ON vectors REFERENCING NEW TABLE AS made "
            "FOR EACH STATEMENT EXECUTE FUNCTION count_changed()",
        )

    def changed(kind: str) -> list[int]:
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT rows FROM changed WHERE kind = %s AND rows > 0 ORDER BY at", [kind]
            )
            return [row[0] for row in found]

    return changed
