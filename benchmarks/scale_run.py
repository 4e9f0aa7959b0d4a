"""One partition of many chunks: its record is written, or it is embedded and published.

A process of its own, so that its peak memory is that of one run. The environment says where corpus,
store, database and service are, as for the pipeline itself.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from rba_pipeline.assets.embeddings import embeddings_asset
from rba_pipeline.assets.vectors import vectors_asset
from rba_pipeline.core.chunks import Chunk
from rba_pipeline.core.documents import Document
from rba_pipeline.definitions import build_resources
from rba_pipeline.neighbours import neighbours
from rba_pipeline.partitions import key_of, partitions_by, today, window_of
from rba_pipeline.settings import Settings
from rba_pipeline_tests.resources.sample_records import entry, sha256

FILED_ON = date(2013, 6, 4)
_CHUNKS_PER_DOCUMENT = 100
_TOKENS = 90


def main(arguments: Sequence[str]) -> int:
    """Do ``record N`` or ``publish``; print figures as JSON on the last line."""
    settings = Settings.read(os.environ)
    if arguments[0] == "record":
        write_record(settings, int(arguments[1]))
        return 0
    print(json.dumps(publish(settings)))
    return 0


def write_record(settings: Settings, chunks: int) -> None:
    """Keep ``chunks`` distinct chunks of one partition, as the assets before would have."""
    partitions = partitions_by(settings.grain, settings.first_year)
    window = window_of(partitions, key_of(partitions, FILED_ON))
    documents = [
        _document(number, settings.corpus) for number in range(-(-chunks // _CHUNKS_PER_DOCUMENT))
    ]
    with neighbours(settings) as found:
        found.vector_store.migrate()
        found.vector_store.holding_catalogue(lambda: found.source.refresh(today()))
        chunking_id = found.chunking.settings(found.embedding.handshake()).chunking_id
        found.records.write_documents(window, [entry(each) for each in documents], documents)
        made = (_chunk(number, documents) for number in range(chunks))
        found.records.write_chunks(
            window, chunking_id, lambda of: islice(made, _CHUNKS_PER_DOCUMENT)
        )


def publish(settings: Settings) -> dict[str, Any]:
    """Embed and publish the partition; return what it cost and what the assets said of it."""
    partitions = partitions_by(settings.grain, settings.first_year)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    result = dg.materialize(
        [embeddings_asset(partitions, None), vectors_asset(partitions, None)],
        partition_key=key_of(partitions, FILED_ON),
        resources=build_resources(settings),
        run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
    )
    figures: dict[str, Any] = {
        "seconds": time.monotonic() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "peak_rss": _peak_rss(),
    }
    for name, keys in (("embeddings", ("embedded", "requests")), ("vectors", ("vectors",))):
        (event,) = result.asset_materializations_for_node(name)
        figures |= {key: event.metadata[key].value for key in keys}
    return figures


def _peak_rss() -> int:
    # getrusage would tell the peak of the process that started this one, if it was greater.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def _document(number: int, corpus: str) -> Document:
    return Document(
        document_id=sha256(f"{corpus} {number}")[:32],
        corpus=corpus,
        path=f"invented/{number}.html",
        series="invented",
        title=f"Invented publication {number}",
        url=None,
        published_on=FILED_ON,
        dated_by="title",
        sections=(),
        sha256=sha256(f"bytes {number}"),
        content_hash=sha256(f"content {number}"),
    )


def _chunk(number: int, documents: Sequence[Document]) -> Chunk:
    document = documents[number // _CHUNKS_PER_DOCUMENT]
    words = (f"word {number * 7 + place}" for place in range(30))
    text = f"{document.title}\n\nPassage {number} with {' and '.join(words)}."
    return Chunk(
        chunk_id=sha256(f"{document.document_id} {number}")[:32],
        document_id=document.document_id,
        ordinal=number % _CHUNKS_PER_DOCUMENT,
        section="Invented",
        page=None,
        start=number % _CHUNKS_PER_DOCUMENT * len(text),
        text=text,
        text_hash=sha256(text),
        tokens=_TOKENS,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
