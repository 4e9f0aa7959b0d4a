"""Texts have exactly the lengths that were asked for."""

from pathlib import Path
from statistics import median

import pytest
from tokenizers import Tokenizer

from benchmarks.texts import CHUNKS, SHORT_TEXTS, Lengths, make_texts, whole_words
from embedding_service.backend.models import DEFAULT_MODEL, find_model


@pytest.fixture(scope="module")
def model() -> Path:
    return find_model(DEFAULT_MODEL, None).path


def test_a_text_has_the_tokens_that_were_asked_for(model: Path) -> None:
    lengths = [3, *CHUNKS.sample(16), 8192]

    texts = make_texts(lengths, whole_words(model))

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert [len(found.ids) for found in tokenizer.encode_batch(texts)] == lengths


def test_the_longest_of_64_chunks_is_a_quantile_like_the_others() -> None:
    lengths = sorted(CHUNKS.sample(64))

    assert median(lengths) == pytest.approx(CHUNKS.median, rel=0.01)
    assert lengths[-1] == CHUNKS.longest == 1700
    assert lengths[-2] < lengths[-1]
    assert CHUNKS.sigma == pytest.approx(0.47, abs=0.005)


def test_half_as_many_chunks_are_nearly_the_same_work_per_text() -> None:
    few, many = CHUNKS.sample(32), CHUNKS.sample(64)

    assert sum(few) / 32 == pytest.approx(sum(many) / 64, rel=0.02)


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    assert SHORT_TEXTS.sample(64) == SHORT_TEXTS.sample(64)
    assert SHORT_TEXTS.sample(64, seed=1) != SHORT_TEXTS.sample(64, seed=2)


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param((10, 0.4, 2, 20), id="no-room-for-a-word"),
        pytest.param((10, 0.4, 11, 20), id="shortest-above-the-median"),
        pytest.param((10, 0.4, 5, 9), id="longest-below-the-median"),
        pytest.param((10, -0.1, 5, 20), id="negative-spread"),
    ],
)
def test_impossible_lengths_are_refused(lengths: tuple[int, float, int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Lengths(*lengths)
