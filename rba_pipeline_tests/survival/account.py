"""What a finished backfill must have left: counted in source, Parquet, Postgres and at the service.

Nothing here goes through the pipeline's own code: files are read, rows selected, texts posted.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

_PAGES = (".html", ".htm", ".pdf")
# What a vector of one text may differ from the same text's in a batch; see the service's check.
_LEAST_COSINE = 0.9999
_NORM = 1e-4
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the account."""

    claim: str
    found: object
    expected: object
    holds: bool

    def cells(self) -> list[object]:
        """Return the row of a table: claim, found, expected, verdict."""
        return [self.claim, self.found, self.expected, "holds" if self.holds else "BROKEN"]


@dataclass(frozen=True, slots=True)
class Row:
    """One searchable chunk, as Postgres has it."""

    year: int
    document: str
    text: str
    text_hash: str
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where everything is that has to agree."""

    source: Path
    store: Path
    corpus: str
    database_url: str
    service_url: str
    service_key: str

    def publications(self) -> set[str]:
        """Return the paths of all publications: those of the manifest, else every page and PDF."""
        manifest = self.source / "manifest.jsonl"
        if manifest.exists():
            lines = manifest.read_text(encoding="utf-8").splitlines()
            return {json.loads(line)["path"] for line in lines}
        files = (path for path in self.source.rglob("*") if path.suffix in _PAGES)
        return {str(path.relative_to(self.source)) for path in files}

    def query(self, statement: str) -> list[tuple]:
        """Return all rows that a statement selects."""
        with psycopg.connect(self.database_url) as connection:
            register_vector(connection)
            return connection.execute(statement).fetchall()

    def chunks(self) -> list[tuple[str, str]]:
        """Return id and text of every row in the chunks' Parquet."""
        return list(_columns(self.store / "chunks" / self.corpus, "chunk_id", "text"))

    def kept(self) -> list[tuple[int, str, NDArray[np.float32]]]:
        """Return calendar year, hash and vector of every row in the vectors' Parquet."""
        folder = self.store / "embeddings" / self.corpus
        found = []
        for part in sorted(folder.glob("*/*/part-*.parquet")):
            for text_hash, vector in _columns(part, "text_hash", "vector"):
                found.append((int(part.parent.name), text_hash, np.asarray(vector, np.float32)))
        return found

    @cached_property
    def rows(self) -> Mapping[str, Row]:
        """Return the searchable rows by chunk id; asked for once."""
        selected = self.query(
            "SELECT chunk_id, extract(year FROM published_on)::int, document_id, text, text_hash, "
            "embedding FROM vectors JOIN documents USING (corpus, document_id)"
        )
        return {name: Row(*rest, vector.to_numpy()) for name, *rest, vector in selected}

    def vector_of(self, text: str) -> NDArray[np.float32]:
        """Return what the service gives for a text that is sent alone."""
        answer = requests.post(
            f"{self.service_url}/embeddings",
            json={"input": [text], "encoding_format": "base64"},
            headers={"Authorization": f"Bearer {self.service_key}"},
            timeout=120,
        )
        answer.raise_for_status()
        [item] = answer.json()["data"]
        return np.frombuffer(base64.b64decode(item["embedding"]), "<f4")


def account(place: Place, sample: int) -> Iterator[Line]:
    """Yield a line for everything that has to agree.

    Args:
        sample: How many vectors are computed again, spread over the years.
    """
    yield from _documents(place)
    yield from _chunks(place)
    yield from _vectors(place)
    yield _same_again(place, sample)


def equal(claim: str, found: object, expected: object) -> Line:
    """Return the line of two figures that must be equal."""
    return Line(claim, found, expected, found == expected)


def none_of(claim: str, found: Iterable[object]) -> Line:
    """Return the line of something of which there must be none; it names some of what there is."""
    names = [str(each) for each in found]
    told = f"{len(names)}: {', '.join(sorted(names)[:_SHOWN])}" if names else 0
    return Line(claim, told, 0, not names)


