"""Invented documents and chunks, as the record and the database keep them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rba_pipeline.core.chunks import Chunk
from rba_pipeline.core.documents import Document, Section
from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.catalogue import Entry
from rba_pipeline.resources.record_store import CHUNKS
from rba_pipeline_tests.oracle_service import DIMENSIONS, oracle_vector

CORPUS = "invented"
CHUNKING = "c" * 16
YEAR = Window(date(2013, 1, 1), date(2014, 1, 1))
SPACE = Space("a" * 32, "oracle", DIMENSIONS, {"model": "oracle", "pooling": "mean"})


def sha256(text: str) -> str:
    """Return the hash by which a text is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def document(
    name: str, *, day: date = date(2013, 6, 4), series: str = "speech", text: str = "Rain fell."
) -> Document:
    """Return a document of two sections whose id follows from ``name``."""
    sections = (
        Section("", 0, None, f"Opening of {name}."),
        Section("Weather", 2, 3, f"{text}\n\nMore of it."),
    )
    return Document(
        document_id=sha256(name)[:32],
        corpus=CORPUS,
        path=f"{name}.html",
        series=series,
        title=f"On {name}",
        url=f"https://example.org/{name}",
        published_on=day,
        dated_by="title",
        sections=sections,
        sha256=sha256(f"bytes of {name} {text}"),
        content_hash=sha256(f"content of {name} {text}"),
    )


def entry(of: Document) -> Entry:
    """Return the row that the catalogue has of a document."""
    return Entry(
        path=of.path,
        size=100,
        modified="1",
        sha256=of.sha256,
        stated_hash="",
        parser_version=1,
        document_id=of.document_id,
        series=of.series,
        title=of.title,
        published_on=of.published_on,
        content_hash=of.content_hash,
    )


def chunks(of: Document, texts: Sequence[str]) -> list[Chunk]:
    """Return one chunk per text; the ids stay as long as document and text do."""
    return [
        Chunk(
            chunk_id=sha256(f"{of.document_id} {text}")[:32],
            document_id=of.document_id,
            ordinal=ordinal,
            section="Weather",
            page=3,
            start=ordinal * 10,
            text=text,
            text_hash=sha256(text),
            tokens=len(text.split()) + 2,
        )
        for ordinal, text in enumerate(texts)
    ]


def chunk_batches(
    texts: Mapping[Document, Sequence[str]], corpus: str = CORPUS
) -> Iterator[pa.RecordBatch]:
    """Yield the chunks of each document as the record store does."""
    for of, its_texts in texts.items():
        rows = [
            {**asdict(chunk), "corpus": corpus, "chunking_id": CHUNKING}
            for chunk in chunks(of, its_texts)
        ]
        yield from pa.Table.from_pylist(rows, schema=CHUNKS).to_batches()


def vectors_of(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the oracle's vectors, float32, shape ``(n, 8)``."""
    return np.array([oracle_vector(text) for text in texts], np.float32).reshape(-1, DIMENSIONS)
