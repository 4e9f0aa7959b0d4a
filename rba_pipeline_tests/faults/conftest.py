"""What faults happen to: an empty store; a corpus of one partition, with little patience."""

from collections.abc import Iterator, Sequence

import pytest

from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.invariants import PHRASE
from rba_pipeline_tests.installation import Installation
from rba_pipeline_tests.resources.publishing import store_of

PARTITION = "2011-01-01"
BATCH, PARALLEL = 8, 2


def add_documents(
    installation: Installation,
    paragraphs: int,
    names: Sequence[str] = "AB",
    *,
    year: int = 2011,
    word: str = "wheat",
) -> None:
    """Add a document of distinct paragraphs, about one chunk each, for every name."""
    for name in names:
        installation.add(
            f"{name}.html",
            title=f"Statement {name}",
            day=f"5 May {year}",
            paragraphs=[
                " ".join(f"{PHRASE} {name}-{place}-{at} of {word}" for at in range(10)) + "."
                for place in range(paragraphs)
            ],
        )


@pytest.fixture
def project(installation: Installation) -> Installation:
    """Have two documents of one partition, some sixty chunks, and a database with our schema."""
    installation.environment |= {
        "RBA_CHUNK_TOKENS": "96",
        "RBA_CHUNK_OVERLAP": "0",
        "EMBEDDING_BATCH_SIZE": str(BATCH),
        "EMBEDDING_PARALLEL_BATCHES": str(PARALLEL),
        "EMBEDDING_ADAPTIVE": "false",
        "EMBEDDING_API_TIMEOUT": "20",
        "EMBEDDING_OUTAGE_SECONDS": "20",
    }
    add_documents(installation, paragraphs=32)
    with installation.neighbours() as found:
        found.vector_store.migrate()
    return installation


@pytest.fixture
def store(database_url: str) -> Iterator[VectorStore]:
    """Have a store with a schema and nothing in it."""
    with store_of(database_url).open() as opened:
        opened.migrate()
        yield opened
