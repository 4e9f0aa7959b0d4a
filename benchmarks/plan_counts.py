"""The counts of one partition: as planned, and as its run reports them, under the same names.

That documents are new, changed or gone is the plan's alone: a run reports how many there are.
"""

from rba_pipeline.core.plans import PartitionPlan
from rba_pipeline.materialise import PartitionResult

_REPORTED = {
    "documents": ("documents",),
    "chunks": ("chunks",),
    "embeddings": ("texts", "embedded", "reused", "quarantined", "tokens"),
    "vectors": ("inserted", "deleted"),
}


def planned(partition: PartitionPlan) -> dict[str, object]:
    """Return what a run is to report, of a partition whose texts are all accepted."""
    work = partition.work
    return {
        "partition": partition.key,
        "documents": partition.standing.documents,
        "chunks": work.chunks,
        "texts": work.embed + work.reuse + work.held,
        "embedded": work.embed,
        "reused": work.reuse,
        "quarantined": work.held,
        "tokens": work.tokens,
        "inserted": work.add,
        "deleted": work.delete,
    }


def reported(result: PartitionResult) -> dict[str, object]:
    """Return what a run that succeeded reports."""
    told = result.metadata
    return {
        "partition": result.key,
        **{name: told[asset][name] for asset, names in _REPORTED.items() for name in names},
    }
