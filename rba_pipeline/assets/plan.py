"""When it is worked out what runs would do: on demand, by a job of its own.

The asset cannot be materialised with the others: whoever selects all of them for a partition wants
that partition, and not a plan of all.
"""

import dagster as dg

from rba_pipeline.assets.reporting import one_message
from rba_pipeline.core.plan_tables import as_markdown
from rba_pipeline.core.plans import Plan, totals
from rba_pipeline.planning import Planner
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.vector_store import VectorStore

_NAME = "plan"


def plan_spec() -> dg.AssetSpec:
    """Return what the UI shows of the asset."""
    return dg.AssetSpec(
        _NAME,
        group_name="operations",
        kinds={"python"},
        description="What a run of every partition would do right now, and how long it would take. "
        "Launch the job plan_partitions for a new one: nothing is embedded or published for it. "
        "Each run reports in the metadata of `vectors` how far the minutes predicted for it were "
        "off.",
    )


def plan_op(partitions: dg.TimeWindowPartitionsDefinition) -> dg.OpDefinition:
    """Return the step that makes a plan of all partitions."""

    @dg.op(out=dg.Out(dg.Nothing))
    @one_message
    def make_plan(
        context: dg.OpExecutionContext,
        source: DocumentSource,
        records: RecordStore,
        chunking: Chunking,
        embedding: Embedding,
        embedding_store: EmbeddingStore,
        vector_store: VectorStore,
    ) -> None:
        plan = Planner(
            partitions=partitions,
            source=source,
            records=records,
            chunking=chunking,
            embedding=embedding,
            embedding_store=embedding_store,
            vector_store=vector_store,
            instance=context.instance,
        ).plan()
        context.log_event(dg.AssetMaterialization(_NAME, metadata=_metadata(plan)))

    return make_plan


def _metadata(plan: Plan) -> dict[str, dg.MetadataValue]:
    """Return the table, and the sums over the partitions that need a run: the UI plots numbers."""
    found = totals(plan.needed, plan.costs)
    counts = {
        "partitions_to_run": found.partitions,
        "documents_new": found.new,
        "documents_changed": found.changed,
        "documents_gone": found.gone,
        "texts_to_embed": found.embed,
        "texts_to_reuse": found.reuse,
        "texts_held": found.held,
        "chunks_to_delete": found.delete,
        "tokens_to_embed": found.tokens,
    }
    metadata: dict[str, dg.MetadataValue] = {"plan": dg.MetadataValue.md(as_markdown(plan))}
    metadata |= {name: dg.MetadataValue.int(count) for name, count in counts.items()}
    if found.seconds is not None:
        metadata["minutes"] = dg.MetadataValue.float(found.seconds / 60)
    return metadata
