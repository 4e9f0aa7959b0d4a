"""When documents are cut: whenever they or the way of cutting changed."""

import dagster as dg

from rba_pipeline.assets.reporting import columns, one_message, window_in
from rba_pipeline.core.chunks import Chunker
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.record_store import CHUNKS, RecordStore


def chunks_asset(
    partitions: dg.TimeWindowPartitionsDefinition, retry_policy: dg.RetryPolicy | None
) -> dg.AssetsDefinition:
    """Return the asset, partitioned like the documents it cuts."""

    @dg.asset(
        group_name="publications",
        kinds={"python", "parquet"},
        partitions_def=partitions,
        retry_policy=retry_policy,
        deps=["documents"],
        metadata=columns(CHUNKS),
    )
    @one_message
    def chunks(
        context: dg.AssetExecutionContext,
        records: RecordStore,
        chunking: Chunking,
        embedding: Embedding,
    ) -> dg.MaterializeResult:
        """One passage that the model reads whole, cut by section, paragraph and sentence.

        Ids follow from document, text and chunking alone: cutting again gives the same rows.
        """
        window, info = window_in(context), embedding.handshake()
        settings = chunking.settings(info)
        tokenizer = records.tokenizer(settings.tokenizer_sha256, embedding.client.tokenizer)

        chunker = Chunker(settings, tokenizer)
        written = records.write_chunks(window, settings.chunking_id, chunker.cut)

        return dg.MaterializeResult(
            metadata={
                "chunks": written.rows,
                "tokens": written.tokens,
                "unchanged": written.reused,
                "chunking": {
                    "id": settings.chunking_id,
                    "chunk_tokens": settings.size,
                    "chunk_overlap": settings.overlap,
                },
                "dagster/row_count": written.rows,
            }
        )

    return chunks
