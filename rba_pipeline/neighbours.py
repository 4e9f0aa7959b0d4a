"""The resources of one installation, opened for a command that runs outside of Dagster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import dagster as dg

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.definitions import build_resources
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.settings import Settings


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
    found = made_of(settings)
    if not found.vector_store.database_url:
        raise BadSetting("RBA_DATABASE_URL is not set: run in the project's folder, or set it")
    with found.embedding.open(), found.vector_store.open():
        yield found


def made_of(settings: Settings) -> Neighbours:
    """Return the neighbours, not opened."""
    made = {name: _resolved(resource) for name, resource in build_resources(settings).items()}
    return Neighbours(**{field.name: made[field.name] for field in fields(Neighbours)})


def _resolved(resource: dg.ConfigurableResource[Any]) -> Any:
    """Return ``resource`` with the values of the variables that it names.

    Dagster does the same with ``process_config_and_initialize_cm``, but makes an instance with a
    database of its own for each: six took 0.4 s of every command.
    """
    values = {name: getattr(resource, name) for name in type(resource).model_fields}
    return type(resource)(
        **{
            name: value.get_value("") if isinstance(value, dg.EnvVar) else value
            for name, value in values.items()
        }
    )
