"""When texts are embedded: those without a vector in the space of the service that answers."""

import dagster as dg

from rba_pipeline.assets.reporting import (
    columns,
    counted,
    one_message,
    progress_of,
    rates,
    window_in,
)
from rba_pipeline.core.embeddings import Outcome, Rejection, outcomes_of
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import OUTCOMES, EmbeddingStore, Outcomes
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.vector_store import QuarantineEntry, VectorStore


def embeddings_asset(partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    """Return the asset; its pool bounds how many partitions lean on the service at once."""

    @dg.asset(
        group_name="publications",
        kinds={"python", "parquet"},
        partitions_def=partitions,
        deps=["chunks"],
        pool="embedding",
        metadata=columns(OUTCOMES),
    )
    @one_message
    def embeddings(
        context: dg.AssetExecutionContext,
        records: RecordStore,
        chunking: Chunking,
        embedding: Embedding,
        embedding_store: EmbeddingStore,
        vector_store: VectorStore,
    ) -> dg.MaterializeResult:
        """One unit vector per distinct text, in the space of the service that answered.

        Only texts without a vector are sent, and every answer is kept at once: a partition can be
        rebuilt, or killed, at any time.
        """
        window, info = window_in(context), embedding.handshake()
        chunking_id = chunking.settings(info).chunking_id
        wanted = records.text_hashes(window, chunking_id)
        reused = embedding_store.kept(info.space.id, window.year, set(wanted))

        traffic, embedded, rejections = Traffic(), set[str](), list[Rejection]()
        missing = set(wanted) - reused
        for part in embedding.embed_stream(
            records.texts(window, chunking_id, missing),
            info=info,
            traffic=traffic,
            on_progress=progress_of(context, len(missing)),
        ):
            embedding_store.append(info.space.id, window.year, part)
            embedded.update(part.text_hashes)
            rejections += part.rejections
        embedding_store.merge(info.space.id, window.year)

        rows = outcomes_of(
            wanted,
            embedded=embedded,
            reused=reused,
            rejections=rejections,
            earlier_attempts=embedding_store.earlier_attempts(window),
        )
        embedding_store.write_outcomes(window, Outcomes(info.space, chunking_id, rows))
        quarantined = [row for row in rows if row.outcome == "quarantined"]
        vector_store.replace_quarantine(
            "text", window, [_entry(row, window) for row in quarantined]
        )
        return dg.MaterializeResult(
            metadata={
                "texts": len(wanted),
                "embedded": traffic.texts,
                "reused": len(reused),
                "quarantined": len(quarantined),
                "quarantined_by_reason": counted(str(row.reason) for row in quarantined),
                "tokens": traffic.tokens,
                "requests": traffic.requests,
                "refusals": traffic.refusals,
                "seconds": round(traffic.seconds, 3),
                **rates(traffic),
                "effective_configuration": embedding.effective(info),
                "embedding_space": info.space.id,
                "model": info.space.model,
                "dagster/row_count": len(wanted),
            }
        )

    return embeddings


def _entry(row: Outcome, window: Window) -> QuarantineEntry:
    return QuarantineEntry(
        kind="text",
        name=row.text_hash,
        window_start=window.start,
        window_end=window.end,
        reason=str(row.reason),
        detail="the service rejects this text; the rest of its document is searchable",
        attempts=row.attempts,
    )
