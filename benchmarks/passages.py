"""Real passages and known-item queries, from a folder of publications."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from embedding_service.backend.base import Backend
from rba_pipeline.core.chunks import Chunker, ChunkSettings
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.search import KnownItem, known_items

# What the pipeline takes unless it is told otherwise.
_CHUNK_TOKENS, _OVERLAP_TOKENS = 512, 64


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk as the pipeline would send it, and the publication that it is of."""

    path: str
    series: str
    text: str


def read_passages(corpus: Path, backend: Backend) -> list[Passage]:
    """Return all passages of the publications in ``corpus``, cut for ``backend``'s tokenizer.

    Raises:
        SourceUnavailable: The folder is missing, or has a broken manifest.
    """
    size = min(_CHUNK_TOKENS, backend.max_tokens)
    settings = ChunkSettings(
        size=size,
        overlap=min(_OVERLAP_TOKENS, size // 2),
        prompt=backend.prompts.document,
        tokenizer_sha256=backend.space.tokenizer_sha256,
    )
    chunker = Chunker(settings, backend.tokenizer_json.decode())
    today = datetime.now(UTC).date()
    with tempfile.TemporaryDirectory() as store:
        source = DocumentSource(url=str(corpus), corpus="quality", store=store)
        source.refresh(today)
        documents = source.read(source.catalogue(today).all_documents())
        return [
            Passage(document.path, document.series, chunk.text)
            for document in documents
            for chunk in chunker.cut(document)
        ]


def read_queries(corpus: Path) -> list[KnownItem]:
    """Return the known-item queries in ``eval/`` of the folder, none where there is no such folder.

    Raises:
        BadSetting: A line is no such query.
    """
    files = sorted((corpus / "eval").glob("*.jsonl"))
    return [item for file in files for item in known_items(file)]
