"""A text that is kept with each space: as long as its vector stays, old and new ones compare."""

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.insistence import BRIEF, Insistence
from rba_pipeline.core.promises import SENTINEL, Verdict
from rba_pipeline.resources.address_round import MAY_PASS
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.service_answers import ServiceInfo


def sentinel(
    client: EmbeddingClient,
    embedding_store: EmbeddingStore,
    info: ServiceInfo,
    insistence: Insistence = BRIEF,
) -> NDArray[np.float32]:
    """Return the text's vector, float32 ``(dimensions,)``; the first one of a space is kept.

    Raises:
        VectorsDrifted: The service gives another one than when the space was first used.
    """
    known = embedding_store.canary(info.space.id)
    vector = client.canary(info, known, insistence)
    if known is None:
        embedding_store.keep_canary(info.space.id, vector)
    return vector


def sentinel_verdict(
    client: EmbeddingClient, embedding_store: EmbeddingStore, info: ServiceInfo
) -> Verdict:
    """Return what came of asking for it where nothing has to be embedded.

    A service without time or model for it stops no such run, but search will want it.

    Raises:
        VectorsDrifted: As ``sentinel``.
    """
    try:
        sentinel(client, embedding_store, info)
    except MAY_PASS as error:
        said = f"not known, because the service could not be asked: {error}"
        return Verdict(SENTINEL.name, passed=False, said=said, is_warning=True)
    return SENTINEL.verdict()
