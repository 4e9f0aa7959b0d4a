"""The level with the most time is named, and what to change there is a value that is allowed."""

from dataclasses import replace

import pytest

from rba_pipeline.core.bottleneck import Leaning, bottleneck
from rba_pipeline.core.stages import Level, Stage, StepTimes

USUAL = Leaning(
    batch_size=4, parallel_batches=2, most_texts=4, most_requests=2, server_batch_size=32,
    device="cpu", requests=90, refusals=0, adaptive=False,
)  # fmt: skip


def fixed(batch_size: int, parallel_batches: int) -> Leaning:
    return replace(
        USUAL, batch_size=batch_size, parallel_batches=parallel_batches,
        most_texts=batch_size, most_requests=parallel_batches,
    )  # fmt: skip


def found_pace(batch_size: int, parallel_batches: int) -> Leaning:
    """Return a run that found this pace within 32 texts × 8 requests."""
    return replace(
        USUAL, batch_size=batch_size, parallel_batches=parallel_batches,
        most_texts=32, most_requests=8, adaptive=True,
    )  # fmt: skip


def steps(**seconds: dict[Stage, float]) -> list[StepTimes]:
    return [StepTimes(asset, spent) for asset, spent in seconds.items()]


@pytest.mark.parametrize(
    ("stage", "level", "said"),
    [
        pytest.param(Stage.DECODING, Level.CLIENT, "pools > default_limit", id="client"),
        pytest.param(Stage.HTTP, Level.HTTP, "batch_size=8 (now 4 texts × 2", id="http"),
        pytest.param(Stage.QUEUEING, Level.MODEL, "EMBEDDING_API_URL takes several", id="queue"),
        pytest.param(Stage.COMPUTING, Level.MODEL, "parallel_batches=4 (now", id="nothing-queues"),
        pytest.param(Stage.HELD, Level.MODEL, "parallel_batches=1 (now", id="it-refuses"),
        pytest.param(Stage.WAITING, Level.MODEL, "share the work", id="not-said"),
        pytest.param(Stage.WRITING, Level.RECORD, "batch_size=8 (now", id="record"),
        pytest.param(Stage.READING, Level.RECORD, "RBA_STORE", id="reading-the-record"),
        pytest.param(Stage.CHECKING, Level.RECORD, "RBA_STORE", id="reading-it-back"),
        pytest.param(Stage.DATABASE, Level.DATABASE, "RBA_DATABASE_URL", id="database"),
        pytest.param(Stage.LOCKING, Level.OTHER_RUNS, "let fewer run at once", id="others"),
    ],
)
def test_the_level_with_the_most_time_is_named(stage: Stage, level: Level, said: str) -> None:
    others = dict.fromkeys((Stage.DECODING, Stage.HTTP, Stage.WRITING, Stage.DATABASE), 1.0)
    found = bottleneck(steps(embeddings={**others, stage: 16.0}), USUAL)

    assert found is not None
    assert found.level is level
    assert said in found.sentence
    assert f"{found.share:.0%} of {found.seconds:.1f} s" in found.sentence


def test_the_whole_run_counts_not_its_longest_step() -> None:
    run = steps(
        documents={Stage.PARSING: 3.0},
        chunks={Stage.CUTTING: 3.0},
        embeddings={Stage.COMPUTING: 5.0},
    )

    found = bottleneck(run, USUAL)

    assert found is not None
    assert (found.level, found.share, found.seconds) == (Level.CLIENT, 6 / 11, 11.0)
    assert "parsing in 'documents'" in found.remedy
    assert "max_concurrent_runs" in found.remedy


def test_of_a_tie_the_level_closer_to_the_client_is_named() -> None:
    tie = {Stage.PREPARING: 1.0, Stage.HTTP: 1.0, Stage.COMPUTING: 1.0, Stage.DATABASE: 1.0}

    found = bottleneck(steps(embeddings=tie), USUAL)

    assert found is not None
    assert (found.level, found.share) == (Level.CLIENT, 0.25)


@pytest.mark.parametrize(
    "nothing",
    [
        pytest.param([], id="no-step"),
        pytest.param(steps(embeddings={Stage.READING: 0.0}), id="no-time"),
    ],
)
def test_nothing_bounds_what_took_no_time(nothing: list[StepTimes]) -> None:
    assert bottleneck(nothing, None) is None


def test_a_run_that_sent_nothing_has_no_pace_to_change() -> None:
    found = bottleneck(steps(embeddings={Stage.HTTP: 2.0}, vectors={Stage.DATABASE: 1.0}), None)

    assert found is not None
    assert found.level is Level.HTTP
    assert "Nothing was embedded" in found.remedy
    assert "batch_size" not in found.remedy


