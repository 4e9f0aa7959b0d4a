"""Which backend serves a model, by the settings and by what this machine has."""

import importlib.util
import logging
import os
import platform
from pathlib import Path

from embedding_service.backend.base import Backend
from embedding_service.backend.models import ModelFolder, find_model
from embedding_service.backend.runtimes import Choice, Device, choose
from embedding_service.errors import SettingRefused
from embedding_service.settings import Settings

_logger = logging.getLogger(__name__)

# Present where the driver of an NVIDIA or AMD card is: asking torch costs seconds, and 200 MB.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def load_backend(settings: Settings) -> Backend:
    """Return the model that ``settings`` names, loaded; prepared for OpenVINO first if need be.

    Raises:
        ModelRefused: It is absent, damaged, or one that we may not or cannot serve.
        SettingRefused: Device, runtime and precision do not go together on this machine.
    """
    folder = find_model(settings.model, settings.model_revision)
    device = _device(settings.device)
    # On a CPU the model has the cores, and a tokenizer with threads of its own would take them
    # away. Elsewhere it may have them all: a core reads more slowly than an accelerator computes.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if device == "cpu" else "true")
    choice = choose(
        settings.runtime,
        settings.precision,
        device=device,
        openvino=_openvino(device),
        native_bf16=_native_bf16(device),
    )
    _logger.info("%s on %s: %s in %s", folder.name, device, choice.runtime, choice.precision)
    if choice.runtime == "openvino":
        return _on_openvino(folder, choice, settings)
    return _on_torch(folder, choice, device, settings)


def _on_openvino(folder: ModelFolder, choice: Choice, settings: Settings) -> Backend:
    from embedding_service.backend.openvino import OpenVinoBackend
    from embedding_service.backend.order import Order
    from embedding_service.backend.preparation import prepared_model

    named = settings.calibration.expanduser() if settings.calibration else None
    calibration = named if choice.precision == "int8" else None
    order = Order(folder, choice.precision, settings.threads, calibration)
    path, prepared = prepared_model(order, settings.cache_dir.expanduser())
    return OpenVinoBackend(
        folder, path, prepared, threads=settings.threads, max_tokens=settings.max_seq_length
    )


def _on_torch(folder: ModelFolder, choice: Choice, device: Device, settings: Settings) -> Backend:
    # After the folder's checks: this import takes seconds.
    from embedding_service.backend.sentence_transformer import SentenceTransformerBackend

    return SentenceTransformerBackend(
        folder,
        device=device,
        precision=choice.precision,
        threads=settings.threads,
        max_tokens=settings.max_seq_length,
    )


def _openvino(device: Device) -> frozenset[str] | None:
    if device != "cpu" or importlib.util.find_spec("openvino") is None:
        return None
    from embedding_service.backend.openvino import capabilities

    return capabilities()


def _native_bf16(device: Device) -> bool:
    if device != "cuda":
        return True
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _device(wanted: str) -> Device:
    if wanted == "cpu" or (wanted == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    present: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.mps.is_available(),
        "cpu": True,
    }
    found = [name for name, there in present.items() if there]
    if wanted == "auto":
        return found[0]
    chosen = next((name for name in found if name == wanted), None)
    if chosen is None:
        raise SettingRefused(
            f"EMBEDDING_DEVICE={wanted}: not on this machine; there is: {', '.join(found)}"
        )
    return chosen


def _may_have_accelerator() -> bool:
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return apple or any(Path(path).exists() for path in _ACCELERATORS)
