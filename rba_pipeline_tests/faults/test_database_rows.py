"""A row that the database refuses is left out and charged; its neighbours are stored (D9)."""

import pytest

from rba_pipeline.core.errors import DatabaseError, HoleInPartition
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.publications import (
    Blocks,
    Tries,
    assert_published_once,
    refuse_texts,
    value,
)
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.publishing import Texts, publish, rows, vectors_from
from rba_pipeline_tests.resources.sample_records import SPACE, document, sha256

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