def _documents(place: Place) -> Iterator[Line]:
    files = place.publications()
    published = [path for (path,) in place.query("SELECT path FROM documents")]
    listed = place.query("SELECT kind, name, reason FROM quarantine")
    withheld = {name for kind, name, _ in listed if kind == "document"}
    yield equal("documents = files - quarantined", len(published), len(files - withheld))
    yield none_of("files without a document", files - withheld - {*published})
    yield none_of("documents without a file", {*published} - files)
    yield none_of("texts or chunks in quarantine", [row for row in listed if row[0] != "document"])
    yield none_of(
        "documents without a chunk",
        place.query(
            "SELECT path FROM documents d WHERE NOT EXISTS (SELECT FROM vectors v "
            "WHERE (v.corpus, v.document_id) = (d.corpus, d.document_id))"
        ),
    )


def _chunks(place: Place) -> Iterator[Line]:
    chunks, rows = place.chunks(), place.rows
    recorded = dict(chunks)
    [(count,)] = place.query("SELECT count(*) FROM vectors")
    yield equal("rows in Postgres = chunks in Parquet", count, len(chunks))
    yield equal("their ids are distinct", len(recorded), len(chunks))
    yield none_of("chunks without a row", recorded.keys() - rows.keys())
    yield none_of("rows without a chunk", rows.keys() - recorded.keys())
    both = recorded.keys() & rows.keys()
    yield none_of("rows with another text", [n for n in both if rows[n].text != recorded[n]])
    yield none_of(
        "rows whose hash is not of their text",
        [n for n, row in rows.items() if _hash(row.text) != row.text_hash],
    )
    yield none_of(
        "documents with a gap in their chunks",
        place.query(
            "SELECT document_id FROM vectors GROUP BY corpus, space, document_id "
            "HAVING count(DISTINCT ordinal) <> count(*) OR max(ordinal) + 1 <> count(*)"
        ),
    )


def _vectors(place: Place) -> Iterator[Line]:
    kept, rows = place.kept(), place.rows
    of = {(year, text_hash): vector for year, text_hash, vector in kept}
    needed = {(row.year, row.text_hash) for row in rows.values()}
    yield equal("vectors in Parquet = distinct texts of a year", len(kept), len(needed))
    yield none_of("texts without a vector in Parquet", needed - of.keys())
    yield none_of("vectors in Parquet without a text", of.keys() - needed)
    twice = Counter((year, text_hash) for year, text_hash, _ in kept)
    yield none_of("texts embedded twice", [key for key, count in twice.items() if count > 1])
    yield none_of(
        "rows with another vector than Parquet",
        [
            name
            for name, row in rows.items()
            if not np.array_equal(row.vector, of.get((row.year, row.text_hash), ()))
        ],
    )
    norms = {name: float(np.linalg.norm(row.vector)) for name, row in rows.items()}
    yield none_of(
        "vectors that are not of unit length",
        [name for name, norm in norms.items() if not abs(norm - 1) <= _NORM],
    )
    yield equal("spaces", len(place.query("SELECT DISTINCT space FROM vectors")), 1)


def _same_again(place: Place, sample: int) -> Line:
    """Compare with the vectors that the service gives now for the same texts, each sent alone."""
    chosen = _spread(place.rows, sample)
    # Not min(): it would pass over what is no number.
    least = np.min([_cosine(row.vector, place.vector_of(row.text)) for row in chosen], initial=1)
    claim = f"least cosine of {len(chosen)} vectors computed again"
    holds = bool(chosen) and bool(least > _LEAST_COSINE)
    return Line(claim, f"{least:.6f}", f"> {_LEAST_COSINE}", holds)


def _spread(rows: Mapping[str, Row], sample: int) -> list[Row]:
    """Return ``sample`` rows at most, as many of each year as there are, the same every time."""
    years: dict[int, list[Row]] = {}
    for name in sorted(rows):
        years.setdefault(rows[name].year, []).append(rows[name])
    turns = (each[turn] for turn in range(len(rows)) for each in years.values() if turn < len(each))
    return [row for row, _ in zip(turns, range(sample), strict=False)]


def _columns(path: Path, *names: str) -> Iterator[tuple]:
    """Yield the rows of a Parquet file, or of all files below a folder, one by one."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    for file in files:
        table: pa.Table = pq.read_table(file, columns=list(names), partitioning=None)
        yield from zip(*(table.column(name).to_pylist() for name in names), strict=True)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
