"""The embedding spaces of a corpus: which is searched, and when that changes."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest

from rba_pipeline.core.errors import WrongSpace
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.locks import lock_key
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.resources.publishing import NEW_SPACE, Texts, publish, rows, store_of
from rba_pipeline_tests.resources.sample_records import SPACE, document

pytestmark = pytest.mark.postgres

FLOODS, FROST = document("floods"), document("frost", day=date(2013, 8, 6))
TEXTS: Texts = {FLOODS: ["water rose", "water fell"], FROST: ["ice on the pond"]}


@pytest.fixture
def store(database_url: str) -> Iterator[VectorStore]:
    """Have a store with a schema and nothing in it."""
    with store_of(database_url).open() as opened:
        opened.migrate()
        yield opened


def test_locks_of_different_names_are_different_and_fit_into_64_bits() -> None:
    keys = {lock_key("a", "b"), lock_key("ab"), lock_key("a", "b", ""), lock_key("b", "a")}

    assert len(keys) == 4
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_the_first_publication_of_a_corpus_makes_its_space_active(store: VectorStore) -> None:
    assert store.active_space() is None

    assert publish(store, {FLOODS: ["water rose"]}).activated
    assert store.active_space() == SPACE


def test_a_new_space_becomes_active_when_every_document_is_published_in_it(
    store: VectorStore,
) -> None:
    later = Window(date(2014, 1, 1), date(2015, 1, 1))
    publish(store, TEXTS)
    publish(store, {document("wind", day=date(2014, 2, 2)): ["gusts"]}, window=later)

    half = publish(store, TEXTS, space=NEW_SPACE)
    in_between = store.active_space()
    wind = {document("wind", day=date(2014, 2, 2)): ["gusts"]}
    whole = publish(store, wind, space=NEW_SPACE, window=later)

    assert not half.activated
    assert in_between == SPACE
    assert whole.activated
    assert store.active_space() == NEW_SPACE


def test_a_space_that_lacks_a_correction_does_not_come_back_by_itself(store: VectorStore) -> None:
    later = Window(date(2014, 1, 1), date(2015, 1, 1))
    wind = {document("wind", day=date(2014, 2, 2)): ["gusts"]}
    for space in (SPACE, NEW_SPACE):
        publish(store, TEXTS, space=space)
        publish(store, wind, space=space, window=later)
    corrected = {replace(FLOODS, content_hash="corrected"): ["water stood"], FROST: ["ice"]}
    publish(store, corrected, space=NEW_SPACE)

    stale = publish(store, wind, space=SPACE, window=later)

    assert not stale.activated
    assert store.active_space() == NEW_SPACE


def test_a_space_that_somebody_chose_stays_when_a_complete_one_is_published_again(
    store: VectorStore,
) -> None:
    for space in (SPACE, NEW_SPACE):
        publish(store, TEXTS, space=space)
    store.activate(SPACE.id)

    again = publish(store, TEXTS, space=NEW_SPACE)

    assert not again.activated
    assert store.active_space() == SPACE


def test_spaces_are_listed_activated_and_pruned(store: VectorStore, database_url: str) -> None:
    publish(store, TEXTS)
    few = {FLOODS: ["kept"]}
    publish(store, few, space=NEW_SPACE, window=Window(date(2013, 6, 1), date(2013, 7, 1)))
    listed = [(held.space, held.is_active, held.rows) for held in store.spaces()]

    store.activate(NEW_SPACE.id)
    pruned = store.prune()

    assert listed == [(SPACE, True, 3), (NEW_SPACE, False, 1)]
    assert store.active_space() == NEW_SPACE
    assert pruned == 3
    assert [row[1:3] for row in rows(database_url)] == [(NEW_SPACE.id, "kept")]


def test_a_space_in_which_nothing_is_published_cannot_be_activated(store: VectorStore) -> None:
    publish(store, TEXTS)

    with pytest.raises(WrongSpace, match="nothing published in space 'unknown'"):
        store.activate("unknown")

    assert store.active_space() == SPACE


def test_pruning_without_an_active_space_or_in_another_corpus_deletes_nothing(
    store: VectorStore, database_url: str
) -> None:
    publish(store, TEXTS)
    publish(store, TEXTS, space=NEW_SPACE)
    with store_of(database_url, "other").open() as other:
        assert other.prune() == 0

    assert len(rows(database_url)) == 6