@pytest.mark.parametrize(
    ("leaning", "said"),
    [
        pytest.param(fixed(24, 2), "batch_size=32", id="up-to-the-services-own"),
        pytest.param(fixed(32, 2), "parallel_batches=4", id="requests-are-full-already"),
        pytest.param(fixed(32, 40), "parallel_batches=64", id="never-over-the-range"),
        pytest.param(fixed(32, 64), "closer together", id="at-the-end"),
        pytest.param(found_pace(8, 8), "parallel_batches=16", id="adaptive-at-a-bound"),
        pytest.param(found_pace(8, 2), "closer together", id="adaptive-below-its-bounds"),
    ],
)
def test_a_long_way_is_met_with_larger_requests_and_then_with_more(
    leaning: Leaning, said: str
) -> None:
    found = bottleneck(steps(embeddings={Stage.HTTP: 1.0}), leaning)

    assert found is not None
    assert said in found.remedy


@pytest.mark.parametrize(
    ("device", "said"),
    [
        pytest.param("cpu", "openvino", id="cpu"),
        pytest.param("cuda", "BATCH_SIZE", id="gpu"),
    ],
)
def test_a_model_that_is_busy_is_to_be_made_faster(device: str, said: str) -> None:
    leaning = replace(USUAL, device=device)
    found = bottleneck(steps(embeddings={Stage.QUEUEING: 3.0, Stage.COMPUTING: 1.0}), leaning)

    assert found is not None
    assert said in found.remedy
    assert "parallel_batches=" not in found.remedy


@pytest.mark.parametrize(
    ("leaning", "said"),
    [
        pytest.param(fixed(8, 8), ": send less at once, parallel_batches=4 (now", id="requests"),
        pytest.param(fixed(8, 1), ": send less at once, batch_size=4 (now", id="one-request"),
        pytest.param(fixed(1, 1), ": give it more room", id="one-text"),
        pytest.param(found_pace(8, 2), ": give it more room", id="it-sent-less-by-itself"),
    ],
)
def test_who_is_held_back_is_told_what_is_not_so_already(leaning: Leaning, said: str) -> None:
    found = bottleneck(steps(embeddings={Stage.HELD: 3.0}), leaning)

    assert found is not None
    assert said in found.remedy
    assert "EMBEDDING_MAX_QUEUE_TOKENS" in found.remedy


def test_a_run_that_found_its_pace_is_not_told_to_send_more() -> None:
    found = bottleneck(steps(embeddings={Stage.COMPUTING: 3.0}), found_pace(4, 2))

    assert found is not None
    assert "=" not in found.remedy.partition("Make the service faster")[0]
    assert "openvino" in found.remedy


@pytest.mark.parametrize(
    ("asset", "others"),
    [("documents", "read the source"), ("embeddings", "wrote"), ("vectors", "published")],
)
def test_waiting_for_other_runs_means_too_many_runs(asset: str, others: str) -> None:
    run = [*steps(vectors={Stage.APPLYING: 1.0}), StepTimes(asset, {Stage.LOCKING: 3.0})]

    found = bottleneck(run, None)

    assert found is not None
    assert found.level is Level.OTHER_RUNS
    assert found.sentence.startswith("The wait for other runs bounds this: 75% of 4.0 s. ")
    assert others in found.remedy
    assert "max_concurrent_runs" in found.remedy
    assert "RBA_DATABASE_URL" not in found.remedy


def test_a_slow_record_of_a_run_that_sent_nothing_names_the_store_only() -> None:
    found = bottleneck(steps(documents={Stage.WRITING: 3.0}), None)

    assert found is not None
    assert found.remedy == "Let RBA_STORE name a faster or nearer place"


def test_requests_are_not_to_be_larger_than_what_the_service_computes_at_once() -> None:
    found = bottleneck(steps(embeddings={Stage.WRITING: 3.0}), fixed(32, 2))

    assert found is not None
    assert "batch_size" not in found.remedy


def test_a_record_that_is_read_slowly_is_named_with_its_step() -> None:
    run = steps(chunks={Stage.READING: 3.0}, embeddings={Stage.WRITING: 2.0})

    found = bottleneck(run, USUAL)

    assert found is not None
    assert found.remedy.startswith("Most of it was reading the record in 'chunks': let RBA_STORE")
    assert "max_concurrent_runs" in found.remedy
