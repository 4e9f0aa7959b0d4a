"""Preset and overrides become the effective batch size and parallelism."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from rba_pipeline.core.errors import BadSetting

# Dagster's Launchpad offers an enum's names and puts the name into the run config: names equal
# values.
Preset = StrEnum(
    "Preset",
    {
        "auto": "auto",
        "cpu-dev": "cpu-dev",
        "cpu-prod": "cpu-prod",
        "gpu": "gpu",
        "tuned": "tuned",
    },
)
# What was measured at this service; its values are in a file.
TUNED = "tuned"
# What stands for a batch size or parallelism that nobody set.
FROM_PRESET = "from preset"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most one run may lean on the service: texts per request, requests in flight."""

    batch_size: int
    parallel_batches: int


# Batch size × parallel requests of the parallel processing guide that this pipeline takes over
# from.
BOUNDS_BY_PRESET: Mapping[str, Bounds] = MappingProxyType(
    {"cpu-dev": Bounds(4, 2), "cpu-prod": Bounds(8, 4), "gpu": Bounds(32, 8)}
)

# Lowest and highest value allowed, and the unit.
RANGES: Mapping[str, tuple[int, int, str]] = MappingProxyType(
    {
        "batch_size": (1, 2048, "texts per request"),
        "parallel_batches": (1, 64, "requests in flight"),
        "timeout_s": (1, 3600, "seconds"),
        "outage_s": (1, 86400, "seconds"),
    }
)


def whole_number(name: str) -> str:
    """Return what a setting of ``RANGES`` may be."""
    low, high, unit = RANGES[name]
    return f"whole number from {low} to {high} ({unit})"


def setting_problems(values: Mapping[str, object]) -> list[str]:
    """Return one sentence for each value outside its range; names without a range are not looked
    at.

    ``None`` and ``FROM_PRESET`` stand for what nobody set, and are always allowed.
    """
    problems = []
    for name, (low, high, _) in RANGES.items():
        value = values.get(name)
        if value is None or value == FROM_PRESET:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not low <= value <= high:  # type: ignore[operator]
            problems.append(f"{name}={value!r}: allowed is a {whole_number(name)}")
    return problems


def check_settings(values: Mapping[str, object]) -> None:
    """Refuse values outside their range.

    Raises:
        BadSetting: One message that names every wrong value, its range and where to set it.
    """
    problems = setting_problems(values)
    if problems:
        raise BadSetting(
            "Invalid embedding settings: "
            + "; ".join(problems)
            + ". Set them under resources > embedding > config, or as EMBEDDING_BATCH_SIZE, "
            "EMBEDDING_PARALLEL_BATCHES, EMBEDDING_API_TIMEOUT and EMBEDDING_OUTAGE_SECONDS."
        )


def preset_for(device: str, cores: int, *, adaptive: bool) -> str:
    """Return the preset that ``auto`` stands for on a service with this device and cores.

    An adaptive run finds its own pace and never leans harder than is worth it: it has the widest
    bounds.
    """
    if adaptive or device != "cpu":
        return "gpu"
    return "cpu-prod" if cores >= 4 else "cpu-dev"


def effective_bounds(
    preset: str,
    *,
    batch_size: int | None,
    parallel_batches: int | None,
    device: str,
    cores: int,
    adaptive: bool,
    tuned: Bounds | None = None,
) -> Bounds:
    """Return the bounds of a run: what was set, and for the rest the preset's values.

    Args:
        tuned: What the preset ``tuned`` stands for; not needed for the others.
    """
    name = preset_for(device, cores, adaptive=adaptive) if preset == "auto" else preset
    chosen = tuned if name == TUNED and tuned is not None else BOUNDS_BY_PRESET[name]
    return Bounds(batch_size or chosen.batch_size, parallel_batches or chosen.parallel_batches)
