"""When documents are cut: whenever they or the way of cutting changed."""

from collections.abc import Iterator
from functools import partial
from itertools import count

import dagster as dg

from rba_pipeline.assets.checks import check_results, check_specs
from rba_pipeline.assets.progress import ProgressReport, waiting_for_service
from rba_pipeline.assets.reporting import columns, one_message, window_in
from rba_pipeline.assets.timings import times_of
from rba_pipeline.core.checks import unique_chunk_ids
from rba_pipeline.core.chunks import Chunk, Chunker
from rba_pipeline.core.documents import Document
from rba_pipeline.core.promises import require
from rba_pipeline.core.stages import Stage
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.record_store import CHUNKS, RecordStore
from rba_pipeline.resources.stopwatch import Stopwatch


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
        check_specs=check_specs("chunks", partitions),
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
        window, stopwatch = window_in(context), Stopwatch("chunks")
        with stopwatch.stage(Stage.HTTP):
            insistence = embedding.insistence(waiting_for_service(context, embedding.outage_s))
            settings = chunking.settings(embedding.handshake(insistence))
            fetch = partial(embedding.client.tokenizer, insistence)
            tokenizer = records.tokenizer(settings.tokenizer_sha256, fetch)

        chunker, progress = Chunker(settings, tokenizer), ProgressReport(context, "documents")
        with stopwatch.stage(Stage.READING):
            done, documents = count(1), records.count_documents(window)

        def cut(document: Document) -> Iterator[Chunk]:
            yield from chunker.cut(document)
            progress.of_items(next(done), documents)

        with stopwatch.stage(Stage.WRITING):
            written = records.write_chunks(window, settings.chunking_id, cut, stopwatch)
            progress.last_of_items()

        with stopwatch.stage(Stage.CHECKING):
            kept, distinct = records.count_chunk_ids(window, settings.chunking_id)
            path = records.chunks_path(window, settings.chunking_id)
            verdict = unique_chunk_ids(path, cut=written.rows, kept=kept, distinct=distinct)

        return dg.MaterializeResult(
            check_results=check_results(require([verdict])),
            metadata={
                "chunks": written.rows,
                "tokens": written.tokens,
                "unchanged": written.reused,
                "chunking": {
                    "id": settings.chunking_id,
                    "chunk_tokens": settings.size,
                    "chunk_overlap": settings.overlap,
                },
                **times_of(stopwatch.times()),
                "dagster/row_count": written.rows,
            },
        )

    return chunks
