"""Each check sees what it is there for: it is broken, the step stops, search stays as it was, and
what the check says to do mends it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity, DagsterEventType

from rba_pipeline.core.embeddings import CANARY
from rba_pipeline.core.promises import CHECKS
from rba_pipeline.materialise import PartitionResult
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply

pytestmark = pytest.mark.postgres
KEY = "2011-01-01"
ASSETS = ["documents", "chunks", "embeddings", "vectors"]


@dataclass
class Project:
    """One partition of two documents that is published, and the service that embedded it."""

    installation: Installation
    oracle: OracleService

    def run(self, key: str = KEY) -> PartitionResult:
        [result] = self.installation.run(key)
        return result

    def files(self, folder: str) -> list[Path]:
        return sorted((self.installation.folder / "store" / folder).rglob("*.parquet"))

    def parts(self) -> list[Path]:
        return [path for path in self.files("embeddings") if path.name.startswith("part-")]

    def sql(self, *statements: str) -> None:
        url = self.installation.environment["RBA_DATABASE_URL"]
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


Act = Callable[[Project], object]


@pytest.fixture
def project(installation: Installation, oracle: OracleService) -> Project:
    installation.environment |= {"RBA_CHUNK_TOKENS": "64", "RBA_CHUNK_OVERLAP": "0"}
    for name in "AB":
        texts = [" ".join(f"{name} {place}-{word}" for word in range(12)) for place in range(4)]
        installation.add(f"{name}.html", title=name, day="5 May 2011", paragraphs=texts)
    with installation.neighbours() as found:
        found.vector_store.migrate()
    return Project(installation, oracle)


def evaluations(run_id: str) -> dict[tuple[str, str], AssetCheckEvaluation]:
    """Return what came of the checks that a run made, by asset and name."""
    with dg.DagsterInstance.get() as instance:
        logs = instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    events = [entry.dagster_event for entry in logs]
    made = [event.asset_check_evaluation_data for event in events if event]
    return {(each.asset_key.to_user_string(), each.check_name): each for each in made}


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of a Parquet file, and leave all that it says of itself."""
    said = {
        name: value
        for name, value in pq.read_metadata(path).metadata.items()
        if name != b"ARROW:schema"
    }
    pq.write_table(change(pq.read_table(path)).replace_schema_metadata(said), path)


def with_vectors(change: Callable[[np.ndarray], np.ndarray]) -> Act:
    """Return the damage that changes the vectors of all parts, float32 ``(n, dimensions)``."""

    def changed(table: pa.Table) -> pa.Table:
        column = table.column("vector").combine_chunks()
        vectors = change(column.flatten().to_numpy().reshape(len(column), -1).copy())
        flat = pa.array(vectors.reshape(-1), pa.float32())
        place = table.schema.get_field_index("vector")
        listed = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        return table.set_column(place, "vector", listed)

    return lambda project: [rewritten(path, changed) for path in project.parts()]


def first_becomes(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(vectors: np.ndarray) -> np.ndarray:
        vectors[0, 0] = value
        return vectors

    return change


def drop_first_row(folder: str) -> Act:
    return lambda project: rewritten(project.files(folder)[0], lambda table: table.slice(1))


def repeat_first_row(project: Project) -> None:
    [path] = project.files("chunks")
    rewritten(path, lambda table: pa.concat_tables([table, table.slice(0, 1)]))


def put_into_another_space(project: Project) -> None:
    for path in project.parts():
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"rba_space": "f" * 32}), path)


def remove(folder: str, prefix: str = "") -> Act:
    def removed(project: Project) -> None:
        for path in project.files(folder):
            if path.name.startswith(prefix):
                path.unlink()

    return removed


def statements(*texts: str) -> Act:
    return lambda project: project.sql(*texts)


def sing_another_song(project: Project) -> None:
    other = json.loads(project.oracle.regular(["another song"]).body)
    project.oracle.canary_script = lambda: Reply(200, json.dumps(other).encode())


def sing_the_first_song(project: Project) -> None:
    project.oracle.canary_script = lambda: project.oracle.regular([CANARY])


def double_a_stored_vector(project: Project) -> None:
    with psycopg.connect(project.installation.environment["RBA_DATABASE_URL"]) as connection:
        checks = connection.execute(
            "SELECT conrelid::regclass, conname FROM pg_constraint c JOIN pg_inherits i "
            "ON i.inhrelid = c.conrelid WHERE contype = 'c' AND conname LIKE '%embedding%' "
            "AND inhparent = 'vectors'::regclass"
        ).fetchall()
        for table, name in checks:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        connection.execute(
            "UPDATE vectors SET embedding = embedding + embedding "
            "WHERE chunk_id = (SELECT min(chunk_id) FROM vectors)"
        )


