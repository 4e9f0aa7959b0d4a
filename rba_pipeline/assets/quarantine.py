"""The database's list of texts in quarantine, made from what became of them."""

import dagster as dg

from rba_pipeline.assets.progress import waiting_for
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.quarantine import text_entries
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_store import VectorStore

# Whom one waits for before outcomes can be written, or listed.
_WRITER = "another run or command that writes what became of texts"


def waiting_for_outcomes(context: dg.AssetExecutionContext, stopwatch: Stopwatch) -> Waiting:
    """Return who is told while others hold the outcomes: the step's log."""
    return Waiting(stopwatch, waiting_for(context, _WRITER))


def list_texts(
    embedding_store: EmbeddingStore, vector_store: VectorStore, window: Window, waiting: Waiting
) -> None:
    """List the texts of ``window`` that have no vector, and why."""

    def replace() -> None:
        # Read here: somebody may have given a text a second chance, or forgotten it, meanwhile.
        quarantined = embedding_store.outcomes(window).quarantined.values()
        vector_store.replace_quarantine("text", window, text_entries(quarantined, window))

    vector_store.holding_outcomes(replace, waiting)
