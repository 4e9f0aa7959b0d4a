"""The jobs: a partition all the way from documents to vectors, and what that would do."""

import dagster as dg

from rba_pipeline.assets.plan import plan_op, plan_spec

PUBLISH = "publish_partition"
PLAN = "plan_partitions"


publish_partition = dg.define_asset_job(
    PUBLISH,
    selection=dg.AssetSelection.assets("documents", "chunks", "embeddings", "vectors"),
    description="documents → chunks → embeddings → vectors of one partition. Another batch size or "
    "parallelism: in the Launchpad, write a number at batch_size or parallel_batches under "
    "resources > embedding > config; Ctrl+Space lists what else may stand there.",
)


def plan_job(partitions: dg.TimeWindowPartitionsDefinition) -> dg.Definitions:
    """Return the job that says what runs would do, and the asset that it materialises."""
    make_plan = plan_op(partitions)

    @dg.job(
        name=PLAN,
        executor_def=dg.in_process_executor,
        description="What a run of every partition would do right now, and its minutes: see the "
        "asset plan. Nothing is embedded or published.",
    )
    def plan_partitions() -> None:
        make_plan()

    return dg.Definitions(assets=[plan_spec()], jobs=[plan_partitions])
