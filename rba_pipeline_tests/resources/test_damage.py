"""A byte that a disk gave back wrong: a file of the record is read, or is named as damaged."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rba_pipeline.core.embeddings import Outcome, Part
from rba_pipeline.core.errors import RecordDamaged
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.store_root import KeptRows
from rba_pipeline_tests.resources.corpus import Corpus, text_of
from rba_pipeline_tests.resources.sample_records import (
    CHUNKING,
    CORPUS,
    SPACE,
    YEAR,
    chunks,
    document,
    entry,
    sha256,
    vectors_of,
)

# Bytes from one that is changed to the next; a prime, so that all kinds of places are met.
STEP = 29
Reading = tuple[Path, Callable[[], Iterable[object]]]


def vectors(folder: Path) -> Iterator[Reading]:
    store, texts = EmbeddingStore(store=str(folder), corpus=CORPUS), [f"{n}" for n in range(20)]
    hashes = tuple(map(sha256, texts))
    store.append(SPACE.id, 2013, Part(hashes, vectors_of(texts), frozenset(hashes[:2])))
    [part] = folder.rglob("part-*")
    yield part, lambda: store.kept(SPACE.id, 2013)
    yield part, lambda: store.vectors(SPACE.id, 2013, hashes)


def canary(folder: Path) -> Iterator[Reading]:
    store = EmbeddingStore(store=str(folder), corpus=CORPUS)
    store.keep_canary(SPACE.id, vectors_of(["canary"])[0])
    [kept] = folder.rglob("canary.parquet")
    yield kept, lambda: [store.canary(SPACE.id)]


def outcomes(folder: Path) -> Iterator[Reading]:
    store = EmbeddingStore(store=str(folder), corpus=CORPUS)
    embedded = Outcome(sha256("a"), "embedded", None, 0, 3)
    bad = Outcome(sha256("b"), "quarantined", "text_invalid", 2, 5)
    store.write_outcomes(YEAR, SPACE, CHUNKING, [embedded, bad])
    [kept] = folder.rglob("*.parquet")
    yield kept, lambda: [store.outcomes(YEAR)]
    yield kept, lambda: store.earlier(YEAR, SPACE.id)
    yield kept, lambda: store.quarantined_in([bad.text_hash])


def documents(folder: Path) -> Iterator[Reading]:
    store = RecordStore(store=str(folder), corpus=CORPUS)
    made = [document(f"n{n}") for n in range(5)]
    store.write_documents(YEAR, list(map(entry, made)), made)
    [kept] = folder.rglob("*.parquet")
    yield kept, lambda: store.documents(YEAR)
    yield kept, lambda: store.document_ids(YEAR)
    yield kept, lambda: [store.count_documents(YEAR)]


def cut_chunks(folder: Path) -> Iterator[Reading]:
    store, made = RecordStore(store=str(folder), corpus=CORPUS), document("floods")
    store.write_documents(YEAR, [entry(made)], [made])
    store.write_chunks(YEAR, CHUNKING, lambda of: chunks(of, [f"text {n}" for n in range(20)]))
    [kept] = folder.rglob(f"{CHUNKING}/*.parquet")
    yield kept, lambda: store.chunk_keys(YEAR, CHUNKING)
    yield kept, lambda: store.chunk_batches(YEAR, CHUNKING)
    yield kept, lambda: store.texts(YEAR, CHUNKING)
    yield kept, lambda: store.sample(CHUNKING, 5)


def catalogue_and_parsed(folder: Path) -> Iterator[Reading]:
    corpus = Corpus(folder)
    for name in ("a", "b"):
        corpus.put(f"{name}.txt", text_of("3 May 2020", name))
    corpus.refresh()
    entries = corpus.catalogue().all_documents()
    [catalogue] = corpus.store.rglob("catalogue.parquet")
    [part] = corpus.store.rglob("part-*")
    yield catalogue, lambda: corpus.catalogue().entries
    yield part, lambda: corpus.source().read(entries)


@pytest.mark.parametrize(
    "kind", [vectors, canary, outcomes, documents, cut_chunks, catalogue_and_parsed]
)
def test_a_file_with_a_wrong_byte_is_read_or_named(
    tmp_path: Path, kind: Callable[[Path], Iterator[Reading]]
) -> None:
    for path, read in kind(tmp_path):
        whole, rows = path.read_bytes(), read_from(read)
        said = set[str | int]()
        for place in range(0, len(whole), STEP):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            said.add(read_from(read))
        path.write_bytes(whole)

        complaints = {each for each in said if isinstance(each, str)}
        assert complaints
        assert all(f"{path.name} is not a whole" in each for each in complaints)
        assert said - complaints <= {rows}


def read_from(read: Callable[[], Iterable[object]]) -> str | int:
    """Return how many things are read, or what is said of damage."""
    try:
        return len(list(read()))
    except RecordDamaged as error:
        return str(error)


def test_rows_that_a_wrong_byte_takes_away_are_missed() -> None:
    table = pa.table({"name": [f"{n}" for n in range(30)], "number": [None, 1] * 15})
    pq.write_table(table, file := io.BytesIO())
    whole = file.getvalue()
    said = set[str | int]()
    for place in range(len(whole)):
        wrong = io.BytesIO(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        said.add(read_from(lambda file=wrong: rows_of(file)))

    assert {each for each in said if not isinstance(each, str)} == {30}
    assert any("of 30 rows are missing" in each for each in said if isinstance(each, str))


def rows_of(file: io.BytesIO) -> list[object]:
    kept = KeptRows("numbers", file)
    return [row for rows in kept.decoded(lambda batch: batch.to_pylist(), 7) for row in rows]


@pytest.mark.parametrize("error", [OSError("403 Forbidden"), ValueError("400"), KeyError("token")])
def test_what_the_way_to_the_disk_says_is_no_damage(error: Exception) -> None:
    class Far(io.BytesIO):
        is_away = False

        def read(self, size: int | None = -1) -> bytes:
            if self.is_away:
                raise error
            return super().read(size)

    file = Far()
    pq.write_table(pa.table({"number": range(3)}), file)
    kept = KeptRows("numbers", file)
    file.is_away = True

    with pytest.raises(type(error)) as raised:
        list(kept.decoded(lambda batch: batch.num_rows, 1))

    assert raised.value is error
