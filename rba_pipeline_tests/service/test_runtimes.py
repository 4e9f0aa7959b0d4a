"""Which runtime and precision go together, and what ``auto`` takes."""

from typing import Any

import pytest

from embedding_service.backend.runtimes import Choice, choose
from embedding_service.errors import SettingRefused

WITH_BF16 = frozenset({"FP32", "BF16", "INT8"})
WITHOUT = frozenset({"FP32", "INT8"})


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "openvino", "expected"),
    [
        pytest.param("auto", "auto", "cpu", WITH_BF16, ("openvino", "bf16"), id="bf16-cpu"),
        pytest.param("auto", "auto", "cpu", WITHOUT, ("openvino", "fp32"), id="older-cpu"),
        pytest.param("auto", "auto", "cpu", None, ("torch", "fp32"), id="no-openvino"),
        pytest.param("auto", "auto", "cuda", None, ("torch", "bf16"), id="cuda"),
        pytest.param("auto", "auto", "mps", None, ("torch", "fp16"), id="apple"),
        pytest.param("auto", "int8", "cpu", WITHOUT, ("openvino", "int8"), id="int8"),
        pytest.param("auto", "bf16", "cpu", WITHOUT, ("torch", "bf16"), id="bf16-by-torch"),
        pytest.param("torch", "auto", "cpu", WITH_BF16, ("torch", "fp32"), id="torch-cpu"),
        pytest.param("openvino", "fp32", "cpu", WITH_BF16, ("openvino", "fp32"), id="explicit"),
    ],
)
def test_a_choice(runtime: Any, precision: Any, device: Any, openvino: Any, expected: Any) -> None:
    assert choose(runtime, precision, device=device, openvino=openvino) == Choice(*expected)


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", "fp16"), ("bf16", "bf16"), ("fp32", "fp32")]
)
def test_a_card_without_instructions_for_bf16_computes_in_it_only_if_told_to(
    precision: Any, expected: Any
) -> None:
    found = choose("auto", precision, device="cuda", openvino=None, native_bf16=False)

    assert found == Choice("torch", expected)


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "openvino", "message"),
    [
        pytest.param(
            "openvino", "auto", "cuda", WITH_BF16, "serves the CPU only, not cuda", id="no-gpu"
        ),
        pytest.param("openvino", "auto", "cpu", None, "not installed; pip install", id="absent"),
        pytest.param(
            "openvino", "bf16", "cpu", WITHOUT, "PRECISION=bf16: .* in fp32, int8$", id="no-bf16"
        ),
        pytest.param("auto", "int8", "cuda", None, "in bf16, fp32, fp16$", id="int8-on-cuda"),
        pytest.param("auto", "int8", "cpu", None, "int8 needs OpenVINO", id="int8-without"),
        pytest.param("auto", "fp16", "cpu", WITH_BF16, "torch on this cpu .* fp32", id="fp16"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(
    runtime: Any, precision: Any, device: Any, openvino: Any, message: str
) -> None:
    with pytest.raises(SettingRefused, match=message):
        choose(runtime, precision, device=device, openvino=openvino)
