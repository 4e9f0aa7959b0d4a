"""When texts are embedded: those without a vector in the space of the service that answers."""

import dagster as dg

from rba_pipeline.assets.checks import check_results, check_specs
from rba_pipeline.assets.embedding_run import EmbeddingRun
from rba_pipeline.assets.reporting import columns, one_message
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import OUTCOMES, EmbeddingStore
from rba_pipeline.resources.pools import POOL
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline.resources.vector_store import VectorStore


def embeddings_asset(
    partitions: dg.TimeWindowPartitionsDefinition, retry_policy: dg.RetryPolicy | None
) -> dg.AssetsDefinition:
    """Return the asset; its pool bounds how many partitions lean on the service at once."""

    @dg.asset(
        group_name="publications",
        kinds={"python", "parquet"},
        partitions_def=partitions,
        retry_policy=retry_policy,
        deps=["chunks"],
        pool=POOL,
        check_specs=check_specs("embeddings", partitions),
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
        run = EmbeddingRun(context, records, chunking, embedding, embedding_store, vector_store)
        with TextLedger() as ledger:
            run.enter_into(ledger)
            with run.remembering(ledger):
                run.embed(ledger)
                made = run.write_outcomes(ledger)
        verdicts = run.verdicts()
        run.quarantine()
        return dg.MaterializeResult(
            check_results=check_results(verdicts), metadata=run.metadata(made)
        )

    return embeddings
