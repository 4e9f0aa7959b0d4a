"""The job that takes a partition all the way from documents to vectors."""

import dagster as dg

PUBLISH = "publish_partition"


def publish_job() -> dg.Definitions:
    """Return the job over all four assets of one partition."""
    job = dg.define_asset_job(
        PUBLISH,
        selection=dg.AssetSelection.assets("documents", "chunks", "embeddings", "vectors"),
        description="documents → chunks → embeddings → vectors of one partition. Batch size and "
        "parallelism: resources > embedding > config.",
    )
    return dg.Definitions(jobs=[job])
