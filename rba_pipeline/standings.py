"""How every partition stands: asked of the catalogue, the record and the database."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date

import dagster as dg

from rba_pipeline.core.errors import RecordDamaged
from rba_pipeline.core.standings import Served, Standing, standing
from rba_pipeline.partitions import key_of, window_of
from rba_pipeline.resources.catalogue import Catalogue
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.vector_store import VectorStore


def standings(
    partitions: dg.TimeWindowPartitionsDefinition,
    catalogue: Catalogue,
    *,
    space: str,
    chunking_id: str,
    truncate: bool,
    embedding_store: EmbeddingStore,
    vector_store: VectorStore,
) -> list[Standing]:
    """Return the partitions that hold a document in source or database, in order of their keys.

    Nothing is embedded, cut or changed for it. A document whose date moved counts in both its
    partitions: as gone in the one, as new in the other.

    Args:
        catalogue: As of its last refresh.
        space: Of the service that runs would use.
        chunking_id: Of the settings that they would cut with.
        truncate: Whether they would cut texts that are too long.
    """

    def judged(key: str) -> Standing:
        window = window_of(partitions, key)
        try:
            earlier = embedding_store.earlier(window, space)
            is_recorded = embedding_store.is_recorded(window)
        except RecordDamaged:
            # The run of this partition says so; those of the others need not wait for that.
            earlier, is_recorded = {}, False
        to_send_again = sum(not row.is_held(truncate=truncate) for row in earlier.values())
        return standing(
            key, wanted[key], served[key], is_recorded=is_recorded, to_send_again=to_send_again
        )

    wanted = _wanted(partitions, catalogue)
    served = _served(partitions, vector_store.served_documents(space, chunking_id))
    return [judged(key) for key in sorted(wanted.keys() | served.keys())]


def changed_partitions(
    partitions: dg.TimeWindowPartitionsDefinition, catalogue: Catalogue, vector_store: VectorStore
) -> dict[str, str]:
    """Return the partitions whose documents are not those of the source, in order of their keys.

    Neither the service nor the record is asked: what is searchable may be of any space and
    chunking.

    Args:
        catalogue: As of its last refresh.

    Returns:
        By partition, 16 hex over the documents that it should have and those that it has, and
        over their content.
    """
    wanted = _wanted(partitions, catalogue)
    # In no space: of the documents alone.
    served = _served(partitions, vector_store.served_documents("", ""))
    return {
        key: _digest(wanted[key], served[key])
        for key in sorted(wanted.keys() | served.keys())
        if "source" in standing(key, wanted[key], served[key], is_recorded=True).reasons
    }


def _wanted(
    partitions: dg.TimeWindowPartitionsDefinition, catalogue: Catalogue
) -> dict[str, dict[str, str]]:
    """Return content hash by document id, by partition."""
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in catalogue.all_documents():
        if entry.published_on is not None:
            key = key_of(partitions, entry.published_on)
            wanted[key][entry.document_id] = entry.content_hash
    return wanted


def _served(
    partitions: dg.TimeWindowPartitionsDefinition, documents: Iterable[tuple[date, Served]]
) -> dict[str, list[Served]]:
    first_day = partitions.start.date()
    served: dict[str, list[Served]] = defaultdict(list)
    for day, document in documents:
        # Published when the first year was an earlier one.
        if day >= first_day:
            served[key_of(partitions, day)].append(document)
    return served


def _digest(wanted: Mapping[str, str], served: Iterable[Served]) -> str:
    has = sorted((each.document_id, each.content_hash) for each in served)
    told = json.dumps([sorted(wanted.items()), has])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
