"""The database's schema: made from nothing, left alone when it is ours, refused when it is not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import SchemaMismatch
from rba_pipeline.resources.schema import check_schema, migrate, migrations
from rba_pipeline.resources.space_register import register

pytestmark = pytest.mark.postgres
ALL = [step.name for step in migrations()]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def tables(connection: psycopg.Connection) -> set[str]:
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in found}


def test_versions_count_from_one_without_a_gap() -> None:
    assert [step.version for step in migrations()] == list(range(1, len(ALL) + 1))


def test_an_empty_database_gets_every_step(connection: psycopg.Connection) -> None:
    assert migrate(connection) == ALL

    check_schema(connection)
    assert {"documents", "vectors", "spaces", "quarantine"} <= tables(connection)


def test_migrating_again_applies_nothing(connection: psycopg.Connection) -> None:
    migrate(connection)
    before = tables(connection)

    assert migrate(connection) == []
    assert tables(connection) == before


def test_two_migrations_at_once_apply_every_step_once(database_url: str) -> None:
    def one(_: int) -> list[str]:
        with psycopg.connect(database_url, autocommit=True) as own:
            return migrate(own)

    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(one, range(4)))

    assert sorted(applied, key=len) == [[], [], [], ALL]


def test_a_database_that_was_never_migrated_says_what_to_run(
    connection: psycopg.Connection,
) -> None:
    with pytest.raises(SchemaMismatch, match=r"at version 0.*run 'rba-pipeline migrate'"):
        check_schema(connection)


def test_an_older_schema_says_what_to_run(connection: psycopg.Connection) -> None:
    migrate(connection)
    connection.execute("DELETE FROM schema_history WHERE version = %s", [len(ALL)])

    with pytest.raises(SchemaMismatch, match="run 'rba-pipeline migrate'"):
        check_schema(connection)


def test_a_newer_schema_asks_for_an_upgrade_and_is_left_alone(
    connection: psycopg.Connection,
) -> None:
    migrate(connection)
    connection.execute("INSERT INTO schema_history VALUES (99, '0099_future.sql', 'x')")

    for act in (check_schema, migrate):
        with pytest.raises(SchemaMismatch, match=r"version 99, newer than this code.*upgrade"):
            act(connection)


def test_a_step_with_other_statements_is_refused(connection: psycopg.Connection) -> None:
    migrate(connection)
    connection.execute("UPDATE schema_history SET sha256 = 'other' WHERE version = 1")

    for act in (check_schema, migrate):
        with pytest.raises(SchemaMismatch, match="migration 1 was applied with other statements"):
            act(connection)


def test_a_step_that_fails_leaves_nothing_behind(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE quarantine (another integer)")

    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(connection)

    assert tables(connection) == {"quarantine"}


COLUMNS = {
    "corpus": "'c'", "space": "'s'", "chunk_id": "'new'", "document_id": "'d'",
    "chunking_id": "'k'", "ordinal": "0", "section": "''", "page": "1", "start": "0",
    "text": "'rain'", "text_hash": "'h'", "tokens": "3", "embedding": "'[0.6,0.8]'",
}  # fmt: skip
VIOLATIONS = psycopg.errors.IntegrityError


@pytest.fixture
def filled(connection: psycopg.Connection) -> psycopg.Connection:
    """Have one document and a space of two dimensions with one vector."""
    migrate(connection)
    register(connection, Space("s", "model", 2, {}))
    connection.execute(
        "INSERT INTO documents VALUES ('c', 'd', 'd.html', 'speech', 'D', NULL, '2013-06-04', 'x')"
    )
    insert(connection, chunk_id="'old'")
    return connection


def insert(connection: psycopg.Connection, **other: str) -> None:
    row = {**COLUMNS, **other}
    connection.execute(f"INSERT INTO vectors ({', '.join(row)}) VALUES ({', '.join(row.values())})")


def test_a_vector_that_keeps_every_promise_is_taken(filled: psycopg.Connection) -> None:
    insert(filled)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"embedding": "'[0.6,0.8,0]'"}, id="other-dimension"),
        pytest.param({"embedding": "'[0,0]'"}, id="zero"),
        pytest.param({"embedding": "'[0.6,0.7]'"}, id="not-of-unit-length"),
        pytest.param({"embedding": "NULL"}, id="no-vector"),
        pytest.param({"document_id": "'unknown'"}, id="unknown-document"),
        pytest.param({"corpus": "'other'"}, id="document-of-another-corpus"),
        pytest.param({"space": "'unknown'"}, id="unknown-space"),
        pytest.param({"chunk_id": "'old'"}, id="twice"),
        pytest.param({"text": "''"}, id="empty-text"),
        pytest.param({"ordinal": "-1"}, id="ordinal-below-zero"),
        pytest.param({"start": "-1"}, id="start-below-zero"),
        pytest.param({"page": "0"}, id="page-zero"),
        pytest.param({"tokens": "0"}, id="no-tokens"),
    ],
)
def test_a_vector_that_breaks_a_promise_is_refused(
    filled: psycopg.Connection, other: dict[str, str]
) -> None:
    with pytest.raises(VIOLATIONS):
        insert(filled, **other)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("INSERT INTO active_spaces VALUES ('c', 'unknown')", id="unknown-active"),
        pytest.param(
            "INSERT INTO published_documents VALUES ('c', 's', 'unknown', 'x')",
            id="publication-of-no-document",
        ),
        pytest.param(
            "INSERT INTO published_documents VALUES ('c', 'unknown', 'd', 'x')",
            id="publication-in-no-space",
        ),
        pytest.param("DELETE FROM spaces", id="a-space-in-use-goes"),
        pytest.param("INSERT INTO spaces VALUES ('t', 'm', 0, '{}')", id="no-dimensions"),
        pytest.param("UPDATE vectors SET space = 'unknown'", id="a-vector-changes-its-space"),
        pytest.param(
            "INSERT INTO quarantine VALUES ('c', 'row', 'n', '2013-01-01', '2014-01-01', 'r', '', "
            "1)",
            id="unknown-kind-of-quarantine",
        ),
        pytest.param(
            "INSERT INTO quarantine VALUES ('c', 'text', 'n', '2013-01-01', '2013-01-01', 'r', "
            "'', 1)",
            id="empty-window-of-quarantine",
        ),
        pytest.param(
            "INSERT INTO quarantine VALUES ('c', 'text', 'n', '2013-01-01', '2014-01-01', 'r', "
            "'', 0)",
            id="quarantine-without-attempt",
        ),
    ],
)
def test_what_would_tear_the_tables_apart_is_refused(
    filled: psycopg.Connection, statement: str
) -> None:
    with pytest.raises(VIOLATIONS):
        filled.execute(statement)


def test_a_document_takes_its_vectors_along(filled: psycopg.Connection) -> None:
    filled.execute("DELETE FROM documents")

    assert filled.execute("SELECT count(*) FROM vectors").fetchone() == (0,)
