"""The record of documents and chunks: kept as it was, written once, refused when stale."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rba_pipeline.core.chunks import Chunk
from rba_pipeline.core.documents import Document
from rba_pipeline.core.errors import RecordMissing
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.record_store import (
    CHUNKS,
    DOCUMENTS,
    DOCUMENTS_PER_GROUP,
    ROWS_AT_ONCE,
    RecordStore,
    Written,
)
from rba_pipeline_tests.resources.sample_records import (
    CHUNKING,
    CORPUS,
    YEAR,
    chunks,
    document,
    entry,
    sha256,
)

FLOODS, FROST = document("floods"), document("frost", day=date(2013, 8, 6), series="minutes")
TEXTS = {FLOODS.document_id: ["b", "a", "b"], FROST.document_id: ["c", "a"]}


def store_in(folder: Path) -> RecordStore:
    return RecordStore(store=str(folder), corpus=CORPUS)


@pytest.fixture
def records(tmp_path: Path) -> RecordStore:
    """Have two documents kept."""
    store = store_in(tmp_path)
    write(store, [FLOODS, FROST])
    return store


def write(store: RecordStore, documents: list[Document], window: Window = YEAR) -> Written:
    return store.write_documents(window, [entry(each) for each in documents], documents)


def cut(of: Document) -> Iterable[Chunk]:
    return chunks(of, TEXTS.get(of.document_id, []))


def hashes(records: RecordStore, window: Window, chunking_id: str = CHUNKING) -> list[str]:
    return [name for name, _ in records.text_hashes(window, chunking_id)]


def nothing_is_read() -> Iterator[Document]:
    raise AssertionError("unchanged documents were read")
    yield


def test_documents_come_back_with_every_field_and_in_order(records: RecordStore) -> None:
    assert list(records.documents(YEAR)) == [FLOODS, FROST]


def test_the_columns_have_the_types_of_the_schema(records: RecordStore, tmp_path: Path) -> None:
    records.write_chunks(YEAR, CHUNKING, cut)

    for path, schema in (
        (records.documents_path(YEAR), DOCUMENTS),
        (records.chunks_path(YEAR, CHUNKING), CHUNKS),
    ):
        assert pq.read_schema(tmp_path / path).equals(schema, check_metadata=False)


def test_chunks_come_back_with_every_field_corpus_and_chunking(records: RecordStore) -> None:
    written = records.write_chunks(YEAR, CHUNKING, cut)

    rows = [row for batch in records.chunk_batches(YEAR, CHUNKING) for row in batch.to_pylist()]
    expected = [*cut(FLOODS), *cut(FROST)]
    assert (written.rows, written.tokens, written.reused) == (5, 15, False)
    assert {(row.pop("corpus"), row.pop("chunking_id")) for row in rows} == {(CORPUS, CHUNKING)}
    assert [Chunk(**row) for row in rows] == expected


def test_unchanged_documents_are_neither_read_nor_written_again(
    records: RecordStore, tmp_path: Path
) -> None:
    path = tmp_path / records.documents_path(YEAR)
    before = path.stat()

    written = records.write_documents(YEAR, [entry(FLOODS), entry(FROST)], nothing_is_read())

    assert (written.rows, written.reused) == (2, True)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_chunks_of_unchanged_documents_are_not_cut_again(records: RecordStore) -> None:
    first = records.write_chunks(YEAR, CHUNKING, cut)

    again = records.write_chunks(YEAR, CHUNKING, lambda of: pytest.fail(f"{of.path} was cut"))

    assert again == replace(first, reused=True)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param([FLOODS], id="one-gone"),
        pytest.param([FLOODS, FROST, document("hail")], id="one-new"),
        pytest.param([FLOODS, document("frost", text="Edited.")], id="one-edited"),
        pytest.param([], id="all-gone"),
    ],
)
def test_changed_documents_replace_the_file(records: RecordStore, changed: list[Document]) -> None:
    written = write(records, changed)

    assert (written.rows, written.reused) == (len(changed), False)
    assert list(records.documents(YEAR)) == changed


def test_chunks_older_than_their_documents_are_refused(records: RecordStore) -> None:
    records.write_chunks(YEAR, CHUNKING, cut)
    write(records, [FLOODS])

    with pytest.raises(RecordMissing, match=r"changed after .* materialise 'chunks'"):
        list(records.chunk_batches(YEAR, CHUNKING))


def test_rows_of_another_version_than_was_asked_for_are_refused(records: RecordStore) -> None:
    records.write_chunks(YEAR, CHUNKING, cut)
    before = records.digest(YEAR)
    write(records, [FLOODS])
    records.write_chunks(YEAR, CHUNKING, cut)

    with pytest.raises(RecordMissing, match="changed"):
        list(records.documents(YEAR, before))
    with pytest.raises(RecordMissing, match="changed"):
        list(records.chunk_batches(YEAR, CHUNKING, before))
    assert list(records.documents(YEAR, records.digest(YEAR))) == [FLOODS]


def test_another_chunking_and_another_window_are_kept_apart(records: RecordStore) -> None:
    june = Window(date(2013, 6, 1), date(2013, 7, 1))
    write(records, [FLOODS], june)
    records.write_chunks(YEAR, CHUNKING, cut)

    records.write_chunks(june, CHUNKING, cut)
    records.write_chunks(YEAR, "other", lambda of: chunks(of, ["whole"]))

    assert hashes(records, YEAR) == list(map(sha256, "babca"))
    assert hashes(records, june) == list(map(sha256, "bab"))
    assert hashes(records, YEAR, "other") == [sha256("whole")] * 2


def test_what_is_missing_upstream_is_named(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    with pytest.raises(RecordMissing, match="materialise 'documents' first"):
        list(store.documents(YEAR))
    with pytest.raises(RecordMissing, match="materialise 'documents' first"):
        store.write_chunks(YEAR, CHUNKING, cut)
    for read in (store.chunk_batches, store.text_hashes):
        with pytest.raises(RecordMissing, match="materialise 'chunks' first"):
            list(read(YEAR, CHUNKING))


def test_hashes_and_texts_come_in_document_order_with_their_tokens(records: RecordStore) -> None:
    records.write_chunks(YEAR, CHUNKING, cut)

    texts = list(records.texts(YEAR, CHUNKING))

    assert [text.text for text in texts] == list("babca")
    assert [(text.text_hash, text.tokens) for text in texts] == [
        (sha256(text), 3) for text in "babca"
    ]
    assert list(records.text_hashes(YEAR, CHUNKING)) == [
        (text.text_hash, text.tokens) for text in texts
    ]


def test_a_partition_without_documents_has_no_chunks(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    written = write(store, [])

    assert written.rows == 0
    assert store.write_chunks(YEAR, CHUNKING, cut).rows == 0
    assert list(store.chunk_batches(YEAR, CHUNKING)) == []
    assert hashes(store, YEAR) == []


def test_rows_stream_through_in_bounded_groups(tmp_path: Path) -> None:
    store, many = store_in(tmp_path), [document(f"n{number}") for number in range(1000)]
    read: list[int] = []

    def stream() -> Iterator[Document]:
        for number, each in enumerate(many):
            read.append(number)
            yield each

    store.write_documents(YEAR, [entry(each) for each in many], stream())
    documents = store.documents(YEAR)
    next(documents)
    store.write_chunks(YEAR, CHUNKING, lambda of: chunks(of, [of.title]))

    sizes = [batch.num_rows for batch in store.chunk_batches(YEAR, CHUNKING)]
    file = pq.ParquetFile(tmp_path / store.documents_path(YEAR))
    groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert len(read) == sum(sizes) == sum(groups) == 1000
    assert max(sizes) <= ROWS_AT_ONCE
    assert max(groups) <= DOCUMENTS_PER_GROUP


def test_a_cut_that_fails_leaves_the_chunks_as_they_were(records: RecordStore) -> None:
    records.write_chunks(YEAR, CHUNKING, cut)
    write(records, [FLOODS])

    def fail(of: Document) -> Iterable[Chunk]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        records.write_chunks(YEAR, CHUNKING, fail)

    assert len(hashes(records, YEAR)) == 5


def test_a_tokenizer_is_fetched_once_and_kept_by_its_hash(tmp_path: Path) -> None:
    store, content = store_in(tmp_path), '{"ä": 1}'.encode()
    name = hashlib.sha256(content).hexdigest()

    first = store.tokenizer(name, lambda: content)
    again = store.tokenizer(name, lambda: pytest.fail("it was fetched again"))

    assert first == again == '{"ä": 1}'


def test_a_tokenizer_with_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    with pytest.raises(RecordMissing, match="restarted with another model"):
        store.tokenizer("0" * 64, lambda: b"{}")

    assert not list(tmp_path.rglob("*.json"))
