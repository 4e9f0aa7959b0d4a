"""Pure: which runtime and precision serve a model on a device, if any."""

from dataclasses import dataclass
from typing import Literal

from embedding_service.backend.base import Precision
from embedding_service.errors import SettingRefused

Device = Literal["cpu", "cuda", "mps"]
Runtime = Literal["torch", "openvino"]

# The default first.
_ON_TORCH: dict[Device, tuple[Precision, ...]] = {
    "cpu": ("fp32", "bf16"),
    "cuda": ("bf16", "fp32", "fp16"),
    "mps": ("fp16", "fp32"),
}
# Cards before Ampere compute bf16 by way of fp32, and fp16 by instructions of their own.
_ON_OLDER_CUDA: tuple[Precision, ...] = ("fp16", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes, and in which numbers."""

    runtime: Runtime
    precision: Precision


def choose(
    runtime: Runtime | Literal["auto"],
    precision: Precision | Literal["auto"],
    *,
    device: Device,
    openvino: frozenset[str] | None,
    native_bf16: bool = True,
) -> Choice:
    """Return what to serve with; ``auto`` is the fastest but int8, whose vectors
    are others; whether bf16 or fp16 keep those of fp32 is seen when the model is loaded.

    Args:
        runtime: As set.
        precision: As set.
        device: Where the model will run.
        openvino: What OpenVINO says it computes fast in on this CPU ("BF16", …); None where it is
            not installed.
        native_bf16: Whether the card has instructions for bf16; matters on CUDA only.

    Raises:
        SettingRefused: The three do not go together; the text says what does.
    """
    if runtime == "auto":
        runtime = "openvino" if _openvino_serves(precision, device, openvino) else "torch"
    possible = _precisions(runtime, device, openvino)
    if device == "cuda" and not native_bf16:
        possible = _ON_OLDER_CUDA
    if precision == "auto":
        precision = possible[0]
    if precision not in possible:
        raise SettingRefused(
            f"EMBEDDING_PRECISION={precision}: {runtime} on this {device} computes in "
            f"{', '.join(possible)}{_advice(precision, device, openvino)}"
        )
    return Choice(runtime, precision)


def _openvino_serves(precision: str, device: Device, openvino: frozenset[str] | None) -> bool:
    if device != "cpu" or openvino is None:
        return False
    return precision == "auto" or precision in _on_openvino(openvino)


def _precisions(
    runtime: Runtime, device: Device, openvino: frozenset[str] | None
) -> tuple[Precision, ...]:
    if runtime == "torch":
        return _ON_TORCH[device]
    if device != "cpu":
        raise SettingRefused(
            f"EMBEDDING_RUNTIME=openvino: serves the CPU only, not {device}; "
            "set EMBEDDING_DEVICE=cpu or EMBEDDING_RUNTIME=torch"
        )
    if openvino is None:
        raise SettingRefused(
            "EMBEDDING_RUNTIME=openvino: not installed; pip install 'rba-pipeline[openvino]', "
            "or set EMBEDDING_RUNTIME=torch"
        )
    return _on_openvino(openvino)


def _on_openvino(capabilities: frozenset[str]) -> tuple[Precision, ...]:
    """Return what this CPU has instructions for, the default first; fp32 and int8 always run."""
    bf16: tuple[Precision, ...] = ("bf16",) if "BF16" in capabilities else ()
    fp16: tuple[Precision, ...] = ("fp16",) if "FP16" in capabilities else ()
    return (*bf16, "fp32", *fp16, "int8")


def _advice(precision: str, device: Device, openvino: frozenset[str] | None) -> str:
    if precision == "int8" and device == "cpu" and openvino is None:
        return "; int8 needs OpenVINO: pip install 'rba-pipeline[openvino]'"
    return ""
