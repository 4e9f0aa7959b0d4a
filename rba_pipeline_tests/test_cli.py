"""The command ``rba-pipeline`` as users call it, over a real database and a real service."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from rba_pipeline.core.embeddings import Outcome, Space
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.command_line import called, point_at, run
from rba_pipeline_tests.oracle_service import DIMENSIONS, OracleService, Reply
from rba_pipeline_tests.resources.publishing import NEW_SPACE, Texts, publish, store_of
from rba_pipeline_tests.resources.sample_records import CORPUS, document

pytestmark = pytest.mark.postgres

YEAR_2011 = Window(date(2011, 1, 1), date(2012, 1, 1))
RAIN = document("rain", day=date(2011, 5, 5))
RAIN_TEXT = "On rain | 5 May 2011\n\nRain fell on the plain."
FROST = document("frost", day=date(2012, 5, 6))
TEXTS: Texts = {RAIN: [RAIN_TEXT], FROST: ["On frost | 6 May 2012\n\nFrost lay on the hill."]}


@dataclass(frozen=True)
class Project:
    """A folder, a database and a service that the command takes as they are."""

    folder: Path
    database_url: str
    oracle: OracleService

    def publish(self, texts: Texts) -> None:
        """Have ``texts`` published in the oracle's space."""
        space = Space(self.oracle.space(), self.oracle.model, DIMENSIONS, {})
        years = Window(date(2011, 1, 1), date(2013, 1, 1))
        with store_of(self.database_url).open() as store:
            store.migrate()
            publish(store, texts, space=space, window=years)


