"""A schema that does not fit is found before any work, with the command to run (D13)."""

from urllib.parse import urlsplit

import pytest

from rba_pipeline.core.errors import SchemaMismatch
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.publications import Striking, value
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService
from rba_pipeline_tests.resources.publishing import Texts, store_of
from rba_pipeline_tests.resources.sample_records import SPACE, YEAR, document

pytestmark = pytest.mark.postgres

TEXTS: Texts = {document("floods"): ["water rose", "water fell"]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            "DROP TABLE schema_history", "at version 0.*run 'rba-pipeline migrate'",
            id="missing",
        ),
        pytest.param(
            "DELETE FROM schema_history WHERE version > 1",
            "at version 1.*run 'rba-pipeline migrate'", id="older",
        ),
        pytest.param(
            "INSERT INTO schema_history VALUES (99, '0099_future.sql', 'x')",
            "newer than this code.*upgrade rba_pipeline", id="newer",
        ),
        pytest.param(
            "DROP EXTENSION vector CASCADE",
            "extension 'vector' was dropped.*'rba-pipeline migrate'", id="extension-dropped",
        ),
        pytest.param(
            "UPDATE pg_extension SET extversion = '0.8.3' WHERE extname = 'vector'",
            "pgvector 0.8.3 is older than 0.8.4.*ALTER EXTENSION vector UPDATE",
            id="extension-older",
        ),
        pytest.param(
            f"INSERT INTO spaces VALUES ('{SPACE.id}', 'oracle', 9, '{{}}')",
            "has 9 dimensions in the database, 8 in the service", id="other-dimension",
        ),
    ],
)  # fmt: skip
def test_d13_a_schema_that_does_not_fit_is_refused_before_any_work(
    store: VectorStore, database_url: str, damage: str, message: str
) -> None:
    value(database_url, damage)
    striking = Striking(TEXTS, "", lambda: None)

    with store_of(database_url).open() as fresh:
        for act in (
            lambda: fresh.require_room(SPACE),
            lambda: fresh.publish(SPACE, YEAR, striking.content()),
        ):
            with pytest.raises(SchemaMismatch, match=message):
                act()

    assert striking.attempts == 0


def test_d13_a_server_without_pgvector_is_refused_by_the_migration(database_url: str) -> None:
    name = urlsplit(database_url).path[1:]
    value(database_url, f"ALTER DATABASE {name} SET extension_control_path = '/nowhere'")

    message = r"no pgvector: install.*'rba-pipeline migrate"
    with store_of(database_url).open() as store, pytest.raises(SchemaMismatch, match=message):
        store.migrate()


def test_d13_nothing_is_embedded_for_a_schema_that_does_not_fit(
    installation: Installation, oracle: OracleService
) -> None:
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=["Rain fell."])
    url = installation.environment["RBA_DATABASE_URL"]
    with installation.neighbours() as found:
        found.vector_store.migrate()
    value(url, f"INSERT INTO spaces VALUES ('{oracle.space()}', 'oracle', 9, '{{}}')")

    results = installation.run("2011-01-01")

    assert "SchemaMismatch" in failures(results)[0]
    assert oracle.sent == []
