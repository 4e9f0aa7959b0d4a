"""A store with invented documents published in it, as the asset ``vectors`` would."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import psycopg
from numpy.typing import NDArray

from rba_pipeline.core.documents import Document
from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.publication import Published
from rba_pipeline.resources.staging import Content, VectorBlocks, VectorSource
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.resources.sample_records import (
    CORPUS,
    SPACE,
    YEAR,
    chunk_batches,
    sha256,
    vectors_of,
)

Texts = Mapping[Document, Sequence[str]]
# As a VectorSource, of all hashes at once.
OfAll = Callable[[set[str]], VectorBlocks]
DEADLINE_S = 30
NEW_SPACE = Space("b" * 32, "newer", SPACE.dimensions, {"model": "newer"})


def store_of(database_url: str, corpus: str = CORPUS, **settings: int) -> VectorStore:
    """Return a store as one run has it; its connection is made at first use."""
    return VectorStore(database_url=database_url, corpus=corpus, **settings)


def vectors_from(texts: Texts) -> OfAll:
    """Return a source of the oracle's vectors, one block per text."""
    known = {sha256(text): text for its_texts in texts.values() for text in its_texts}

    def source(wanted: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        for name in sorted(wanted & known.keys()):
            yield [name], vectors_of([known[name]])

    return source


def reading_first(source: OfAll) -> VectorSource:
    """Return a source that has read all that is wanted when it returns, as it promises."""
    return lambda wanted: source(set(wanted))


def publish(
    store: VectorStore,
    texts: Texts,
    *,
    space: Space = SPACE,
    window: Window = YEAR,
    vectors: OfAll | None = None,
    quarantined: Iterable[str] = (),
    elsewhere: Callable[[], Iterable[str]] = tuple,
) -> Published:
    """Publish ``texts`` as all that there is in ``window``."""
    content = Content(
        documents=lambda: [replace(of, corpus=store.corpus) for of in texts],
        chunks=lambda: chunk_batches(texts, store.corpus),
        vectors=reading_first(vectors or vectors_from(texts)),
        quarantined=tuple(quarantined),
        elsewhere=elsewhere,
    )
    return store.publish(space, window, content)


def rows(database_url: str) -> list[tuple[str, str, str, int]]:
    """Return corpus, space, text and ordinal of every searchable chunk, in this order."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT corpus, space, text, ordinal FROM vectors ORDER BY 1, 2, 3"
        ).fetchall()


def wait_for_a_waiting_lock(database_url: str) -> None:
    """Return when a transaction of this database waits for an advisory lock."""
    deadline = time.monotonic() + DEADLINE_S
    waiting = (
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        while connection.execute(waiting).fetchone() is None:
            assert time.monotonic() < deadline, "nobody waits for a lock"


def end_other_connections(database_url: str) -> None:
    """Let the server end every connection to this database, as it does when it is shut down."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
