"""Which models are held to which goals."""

import json
from pathlib import Path

import pytest

from benchmarks.sides import is_nomic_shaped

NOMIC = {
    "model_type": "nomic_bert", "num_hidden_layers": 12, "hidden_size": 768,
    "intermediate_size": 3072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "shaped"),
    [
        pytest.param({}, True, id="nomic"),
        pytest.param({"num_hidden_layers": 2, "hidden_size": 128}, False, id="tiny"),
        pytest.param({"model_type": "bert"}, False, id="other-matrices"),
    ],
)
def test_a_folder_is_nomic_shaped_by_its_config(
    tmp_path: Path, changed: dict[str, object], shaped: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NOMIC | changed))

    assert is_nomic_shaped(tmp_path) is shaped
