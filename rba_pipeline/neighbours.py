"""The resources of one installation, opened for a command that runs outside of Dagster."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.definitions import Settings, build_resources
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.vector_store import VectorStore


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the assets get from Dagster, for one corpus."""

    source: DocumentSource
    records: RecordStore
    chunking: Chunking
    embedding: Embedding
    embedding_store: EmbeddingStore
    vector_store: VectorStore


@contextmanager
def neighbours(settings: Settings) -> Iterator[Neighbours]:
    """Hold the open neighbours for the block; database and service are reached at first use.

    Raises:
        BadSetting: The environment names no database.
    """
    if not os.environ.get("RBA_DATABASE_URL"):
        raise BadSetting("RBA_DATABASE_URL is not set: run in the project's folder, or set it")
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(resource.process_config_and_initialize_cm())
            for name, resource in build_resources(settings).items()
        }
        yield Neighbours(**{field.name: opened[field.name] for field in fields(Neighbours)})