@pytest.fixture
def project(
    tmp_path: Path, database_url: str, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Have an empty database within reach, and the oracle."""
    point_at(monkeypatch, tmp_path, database_url=database_url, service_url=oracle.url)
    return Project(tmp_path, database_url, oracle)


@pytest.fixture
def published(project: Project) -> Project:
    """Have two documents published."""
    project.publish(TEXTS)
    return project


def test_migrate_names_the_steps_and_then_has_none_left(project: Project) -> None:
    first, again = run(project.folder, "migrate"), called("migrate")

    assert (first.returncode, again.exit_code) == (0, 0), first.stderr + again.output
    assert first.stdout.splitlines()[0] == "0001_publications.sql"
    assert again.output == "0 steps applied, the schema is up to date\n"


def test_search_shows_title_date_score_passage_and_address(published: Project) -> None:
    found = run(published.folder, "search", RAIN_TEXT, "-k", "1")

    assert found.returncode == 0, found.stderr
    assert "1.000  On rain, 2011-05-05" in found.stdout
    assert "Rain fell on the plain." in found.stdout
    assert "https://example.org/rain  [speech]" in found.stdout
    assert "frost" not in found.stdout


def test_search_leaves_out_what_does_not_pass_the_filters(published: Project) -> None:
    later = called("search", "rain", "--from", "2012-01-01")
    earlier = called("search", "rain", "--to", "2011-12-31", "--series", "speech")
    nothing = called("search", "rain", "--series", "minutes")

    assert [result.exit_code for result in (later, earlier, nothing)] == [0, 0, 0]
    assert ("On frost" in later.output, "On rain" in later.output) == (True, False)
    assert ("On frost" in earlier.output, "On rain" in earlier.output) == (False, True)
    assert "no document passes the filters" in nothing.output


def test_a_corpus_that_nobody_published_is_named_in_one_line(published: Project) -> None:
    listed = called("quarantine", "--corpus", "unknown")
    searched = called("search", "rain", "--corpus", "unknown")

    assert (listed.exit_code, listed.output) == (0, "0 in quarantine\n")
    assert searched.exit_code == 1
    assert searched.output.startswith("WrongSpace: corpus 'unknown' has nothing to search")


def test_evaluate_prints_its_figures_in_one_line(published: Project) -> None:
    queries = published.folder / "queries.jsonl"
    rows = [
        {"query": RAIN_TEXT, "relevant_path": "rain.html"},
        {"query": "whatever", "relevant_path": "nowhere.html"},
    ]
    queries.write_text("\n".join(map(json.dumps, rows)))

    found = run(published.folder, "evaluate", str(queries))

    assert found.returncode == 0, found.stderr
    assert "queries.jsonl, 2 queries over all documents" in found.stdout
    assert "recall@1 0.500, recall@10 0.500, MRR 0.500" in found.stdout


def test_quarantine_lists_kind_name_reason_and_sentence(published: Project) -> None:
    with store_of(published.database_url).open() as store:
        entry = QuarantineEntry("document", "a.html", date.min, date.max, "empty", "no text", 1)
        store.replace_quarantine("document", None, [entry])

    found = run(published.folder, "quarantine")

    assert found.returncode == 0, found.stderr
    assert found.stdout == "document\ta.html\tempty\tno text\n"
    assert found.stderr.endswith("1 in quarantine\n")


def test_quarantine_says_what_it_lists_and_which_of_it_is_sent_again() -> None:
    helped = called("quarantine", "--help").output

    assert "files, texts and chunks" in helped
    assert "`retry` and `forget` are for these alone" in helped
    assert "chunk     refused by the database; tried again whenever" in helped


def quarantine_a_text(project: Project) -> tuple[VectorStore, EmbeddingStore, str]:
    """Have one text of 2011 in quarantine; return where it is kept, and its name."""
    year = YEAR_2011
    store = EmbeddingStore(store=str(project.folder / ".state" / "store"), corpus=CORPUS)
    row = Outcome("ab" * 32, "quarantined", "model_failed", 3, 9)
    store.write_outcomes(year, NEW_SPACE, "c" * 16, [row])
    entry = QuarantineEntry("text", row.text_hash, year.start, year.end, "model_failed", "-", 3)
    vectors = store_of(project.database_url)
    with vectors.open():
        vectors.replace_quarantine("text", year, [entry])
    return vectors, store, row.text_hash


def test_retry_lets_a_text_be_sent_again_and_says_which_partition_does(published: Project) -> None:
    _, store, name = quarantine_a_text(published)

    asked = called("quarantine", "retry", name)

    (row,) = store.outcomes(YEAR_2011).quarantined.values()
    assert asked.exit_code == 0, asked.output
    assert asked.output == "materialise partition 2011-01-01 to send them again\n"
    assert not row.is_held(truncate=False)
    assert name in called("quarantine").output


def test_forget_takes_a_text_off_the_list_for_good(published: Project) -> None:
    _, store, name = quarantine_a_text(published)

    asked = called("quarantine", "forget", "--all")

    assert asked.exit_code == 0, asked.output
    assert asked.output == "forgotten in 1 partitions; they stay out of search\n"
    assert store.outcomes(YEAR_2011).quarantined[name].is_held(truncate=True)
    assert called("quarantine").output == "0 in quarantine\n"


@pytest.mark.parametrize("asked", ["retry", "forget"])
def test_all_texts_are_those_of_the_record_whatever_else_is_listed(
    published: Project, asked: str
) -> None:
    vectors, store, name = quarantine_a_text(published)
    stale = QuarantineEntry("text", "cd" * 32, date(2012, 1, 1), date(2013, 1, 1), "-", "-", 3)
    with vectors.open():
        vectors.replace_quarantine("text", None, [stale])

    done = called("quarantine", asked, "--all")

    row = store.outcomes(YEAR_2011).quarantined[name]
    assert done.exit_code == 0, done.output
    assert (row.attempts, row.is_forgotten) == {"retry": (0, False), "forget": (3, True)}[asked]
    assert called("quarantine").output.endswith(f"{int(asked == 'retry')} in quarantine\n")


def test_all_texts_are_not_those_that_were_forgotten(published: Project) -> None:
    _, store, name = quarantine_a_text(published)
    called("quarantine", "forget", name)

    called("quarantine", "retry", "--all")

    assert store.outcomes(YEAR_2011).quarantined[name].is_forgotten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["retry"], "say --all", id="nothing-named"),
        pytest.param(["retry", "x", "--all"], "say --all", id="both"),
        pytest.param(["forget", "unheard"], "no text in quarantine is called unheard", id="none"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    published: Project, arguments: list[str], message: str
) -> None:
    _, store, _ = quarantine_a_text(published)
    before = store.outcomes(YEAR_2011)

    asked = called("quarantine", *arguments)

    assert asked.exit_code != 0
    assert message in asked.output
    assert store.outcomes(YEAR_2011) == before


def test_spaces_are_listed_activated_and_pruned(published: Project) -> None:
    old = published.oracle.space()
    with store_of(published.database_url).open() as store:
        few = Window(date(2011, 1, 1), date(2012, 1, 1))
        publish(store, {RAIN: TEXTS[RAIN]}, space=NEW_SPACE, window=few)

    listed = run(published.folder, "spaces", "list")
    unknown = called("spaces", "activate", "unknown")
    activated = called("spaces", "activate", NEW_SPACE.id)
    pruned = called("spaces", "prune")

    assert listed.stdout.splitlines() == [
        f"{old}  oracle  8 dimensions  2 chunks  active",
        f"{NEW_SPACE.id}  newer  8 dimensions  1 chunks  ",
    ]
    assert (unknown.exit_code, activated.exit_code) == (1, 0)
    assert "nothing published in space 'unknown'" in unknown.output
    assert pruned.output == "2 rows deleted\n"


def test_an_index_is_built_listed_and_dropped(published: Project) -> None:
    built = [called("spaces", "index").output for _ in range(2)]
    listed = called("spaces", "list")
    dropped = called("spaces", "index", "--drop")

    assert built == ["the index is built, search uses it\n", "the index was whole already\n"]
    assert listed.output.endswith("2 chunks  active  indexed\n")
    assert dropped.output == "search is exact\n"
    assert called("spaces", "list").output.endswith("2 chunks  active\n")


def test_a_service_that_refuses_ends_the_search_with_one_line(published: Project) -> None:
    published.oracle.script = lambda number, texts: Reply.error(413, "too_large")

    result = called("search", "rain")

    assert result.exit_code == 1
    assert result.output.startswith("RequestTooLarge: ")
    assert len(result.output.splitlines()) == 1


def test_a_database_without_our_schema_says_what_to_run(project: Project) -> None:
    result = called("quarantine")

    assert result.exit_code == 1
    assert "run 'rba-pipeline migrate'" in result.output