_ROW_OF_NOBODY = """
INSERT INTO vectors SELECT corpus, space, repeat('0', 32), document_id, chunking_id, 99, section,
    page, start, text, text_hash, tokens, embedding FROM vectors LIMIT 1
"""
_KEEP_IT = """
CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$
"""
_MOVE_IT = """
CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
NEW.published_on := '1999-01-01'; RETURN NEW; END $$
"""

# Each with its judgement among the fast tests of core.checks; here it is the whole way to it.
LONG = pytest.mark.long

BROKEN = [
    pytest.param(
        ("documents", "as_catalogued"), drop_first_row("documents"), remove("documents"),
        "lacks 1 documents, and holds 0", id="a-document-is-lost",
    ),
    pytest.param(
        ("chunks", "unique_ids"), repeat_first_row, remove("chunks"), "with 8 ids",
        id="a-chunk-twice", marks=LONG,
    ),
    pytest.param(
        ("chunks", "unique_ids"), drop_first_row("chunks"), remove("chunks"), "holds 7",
        id="a-chunk-is-lost", marks=LONG,
    ),
    pytest.param(
        ("embeddings", "dimension"),
        with_vectors(lambda vectors: np.pad(vectors, ((0, 0), (0, 1)))),
        remove("embeddings", "part-"), "vectors do not have 8 dimensions, in embeddings/",
        id="vectors-of-another-model", marks=LONG,
    ),
    pytest.param(
        ("embeddings", "finite"), with_vectors(first_becomes(np.nan)),
        remove("embeddings", "part-"), "1 vectors hold NaN or infinity, in embeddings/", id="nan",
        marks=pytest.mark.long,
    ),
    pytest.param(
        ("embeddings", "unit_norm"), with_vectors(first_becomes(2.0)),
        remove("embeddings", "part-"), "1 vectors do not have length 1, in embeddings/",
        id="a-long-vector", marks=LONG,
    ),
    pytest.param(
        ("embeddings", "space"), put_into_another_space, remove("embeddings", "part-"),
        "were not made in space", id="a-part-of-another-space", marks=LONG,
    ),
    pytest.param(
        ("embeddings", "sentinel"), sing_another_song, sing_the_first_song,
        "gives other vectors than before", id="the-service-drifted",
        marks=pytest.mark.long,
    ),
    pytest.param(
        ("vectors", "one_vector_per_chunk"),
        statements(
            _ROW_OF_NOBODY, _KEEP_IT,
            "CREATE TRIGGER kept BEFORE DELETE ON vectors FOR EACH ROW EXECUTE FUNCTION kept()",
        ),
        statements("DROP FUNCTION kept CASCADE"), "and 1 that are not due",
        id="a-row-of-nobody", marks=LONG,
    ),
    pytest.param(
        ("vectors", "unit_vectors"), double_a_stored_vector,
        statements("DELETE FROM vectors WHERE NOT abs(vector_norm(embedding) - 1) <= 0.001"),
        "1 rows do not have 8 dimensions and length 1", id="a-stored-vector-was-changed",
    ),
    pytest.param(
        ("vectors", "space"), statements("UPDATE spaces SET model = 'another'"),
        statements("UPDATE spaces SET model = 'oracle'"), "'another' with 8 dimensions in the",
        id="the-database-has-another-space", marks=LONG,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "damage", "mend", "found"), BROKEN)
def test_what_is_broken_stops_its_step_before_search_and_can_be_mended_as_it_says(
    project: Project, check: tuple[str, str], damage: Act, mend: Act, found: str
) -> None:
    assert failures([project.run()]) == []
    rows, vectors = project.installation.rows(), project.installation.vectors()
    damage(project)
    served = project.installation.rows()

    result = project.run()
    after = project.installation.rows()
    mend(project)
    mended = project.run()

    asset, name = check
    of_run = evaluations(result.run_id)
    failed = {made for made, evaluation in of_run.items() if not evaluation.passed}
    [remedy] = [each.remedy for each in CHECKS[asset] if each.name == name]
    assert failed == {check}
    assert of_run[check].severity is AssetCheckSeverity.ERROR
    assert of_run[check].blocking
    assert of_run[check].partition == KEY
    assert found in (of_run[check].description or "")
    assert remedy in (of_run[check].description or "") or name == "sentinel"
    assert f"{asset}: " in (result.failure or "")
    assert found in (result.failure or "")
    assert list(result.metadata) == ASSETS[: ASSETS.index(asset)]
    assert after == served
    assert failures([mended]) == []
    assert all(made.passed for made in evaluations(mended.run_id).values())
    assert project.installation.rows() == rows
    for chunk_id, vector in project.installation.vectors().items():
        np.testing.assert_array_equal(vector, vectors[chunk_id])


