"""Operations, batches and shares of the engine benchmark."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import engine_report
from benchmarks.roofline import Peak, Roofline, Round, Shape, best_peak, sorted_batches

SHAPE = Shape(layers=2, hidden=4, inner=8, gated=True)


def roofline(**figures: float) -> Roofline:
    usual = {
        "peak": 1e6, "loop_s": 2.0, "http_s": 2.5, "padding_share": 0.01, "busy_share": 0.99,
        "idle_cores": 0.0,
    }  # fmt: skip
    return Roofline("bf16", SHAPE, [10, 20], [Round(**{**usual, **figures})])


def test_a_gated_layer_has_seven_matrices() -> None:
    # Four of 4 x 4 and three of 4 x 8, in two layers, two operations for each weight.
    assert SHAPE.matrix_flops(10) == 2 * 10 * 2 * (4 * 16 + 3 * 32)


@pytest.mark.parametrize(
    ("config", "gated"),
    [
        pytest.param(
            {
                "model_type": "nomic_bert", "num_hidden_layers": 2, "hidden_size": 4,
                "intermediate_size": 8,
            },
            True,
            id="transformers",
        ),
        pytest.param(
            {"model_type": "nomic_bert", "n_layer": 2, "n_embd": 4, "n_inner": 8},
            True,
            id="nomic-as-published",
        ),
        pytest.param(
            {"model_type": "distilbert", "n_layers": 2, "dim": 4, "hidden_dim": 8},
            False,
            id="distilbert",
        ),
    ],
)  # fmt: skip
def test_a_shape_is_read_in_the_layout_of_each_kind_of_model(
    tmp_path: Path, config: dict[str, object], gated: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert Shape.read(tmp_path) == Shape(layers=2, hidden=4, inner=8, gated=gated)


def test_attention_is_between_tokens_of_one_text() -> None:
    assert SHAPE.attention_flops([3, 5]) == 4 * 2 * 4 * (9 + 25)


def test_a_layers_peak_is_between_those_of_its_matrices_and_weighted_by_their_work() -> None:
    assert best_peak([Peak("torch", 512, square=100, inner=100)], SHAPE) == pytest.approx(100)
    # Of 16 + 24 parts the first take twice as long.
    assert best_peak([Peak("torch", 512, square=50, inner=100)], SHAPE) == pytest.approx(40 / 0.56)


def test_the_peak_takes_each_matrix_from_the_library_that_is_best_at_it() -> None:
    found = [Peak("torch", 512, square=50, inner=100), Peak("openvino", 2048, square=80, inner=60)]

    assert best_peak(found, SHAPE) == pytest.approx(40 / (16 / 80 + 24 / 100))


def test_shares_are_of_the_same_round() -> None:
    found = roofline()

    flops = SHAPE.matrix_flops(30) + SHAPE.attention_flops([10, 20])
    assert found.http_share().middle == pytest.approx(0.8)
    assert found.peak_share(attention=True).middle == pytest.approx(flops / 2 / 1e6)
    assert found.peak_share(attention=False).middle == pytest.approx(
        SHAPE.matrix_flops(30) / 2 / 1e6
    )


def test_shares_are_promised_of_a_cpu_only() -> None:
    on_cuda = replace(roofline(), device="cuda")

    assert [goal.claim for goal in engine_report.goals([on_cuda])] == ["bf16: padding"]
    assert len(engine_report.goals([roofline()])) == 3


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([30, 10, 20], [[1, 2], [0]], id="sorted-and-within-the-budget"),
        pytest.param([5] * 5, [[0, 1, 2], [3, 4]], id="text-limit"),
        pytest.param([1, 500], [[0], [1]], id="oversized-goes-alone"),
    ],
)
def test_batches_are_neighbours_by_length(lengths: list[int], expected: list[list[int]]) -> None:
    assert sorted_batches(lengths, max_texts=3, max_padded_tokens=40) == expected


def test_a_busy_server_beside_the_loop_makes_the_table_call_itself_invalid() -> None:
    assert "INVALID" not in engine_report.text([roofline()])
    assert "INVALID" in engine_report.text([roofline(idle_cores=0.5)])


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        pytest.param({"http_s": 2.0}, "the model", id="always-computing"),
        pytest.param({"http_s": 4.0}, "cores that are shared", id="computing-slowly"),
        pytest.param({"busy_share": 0.5}, "what surrounds the model", id="waiting-for-work"),
    ],
)
def test_the_table_says_what_bounds_the_service(figures: dict[str, float], said: str) -> None:
    assert f"bf16 over HTTP is bounded by {said}" in engine_report.text([roofline(**figures)])
