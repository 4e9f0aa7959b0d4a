"""The vectors of one partition, looked at again where they are kept, by nobody's word."""

from rba_pipeline.core.checks import KeptVectors
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.text_ledger import TextLedger


def kept_vectors(
    records: RecordStore, embedding_store: EmbeddingStore, window: Window
) -> KeptVectors:
    """Read back what became of every text of ``window``, and the vector that would be published.

    Raises:
        RecordMissing: The partition's embeddings were never materialised.
    """
    made = embedding_store.outcomes(window)
    kept = KeptVectors(made.space, outcomes=sum(made.counts.values()))
    with TextLedger() as ledger:
        ledger.add(records.text_hashes(window, made.chunking_id))
        for block in embedding_store.taken(made.space.id, window.year, ledger):
            kept.add(block.path, block.space, block.vectors)
        ledger.settle(made.quarantined, "quarantined")
        kept.texts, _, kept.missing = ledger.totals()
    return kept
