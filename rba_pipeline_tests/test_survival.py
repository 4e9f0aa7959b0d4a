"""The account of a backfill: it holds for what a run leaves, and sees everything that is wrong."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import KEY, OracleService
from rba_pipeline_tests.survival.__main__ import main
from rba_pipeline_tests.survival.account import Place, account

pytestmark = pytest.mark.postgres


@pytest.fixture
def place(installation: Installation, oracle: OracleService) -> Place:
    """Have two partitions published."""
    for year in (2011, 2012):
        for name in "ab":
            paragraphs = [f"Passage {at} of {name} in {year}. " * 60 for at in range(3)]
            installation.add(
                f"{year}{name}.html", title=f"Of {name}", day=f"5 May {year}", paragraphs=paragraphs
            )
    assert failures(installation.run_all()) == []
    return Place(
        source=installation.source,
        store=installation.folder / "store",
        corpus="publications",
        database_url=installation.environment["RBA_DATABASE_URL"],
        service_url=oracle.url,
        service_key=KEY,
    )


def broken(place: Place) -> list[str]:
    """Return what does not hold, of a place that was not looked at before."""
    return [line.claim for line in account(place, sample=20) if not line.holds]


def by(statement: str) -> Callable[[Place], None]:
    def happen(place: Place) -> None:
        with psycopg.connect(place.database_url) as connection:
            assert connection.execute(statement).rowcount > 0

    return happen


def other_length(place: Place) -> None:
    with psycopg.connect(place.database_url) as connection:
        checks = connection.execute(
            "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) "
            "FROM pg_constraint WHERE contype = 'c' AND conname LIKE 'vectors%embedding%'"
        ).fetchall()
        for (statement,) in checks:
            connection.execute(statement)
        connection.execute(f"UPDATE vectors SET embedding = embedding * embedding WHERE {_FIRST}")


def lost_file(place: Place) -> None:
    shutil.copy(place.source / "2011a.html", place.source / "2011c.html")


def lost_part(place: Place) -> None:
    one_of(place, "embeddings/publications/*/2011/part-*.parquet").unlink()


def second_part(place: Place) -> None:
    part = one_of(place, "embeddings/publications/*/2011/part-*.parquet")
    shutil.copy(part, part.with_name("part-again.parquet"))


def lost_chunks(place: Place) -> None:
    path = one_of(place, "chunks/publications/*/2011*.parquet")
    rows: pa.Table = pq.read_table(path, partitioning=None)
    pq.write_table(rows.slice(1), path)


def one_of(place: Place, pattern: str) -> Path:
    return next(place.store.glob(pattern))


_FIRST = "chunk_id = (SELECT min(chunk_id) FROM vectors)"


MISTAKES: list[tuple[str, Callable[[Place], None]]] = [
    ("chunks without a row", by(f"DELETE FROM vectors WHERE {_FIRST}")),
    ("documents = files - quarantined", by("DELETE FROM documents WHERE path = '2011a.html'")),
    ("files without a document", lost_file),
    (
        "documents without a file",
        by("UPDATE documents SET path = 'gone.html' WHERE path = '2011a.html'"),
    ),
    (
        "documents without a chunk",
        by("DELETE FROM vectors WHERE document_id = (SELECT min(document_id) FROM vectors)"),
    ),
    ("documents with a gap in their chunks", by("DELETE FROM vectors WHERE ordinal = 0")),
    ("rows with another text", by(f"UPDATE vectors SET text = text || '!' WHERE {_FIRST}")),
    (
        "rows whose hash is not of their text",
        by(f"UPDATE vectors SET text_hash = 'x' WHERE {_FIRST}"),
    ),
    (
        "rows with another vector than Parquet",
        by(
            f"UPDATE vectors SET embedding = o.embedding FROM vectors o WHERE vectors.{_FIRST} "
            "AND o.chunk_id = (SELECT max(chunk_id) FROM vectors)"
        ),
    ),
    ("vectors that are not of unit length", other_length),
    ("rows without a chunk", lost_chunks),
    ("texts without a vector in Parquet", lost_part),
    ("texts embedded twice", second_part),
]


@contextmanager
def copied(place: Place, folder: Path) -> Iterator[Place]:
    """Have a copy of everything, to do harm to."""
    name = place.database_url.rpartition("/")[2]
    server = place.database_url.removesuffix(name)
    shutil.copytree(place.source, folder / "source")
    shutil.copytree(place.store, folder / "store")
    with psycopg.connect(f"{server}postgres", autocommit=True) as link:
        link.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        yield replace(
            place,
            source=folder / "source",
            store=folder / "store",
            database_url=f"{server}{name}_copy",
        )
        link.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")


@pytest.mark.long
def test_everything_holds_after_a_run_and_each_mistake_is_seen(
    place: Place, oracle: OracleService, tmp_path: Path
) -> None:
    lines = list(account(place, sample=20))

    assert [line.claim for line in lines if not line.holds] == []
    assert len(place.rows) >= 8
    assert (lines[0].found, lines[0].expected) == (4, 4)

    for number, (claim, happens) in enumerate(MISTAKES):
        with copied(place, tmp_path / f"copy-{number}") as copy:
            happens(copy)
            assert claim in broken(copy), claim

    right = oracle.regular
    oracle.script = lambda number, texts: right([text.upper() for text in texts])
    assert [claim.partition(" of ")[0] for claim in broken(place)] == ["least cosine"]


def test_a_folder_without_publications_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no publication"):
        main(["--corpus", str(tmp_path)])
