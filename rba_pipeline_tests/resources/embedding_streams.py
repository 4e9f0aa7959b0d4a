"""Streams of invented texts through the resource ``embedding``, and what they have to hold."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from rba_pipeline.core.embeddings import CANARY, Part, Text
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_stream import OnProgress, Traffic
from rba_pipeline_tests.oracle_service import KEY, OracleService, oracle_vector
from rba_pipeline_tests.resources.sample_records import sha256

PATIENCE_S = 20


def embedding(oracle: OracleService, batch: int, parallel: int, **more: object) -> Embedding:
    values = {
        "api_url": oracle.url,
        "api_key": KEY,
        "timeout_s": PATIENCE_S,
        "outage_s": PATIENCE_S,
        "adaptive": False,
        **more,
    }
    return Embedding(batch_size=batch, parallel_batches=parallel, **values)


def texts(count: int) -> list[Text]:
    words = [f"text {number} " + "word " * (number % 7) for number in range(count)]
    return [Text(sha256(text), text, len(text.split())) for text in words]


def stream(
    resource: Embedding,
    wanted: Sequence[Text],
    traffic: Traffic | None = None,
    on_progress: OnProgress = lambda so_far: None,
) -> Iterator[Part]:
    return resource.embed_stream(
        wanted,
        total=len(wanted),
        info=resource.handshake(),
        canary=oracle_vector(CANARY),
        traffic=traffic or Traffic(),
        on_progress=on_progress,
    )


def embed_all(resource: Embedding, wanted: Sequence[Text]) -> tuple[list[Part], Traffic]:
    traffic = Traffic()
    with resource.open():
        return list(stream(resource, wanted, traffic)), traffic


def hashes(parts: Sequence[Part]) -> list[str]:
    return [name for part in parts for name in part.text_hashes]


def assert_each_has_its_own_vector(parts: Sequence[Part], wanted: Sequence[Text]) -> None:
    by_hash = {text.text_hash: text.text for text in wanted}
    assert sorted(hashes(parts)) == sorted(by_hash)
    for part in parts:
        for name, vector in zip(part.text_hashes, part.vectors, strict=True):
            np.testing.assert_array_equal(vector, oracle_vector(by_hash[name]))


def no_workers_left() -> bool:
    return not any(thread.name.startswith("embed") for thread in threading.enumerate())
