"""Batches, the wire format, and what an answer has to promise."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedding_service.backend.agreement import LIKE_FP32
from rba_pipeline.core.embeddings import (
    CANARY,
    Outcome,
    Rejection,
    Space,
    Text,
    as_long_as,
    batched,
    by_similar_length,
    check_canary,
    decode_vectors,
    outcome_of,
)
from rba_pipeline.core.errors import ContractBroken, RecordMissing, VectorsDrifted

UNIT = [np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)]


def item(index: object, vector: object) -> dict[str, object]:
    encoded = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
    return {"index": index, "embedding": encoded}


def test_vectors_are_placed_by_index_not_by_order() -> None:
    data = [item(1, UNIT[1]), item(0, UNIT[0])]

    vectors = decode_vectors(data, count=2, dimensions=2)

    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.stack(UNIT))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([item(0, UNIT[0])], "2 texts were sent, 1 vectors", id="one-too-few"),
        pytest.param([item(0, UNIT[0])] * 3, "3 vectors came back", id="one-too-many"),
        pytest.param([item(0, UNIT[0])] * 2, "index 0 .* came twice", id="index-twice"),
        pytest.param([item(0, UNIT[0]), item(2, UNIT[0])], "index 2", id="index-out-of-range"),
        pytest.param([item(0, UNIT[0]), item(True, UNIT[0])], "index True", id="index-true"),
        pytest.param([item(0, UNIT[0]), {"embedding": "AAAA"}], "index None", id="index-missing"),
        pytest.param([item(0, UNIT[0]), "vector"], "not an object", id="no-object"),
        pytest.param([item(0, UNIT[0]), item(1, [1.0])], "expected 2 float32", id="dimension"),
        pytest.param([item(0, UNIT[0]), item(1, [np.nan, 0])], "1 holds NaN", id="not-a-number"),
        pytest.param([item(0, UNIT[0]), item(1, [np.inf, 0])], "infinity", id="infinity"),
        pytest.param([item(0, UNIT[0]), item(1, [0, 0])], "length 0.0", id="zero"),
        pytest.param([item(0, UNIT[0]), item(1, [2, 0])], "length 2.0", id="not-of-unit-length"),
        pytest.param(
            [item(0, UNIT[0]), {"index": 1, "embedding": [1.0, 0.0]}], "not base64", id="a-list"
        ),
        pytest.param(
            [item(0, UNIT[0]), {"index": 1, "embedding": "€"}], "not base64", id="no-base64"
        ),
    ],
)
def test_an_answer_that_breaks_its_promise_is_refused_whole(
    data: list[object], message: str
) -> None:
    with pytest.raises(ContractBroken, match=message):
        decode_vectors(data, count=2, dimensions=2)


@given(st.lists(st.integers()), st.integers(1, 7))
def test_batches_hold_everything_once_in_order(items: list[int], size: int) -> None:
    batches = list(batched(items, size))

    assert [one for batch in batches for one in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


@given(st.lists(st.integers(1, 500)), st.integers(1, 20))
def test_sorting_by_length_loses_no_text(lengths: list[int], look_ahead: int) -> None:
    texts = [Text(str(place), "t", tokens) for place, tokens in enumerate(lengths)]

    found = list(by_similar_length(iter(texts), look_ahead))

    assert sorted(found, key=lambda text: int(text.text_hash)) == texts
    for block in batched(found, look_ahead):
        assert [text.tokens for text in block] == sorted((t.tokens for t in block), reverse=True)


def quarantined(name: str, reason: str, attempts: int, *, is_forgotten: bool = False) -> Outcome:
    return Outcome(name, "quarantined", reason, attempts, 5, is_forgotten)


@pytest.mark.parametrize("state", [None, "taken"])
def test_a_text_without_an_outcome_is_an_error(state: str | None) -> None:
    with pytest.raises(RuntimeError, match="text a has no outcome"):
        outcome_of("a", 5, state, rejection=None, before=None, run_id="this run")


def test_a_text_that_another_run_took_out_of_quarantine_meanwhile_is_said_to_be_so() -> None:
    with pytest.raises(RecordMissing, match=r"another run .* Materialise 'embeddings' again"):
        outcome_of("a", 5, "held", rejection=None, before=None, run_id="this run")


REJECTED = Rejection("a", "model_failed", attempts=3)
FAILED = quarantined("a", "model_failed", 1)


@pytest.mark.parametrize(
    ("state", "rejection", "before", "expected"),
    [
        pytest.param("embedded", None, None, ("embedded", None, 0), id="embedded"),
        pytest.param("embedded", None, FAILED, ("embedded", None, 0), id="embedded-at-last"),
        pytest.param("truncated", None, None, ("truncated", None, 0), id="cut"),
        pytest.param("reused", None, None, ("reused", None, 0), id="reused"),
        pytest.param("taken", REJECTED, None, ("quarantined", "model_failed", 1), id="rejected"),
        pytest.param(
            "taken", REJECTED, FAILED, ("quarantined", "model_failed", 2), id="runs-add-up"
        ),
        pytest.param(
            "taken",
            REJECTED,
            replace(FAILED, charged_by="this run"),
            ("quarantined", "model_failed", 1),
            id="a-run-counts-once",
        ),
        pytest.param("held", None, FAILED, ("quarantined", "model_failed", 1), id="held"),
    ],
)
def test_every_text_has_one_outcome(
    state: str,
    rejection: Rejection | None,
    before: Outcome | None,
    expected: tuple[str, str | None, int],
) -> None:
    row = outcome_of("a", 5, state, rejection=rejection, before=before, run_id="this run")

    assert (row.outcome, row.reason, row.attempts) == expected
    assert (row.text_hash, row.tokens) == ("a", 5)


@pytest.mark.parametrize(
    ("outcome", "truncate", "held"),
    [
        pytest.param(Outcome("a", "embedded", None, 0, 5), False, False, id="embedded"),
        pytest.param(quarantined("a", "text_empty", 1), False, True, id="never-embeddable"),
        pytest.param(quarantined("a", "text_too_long", 1), False, True, id="too-long"),
        pytest.param(quarantined("a", "text_too_long", 1), True, False, id="may-be-cut-now"),
        pytest.param(quarantined("a", "model_failed", 2), False, False, id="may-pass"),
        pytest.param(quarantined("a", "model_failed", 3), False, True, id="does-not-pass"),
        pytest.param(quarantined("a", "text_empty", 0), False, False, id="to-be-retried"),
        pytest.param(
            quarantined("a", "model_failed", 1, is_forgotten=True), False, True, id="forgotten"
        ),
        pytest.param(
            quarantined("a", "text_too_long", 1, is_forgotten=True),
            True,
            True,
            id="forgotten-though-it-may-be-cut-now",
        ),
    ],
)
def test_a_text_that_is_known_to_fail_is_not_sent_again(
    outcome: Outcome, truncate: bool, held: bool
) -> None:
    assert outcome.is_held(truncate=truncate) is held


@pytest.mark.parametrize(
    ("like", "characters", "words"),
    [
        pytest.param(Text("a", "", 0), 160, 30, id="nothing"),
        pytest.param(Text("a", "word " * 1000, 1000), 5000, 1000, id="prose"),
        pytest.param(Text("a", "\u8a9e" * 100, 900), 100, 900, id="many-tokens-to-a-character"),
        pytest.param(Text("a", " " * 9000, 1), 9000, 1, id="many-characters-to-a-token"),
    ],
)
def test_a_control_is_as_long_as_what_it_is_for(like: Text, characters: int, words: int) -> None:
    control = as_long_as(like)

    assert characters <= len(control) <= max(characters, 6 * words) + 200
    assert len(control.split()) >= words
    assert control != CANARY


def test_a_canary_that_sings_another_song_is_refused_with_its_cosine() -> None:
    space = Space("s" * 32, "model", 2, {})
    before, after = np.float32([1, 0]), np.float32([0.9994, 0.03464])

    check_canary(before, None, "http://a", space)
    check_canary(np.float32([0.9998, 0.02]), before, "http://a", space)
    with pytest.raises(VectorsDrifted, match=r"http://a .* cosine of 0\.9994"):
        check_canary(after, before, "http://a", space)


def test_a_canary_may_stray_as_far_as_another_precision_in_the_same_space() -> None:
    space, chance = Space("s" * 32, "model", 384, {}), np.random.default_rng(7)

    def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return vector / np.linalg.norm(vector)

    before = unit(chance.standard_normal(384))
    noise = chance.standard_normal(384)
    noise = unit(noise - (noise @ before) * before)

    def at(cosine: float) -> NDArray[np.float32]:
        return (cosine * before + np.sqrt(1 - cosine**2) * noise).astype(np.float32)

    check_canary(at(LIKE_FP32 + 1e-6), before.astype(np.float32), "http://a", space)
    with pytest.raises(VectorsDrifted, match="cosine"):
        check_canary(at(LIKE_FP32 - 1e-6), before.astype(np.float32), "http://a", space)


def test_a_canary_of_nan_is_refused() -> None:
    space = Space("s" * 32, "model", 2, {})

    with pytest.raises(VectorsDrifted):
        check_canary(np.float32([np.nan, 0]), np.float32([1, 0]), "http://a", space)
