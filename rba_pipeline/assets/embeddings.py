"""When texts are embedded: those without a vector in the space of the service that answers."""

from dataclasses import asdict

import dagster as dg

from rba_pipeline.assets.checks import check_results, check_specs
from rba_pipeline.assets.progress import ProgressReport
from rba_pipeline.assets.reporting import (
    columns,
    counted,
    one_message,
    picture_of,
    traffic_of,
    window_in,
)
from rba_pipeline.assets.timings import (
    LEANING,
    leaning_of,
    report,
    times_of,
    timings_picture,
    work_of,
)
from rba_pipeline.core.embeddings import outcome_of
from rba_pipeline.core.promises import SENTINEL, require
from rba_pipeline.core.stages import Stage
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import OUTCOMES, EmbeddingStore
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.kept_vectors import kept_vectors
from rba_pipeline.resources.pools import POOL, steps_at_once
from rba_pipeline.resources.quarantine import text_entries
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.sentinel import sentinel, sentinel_verdict
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline.resources.vector_store import VectorStore

_OUTCOMES = ("embedded", "reused", "truncated", "quarantined")


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
        window, stopwatch = window_in(context), Stopwatch("embeddings")
        with stopwatch.stage(Stage.HTTP):
            info = embedding.handshake()
        with stopwatch.stage(Stage.DATABASE):
            vector_store.require_room(info.space)
        space, chunking_id = info.space.id, chunking.settings(info).chunking_id
        earlier = embedding_store.earlier(window, space)
        held = [name for name, row in earlier.items() if row.is_held(truncate=embedding.truncate)]
        traffic, work = Traffic(stopwatch=stopwatch), dict[str, float]()
        with TextLedger() as ledger:
            ledger.add(records.text_hashes(window, chunking_id))
            ledger.settle(held, "held")
            for state, hashes in embedding_store.kept(space, window.year):
                ledger.settle(hashes, state)
            texts, tokens, missing = ledger.totals()
            with stopwatch.stage(Stage.HTTP):
                advice = embedding.advice(info, texts=texts, tokens=tokens)
            for sentence in advice:
                context.log.warning(sentence)
            if missing:
                with stopwatch.stage(Stage.WAITING):
                    work_before = embedding.client.work()
                    canary = sentinel(embedding.client, embedding_store, info)
                progress = ProgressReport(context, "texts")
                for part in embedding.embed_stream(
                    ledger.take_texts(records.texts(window, chunking_id)),
                    total=missing,
                    info=info,
                    canary=canary,
                    traffic=traffic,
                    on_progress=progress.of_texts(missing),
                    doubted=earlier.keys(),
                    runs_at_once=steps_at_once(context.instance),
                ):
                    with stopwatch.stage(Stage.WRITING):
                        embedding_store.append(space, window.year, part)
                        ledger.settle(part.text_hashes, "embedded")
                        ledger.settle(part.truncated, "truncated")
                progress.last_of_texts(traffic)
                with stopwatch.stage(Stage.HTTP):
                    work = work_of(work_before, embedding.client.work(), traffic.seconds)
                with stopwatch.stage(Stage.WRITING):
                    embedding_store.merge(space, window.year)
            rejections = {each.text_hash: each for each in traffic.rejections}
            with stopwatch.stage(Stage.DATABASE), vector_store.outcomes_lock():
                # Read again: somebody may have given a text a second chance meanwhile.
                before = embedding_store.earlier(window, space)
                rows = (
                    outcome_of(
                        name, tokens, state, rejection=rejections.get(name), before=before.get(name)
                    )
                    for name, tokens, state in ledger.rows()
                )
                with stopwatch.stage(Stage.WRITING):
                    embedding_store.write_outcomes(window, info.space, chunking_id, rows)

        with stopwatch.stage(Stage.CHECKING):
            kept, sung = kept_vectors(records, embedding_store, window), SENTINEL.verdict()
        if texts and not missing:
            with stopwatch.stage(Stage.WAITING):
                sung = sentinel_verdict(embedding.client, embedding_store, info)
        verdicts = require([*kept.verdicts(), sung])

        made = embedding_store.outcomes(window)
        quarantined = made.quarantined.values()
        with stopwatch.stage(Stage.DATABASE):
            vector_store.replace_quarantine("text", window, text_entries(quarantined, window))
        times = stopwatch.times(traffic.answers)
        leaning = leaning_of(traffic, info, adaptive=embedding.adaptive)
        return dg.MaterializeResult(
            check_results=check_results(verdicts),
            metadata={
                "texts": texts,
                **{name: made.counts.get(name, 0) for name in _OUTCOMES},
                "quarantined_by_reason": counted(str(row.reason) for row in quarantined),
                "reuse_share": round(made.counts.get("reused", 0) / max(1, texts), 4),
                **traffic_of(traffic),
                **work,
                **times_of(times),
                "pace": dg.MetadataValue.md(picture_of(traffic)),
                "timings": dg.MetadataValue.md(timings_picture(times, traffic)),
                **({LEANING: asdict(leaning)} if leaning else {}),
                **report([times], leaning),
                "advice": dg.MetadataValue.md("\n".join(f"- {each}" for each in advice) or "none"),
                "effective_configuration": embedding.effective(info),
                "embedding_space": space,
                "model": info.space.model,
                "dagster/row_count": texts,
            },
        )

    return embeddings