BROKEN_ON_THE_WAY = [
    pytest.param(
        ("embeddings", "one_vector_per_text"),
        lambda project: setattr(
            project.oracle,
            "script",
            lambda number, texts: remove("embeddings", "part-")(project) if number == 2 else None,
        ),
        lambda project: setattr(project.oracle, "script", lambda number, texts: None),
        "have neither a vector nor a reason",
        id="a-part-vanishes",
    ),
    pytest.param(
        ("vectors", "documents_published"),
        statements(
            _MOVE_IT,
            "CREATE TRIGGER moved BEFORE INSERT ON documents FOR EACH ROW WHEN "
            "(NEW.title = 'A') EXECUTE FUNCTION moved()",
        ),
        statements("DROP FUNCTION moved CASCADE"),
        "1 documents in the database, 2 in the record",
        id="a-trigger-moves-a-document",
        marks=LONG,
    ),
    pytest.param(
        ("vectors", "one_vector_per_chunk"),
        statements(
            _KEEP_IT,
            "CREATE TRIGGER kept BEFORE INSERT ON vectors FOR EACH ROW EXECUTE FUNCTION kept()",
        ),
        statements("DROP FUNCTION kept CASCADE"),
        "the database dropped 8 chunks of 2011-01-01 without a word",
        id="rows-are-swallowed",
        marks=LONG,
    ),
]


@pytest.mark.parametrize(("check", "damage", "mend", "found"), BROKEN_ON_THE_WAY)
def test_what_breaks_while_a_partition_is_made_is_not_published(
    project: Project, check: tuple[str, str], damage: Act, mend: Act, found: str
) -> None:
    project.installation.environment |= {
        "EMBEDDING_BATCH_SIZE": "1",
        "EMBEDDING_PARALLEL_BATCHES": "1",
    }
    damage(project)

    result = project.run()
    of_run = evaluations(result.run_id)
    published = project.installation.rows()
    mend(project)
    mended = project.run()

    assert {made for made, evaluation in of_run.items() if not evaluation.passed} == {check}
    assert found in (of_run[check].description or "")
    assert found in (result.failure or "")
    assert published == {}
    assert failures([mended]) == []
    assert all(made.passed for made in evaluations(mended.run_id).values())
    assert len(project.installation.rows()) == mended.metadata["chunks"]["chunks"]


def test_every_check_is_made_in_every_run_and_says_what_it_promises(project: Project) -> None:
    made = evaluations(project.run().run_id)
    project.oracle.canary_script = lambda: Reply.error(500, "model_failed")
    again = project.run()
    made_again = evaluations(again.run_id)

    assert list(made) == [(asset, each.name) for asset in ASSETS for each in CHECKS[asset]]
    for asset in ASSETS:
        for check in CHECKS[asset]:
            assert made[asset, check.name].description == check.promise
    assert {name for name, each in made_again.items() if not each.passed} == {
        ("embeddings", "sentinel")
    }
    # Nothing had to be sent: what the service does not answer then is known only as that.
    assert failures([again]) == []
    assert made_again["embeddings", "sentinel"].severity is AssetCheckSeverity.WARN
    assert "could not be asked" in (made_again["embeddings", "sentinel"].description or "")


@pytest.mark.long
def test_partitions_that_wait_are_named_until_all_files_are_accounted_for(project: Project) -> None:
    project.installation.add("c.html", title="C", day="5 May 2012", paragraphs=["Rain fell."])
    project.installation.add("d.html", title="D", day="", paragraphs=["Undated."])

    first = project.run()
    (project.installation.source / "A.html").unlink()
    second = project.run("2012-01-01")
    third = project.run()

    found = [
        evaluations(result.run_id)["vectors", "corpus_adds_up"] for result in (first, second, third)
    ]
    said = found[1].description or ""
    assert failures([first, second, third]) == []
    # A partition that was never run is none that something is missing from.
    assert [evaluation.passed for evaluation in found] == [True, False, True]
    assert [each.metadata["partitions_never_run"].value for each in found] == [1, 0, 0]
    assert found[0].metadata["waiting"].value == 1
    assert found[1].severity is AssetCheckSeverity.WARN
    assert "3 files are 2 documents that search has" in said
    assert "1 in quarantine, and 0 that wait" in said
    assert "take out are 2011-01-01 (1)." in said
