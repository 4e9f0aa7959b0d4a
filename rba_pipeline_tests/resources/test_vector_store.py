"""The serving copy: search against brute force, quarantine, locks and lost connections."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from rba_pipeline.core.errors import (
    BadSetting,
    DatabaseBusy,
    DatabaseError,
    DatabaseUnavailable,
    WrongSpace,
)
from rba_pipeline.core.stages import Stage
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.database import Database
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.corpus import TODAY, Corpus, text_of
from rba_pipeline_tests.resources.publishing import (
    NEW_SPACE,
    end_other_connections,
    publish,
    store_of,
    wait_for_a_waiting_lock,
)
from rba_pipeline_tests.resources.sample_records import CORPUS, SPACE, YEAR, document, vectors_of

pytestmark = pytest.mark.postgres

SERIES = ("speech", "media-release", "media-release/cash-rate", "media-releases-of-others")
DOCUMENTS = [
    document(f"n{number}", day=date(2013, 1 + number, 10), series=SERIES[number % 4])
    for number in range(12)
]
TEXTS = {of: [f"{of.title}, passage {place}" for place in range(5)] for of in DOCUMENTS}
QUERY = oracle_vector("what is asked")
WAIT_S = 30


@pytest.fixture
def store(database_url: str) -> Iterator[VectorStore]:
    """Have a store with a schema and nothing in it."""
    with store_of(database_url).open() as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def filled(store: VectorStore) -> VectorStore:
    """Have sixty passages of twelve documents in it."""
    publish(store, TEXTS)
    return store


def brute_force(filters: Filters, k: int) -> list[tuple[str, float]]:
    def passes(of: object) -> bool:
        series = of.series
        in_series = filters.series is None or (series + "/").startswith(filters.series + "/")
        first, last = filters.first_day or date.min, filters.last_day or date.max
        return in_series and first <= of.published_on <= last

    texts = [text for of, its_texts in TEXTS.items() if passes(of) for text in its_texts]
    scores = vectors_of(texts) @ QUERY
    order = np.argsort(-scores)[:k]
    return [(texts[at], float(scores[at])) for at in order]


@pytest.mark.parametrize(
    ("filters", "k"),
    [
        pytest.param(Filters(), 7, id="no-filter"),
        pytest.param(Filters(), 1000, id="more-than-there-are"),
        pytest.param(Filters(series="speech"), 10, id="series"),
        pytest.param(Filters(series="media-release"), 1000, id="series-and-what-is-below-it"),
        pytest.param(Filters(series="media-release/cash-rate"), 1000, id="series-below"),
        pytest.param(Filters(series="unknown"), 10, id="nothing-passes"),
        pytest.param(Filters(first_day=date(2013, 3, 10)), 1000, id="from-that-day-on"),
        pytest.param(Filters(last_day=date(2013, 3, 10)), 1000, id="up-to-that-day"),
        pytest.param(
            Filters("media-release", date(2013, 2, 1), date(2013, 6, 30)), 3, id="all-together"
        ),
    ],
)
def test_search_equals_brute_force(filled: VectorStore, filters: Filters, k: int) -> None:
    hits = filled.search(QUERY, space=SPACE.id, k=k, filters=filters)

    expected = brute_force(filters, k)
    assert [hit.text for hit in hits] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [hit.score for hit in hits], [score for _, score in expected], atol=1e-6
    )


def test_a_hit_says_where_its_passage_stands(filled: VectorStore) -> None:
    hit = filled.search(oracle_vector("On n3, passage 2"), space=SPACE.id, k=1, filters=Filters())[
        0
    ]

    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert (hit.title, hit.path, hit.url) == ("On n3", "n3.html", "https://example.org/n3")
    assert (hit.series, hit.published_on) == (SERIES[3], date(2013, 4, 10))
    assert (hit.section, hit.page, hit.text) == ("Weather", 3, "On n3, passage 2")


def test_passages_with_equal_scores_come_in_the_same_order_every_time(store: VectorStore) -> None:
    publish(store, {of: ["the same words"] for of in DOCUMENTS})

    found = [
        [hit.document_id for hit in store.search(QUERY, space=SPACE.id, k=k, filters=Filters())]
        for k in (12, 5)
    ]

    assert found[0][:5] == found[1]


def test_a_query_from_another_space_is_refused_and_both_are_named(filled: VectorStore) -> None:
    with pytest.raises(WrongSpace, match=rf"space {SPACE.id} \(oracle\).*{NEW_SPACE.id}"):
        filled.search(QUERY, space=NEW_SPACE.id, k=1, filters=Filters())


def test_a_corpus_without_anything_published_is_an_error(filled: VectorStore) -> None:
    empty = store_of(filled.database_url, "empty")
    with empty.open(), pytest.raises(WrongSpace, match="'empty' has nothing to search"):
        empty.search(QUERY, space=SPACE.id, k=1, filters=Filters())


def entry(name: str, window: Window, kind: str = "text", attempts: int = 1) -> QuarantineEntry:
    return QuarantineEntry(
        kind, name, window.start, window.end, "text_invalid", "it is refused", attempts
    )


ALWAYS = Window(date.min, date.max)
JUNE = Window(date(2013, 6, 1), date(2013, 7, 1))


def test_quarantine_is_replaced_per_kind_and_window(store: VectorStore) -> None:
    store.replace_quarantine("document", None, [entry("a.html", ALWAYS, "document")])
    store.replace_quarantine("text", YEAR, [entry("x", YEAR), entry("y", YEAR)])
    elsewhere = Window(date(2014, 1, 1), date(2015, 1, 1))
    store.replace_quarantine("text", elsewhere, [entry("z", elsewhere)])

    store.replace_quarantine("text", YEAR, [entry("y", YEAR, attempts=2)])
    store.replace_quarantine("document", None, [entry("b.html", ALWAYS, "document")])

    assert store.quarantine() == [
        entry("b.html", ALWAYS, "document"), entry("y", YEAR, attempts=2), entry("z", elsewhere),
    ]  # fmt: skip


def test_a_wider_window_replaces_the_entries_of_the_windows_within(store: VectorStore) -> None:
    store.replace_quarantine("text", JUNE, [entry("x", JUNE)])

    store.replace_quarantine("text", YEAR, [entry("x", YEAR)])

    assert store.quarantine() == [entry("x", YEAR)]


def test_quarantine_of_another_corpus_is_not_touched(store: VectorStore) -> None:
    store.replace_quarantine("text", YEAR, [entry("x", YEAR)])
    with store_of(store.database_url, "other").open() as other:
        other.replace_quarantine("text", YEAR, [])
        assert other.quarantine() == []

    assert len(store.quarantine()) == 1


def test_the_catalogue_lock_is_held_by_one_run_at_a_time(store: VectorStore) -> None:
    held, go_on, order = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        held.set()
        go_on.wait(WAIT_S)
        order.append("first")

    def first() -> None:
        store.holding_catalogue(hold)

    def second() -> None:
        with store_of(store.database_url).open() as other:
            other.holding_catalogue(lambda: order.append("second"))

    with ThreadPoolExecutor(2) as pool, ExitStack() as end:
        end.callback(go_on.set)
        runs = [pool.submit(first)]
        assert held.wait(WAIT_S)
        runs.append(pool.submit(second))
        wait_for_a_waiting_lock(store.database_url)
        go_on.set()
        for run in runs:
            run.result(WAIT_S)

    assert order == ["first", "second"]


def test_whoever_waits_for_a_lock_is_told_again_and_again_and_its_clock_counts_it(
    store: VectorStore,
) -> None:
    held, heard = threading.Event(), list[float]()
    go_on, stopwatch = threading.Event(), Stopwatch("documents")

    def hold() -> None:
        held.set()
        go_on.wait(WAIT_S)

    def on_wait(waited_s: float) -> float:
        heard.append(waited_s)
        if len(heard) == 3:
            go_on.set()
            return math.inf
        return 0.05

    with ThreadPoolExecutor(1) as pool, store_of(store.database_url).open() as other:
        first = pool.submit(store.holding_catalogue, hold)
        assert held.wait(WAIT_S)
        second = other.holding_catalogue(lambda: "mine", waiting=Waiting(stopwatch, on_wait))
        first.result(WAIT_S)

    assert second == "mine"
    assert heard[0] == 0.0
    assert 0.05 <= heard[1] < heard[2] <= stopwatch.times().seconds[Stage.LOCKING]


def test_of_a_lock_that_is_free_nobody_is_told(store: VectorStore) -> None:
    heard, stopwatch = list[float](), Stopwatch("embeddings")
    waiting = Waiting(stopwatch, lambda waited_s: heard.append(waited_s) or math.inf)

    assert store.holding_outcomes(lambda: "mine", waiting) == "mine"

    assert heard == []
    assert stopwatch.times().seconds[Stage.LOCKING] == 0.0


def test_who_waited_long_enough_gives_up_however_often_it_was_told(store: VectorStore) -> None:
    heard = list[float]()
    waiting = Waiting(on_wait=lambda waited_s: heard.append(waited_s) or 0.1)
    hasty = store_of(store.database_url, retry_for_s=0)

    def give_up() -> None:
        with hasty.open(), pytest.raises(DatabaseBusy, match="the catalogue"):
            hasty.holding_catalogue(lambda: None, 0.25, waiting)

    store.holding_catalogue(give_up)

    assert 0.0 in heard
    assert max(heard) < 0.25


def test_work_under_the_catalogue_lock_is_begun_again_when_the_lock_is_lost(
    store: VectorStore, database_url: str
) -> None:
    counts = list[tuple[int, int]]()

    def lose_it_once() -> str:
        if not counts:
            end_other_connections(database_url)
        counts.append((0, 0))
        counts[-1] = store.count()
        return "done"

    assert store.holding_catalogue(lose_it_once) == "done"
    assert len(counts) == 2


def test_a_refresh_writes_no_catalogue_when_the_lock_is_lost(
    store: VectorStore, database_url: str, tmp_path: Path
) -> None:
    corpus, seen = Corpus(tmp_path), list[int]()
    corpus.put("a.txt", text_of("3 May 2020"))

    def lose_it_once(done: int, total: int) -> None:
        if not seen:
            end_other_connections(database_url)
        seen.append(done)

    refreshed = store.holding_catalogue(
        lambda: corpus.source().refresh(TODAY, lose_it_once, guard=store.require_lock)
    )

    # Of what the first try parsed, the second one found nothing.
    assert (refreshed.parsed, len(seen)) == (1, 2)


def test_a_catalogue_lock_that_is_lost_each_time_is_an_error_of_ours(
    store: VectorStore, database_url: str
) -> None:
    with (
        store.in_haste() as hasty,
        pytest.raises(DatabaseUnavailable, match=r"unlocking the catalogue failed.*\d+ times"),
    ):
        hasty.holding_catalogue(lambda: end_other_connections(database_url))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        pytest.param(
            "postgresql://u:hush@127.0.0.1:9/x", DatabaseUnavailable,
            r"database 'x' at 127.0.0.1:9: .*make up", id="nobody-listens",
        ),
        pytest.param("hush", DatabaseError, "URL is not a postgresql", id="no-address"),
        pytest.param(
            "postgresql://u:hush%zz@127.0.0.1/x", DatabaseError,
            "RBA_DATABASE_URL is not a postgresql", id="password-with-a-bare-percent-sign",
        ),
    ],
)  # fmt: skip
def test_a_database_out_of_reach_is_named_without_its_password(
    url: str, error: type[DatabaseError], message: str
) -> None:
    store = store_of(url, retry_for_s=0)

    with store.open(), pytest.raises(error, match=message) as raised:
        store.count()

    shown = [raised.value, raised.value.__cause__]
    assert not any("hush" in str(each) for each in shown)


def test_a_wrong_password_is_not_repeated(database_url: str) -> None:
    url = database_url.replace(":test@", ":hush@")
    store = store_of(url)

    with store.open(), pytest.raises(DatabaseUnavailable, match="authentication failed") as raised:
        store.count()

    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("lok_timeout%3D1", "unrecognized configuration parameter"),
        ("lock_timeout%3Dabc", "invalid value for parameter"),
    ],
)
def test_a_wrong_option_of_the_address_is_not_repeated(
    database_url: str, option: str, said: str
) -> None:
    store = store_of(f"{database_url}?options=-c%20{option}")

    with store.open(), pytest.raises(DatabaseUnavailable, match=said) as raised:
        store.count()

    assert "correct RBA_DATABASE_URL" in str(raised.value)
    assert " times within" not in str(raised.value)


def test_an_empty_store_counts_nothing(store: VectorStore) -> None:
    assert store.count() == (0, 0)
    assert store.filing_dates() == store.spaces() == store.quarantine() == []
    assert store.active_space() is None
    assert store.corpus == CORPUS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"retry_for_s": -1}, "from 0 to 3600", id="retry-negative"),
        pytest.param({"retry_for_s": 3601}, "retry_for_s=3601", id="retry-too-long"),
        pytest.param({"turn_timeout_s": 0}, "from 1 to 86400", id="turn-at-once"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_range(
    values: dict[str, int], message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        VectorStore.check(values)
    with pytest.raises(BadSetting, match="resources > vector_store > config"):
        store_of("postgresql://u@127.0.0.1:9/x", **values).count()


@pytest.mark.parametrize("given", [True, 1.5, "60", None])
def test_a_setting_that_is_no_whole_number_is_refused(given: object) -> None:
    with pytest.raises(BadSetting, match="a whole number of seconds"):
        VectorStore.check({"turn_timeout_s": given})


def test_parameters_of_the_address_come_before_our_own(database_url: str) -> None:
    url = f"{database_url}?application_name=mine&options=-c%20lock_timeout%3D1234"
    shown = "current_setting('lock_timeout'), current_setting('statement_timeout')"
    statement = f"SELECT current_setting('application_name'), {shown}"
    database = Database(url, name="ours", retry_for_s=0)

    row = database.run("looking", lambda it: it.execute(statement).fetchone(), any_schema=True)
    database.close()

    assert row == ("mine", "1234ms", "15min")
