"""The database's schema: made from nothing, left alone when it is ours, refused when it is not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from rba_pipeline.core.errors import SchemaMismatch
from rba_pipeline.resources.schema import check_schema, migrate, migrations

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
