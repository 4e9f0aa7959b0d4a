"""Values that no run may begin with, and what is said of each, whichever way a run is launched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SET_THEM = (
    "Set them under resources > embedding > config, or as EMBEDDING_BATCH_SIZE, "
    "EMBEDDING_PARALLEL_BATCHES, EMBEDDING_API_TIMEOUT and EMBEDDING_OUTAGE_SECONDS."
)
_PATH = "at path root:resources:embedding:config"
_BATCH_SIZES = "whole number from 1 to 2048 (texts per request)"


@dataclass(frozen=True, slots=True)
class BadValue:
    """What stands in a run config under ``embedding``.

    Attributes:
        said: By every way that takes a run config.
        said_of_variable: What is said of the same value in the environment, if it is something
            else; ``None``: there is no such variable.
    """

    name: str
    values: Mapping[str, Any]
    said: str
    said_of_variable: str | None = ""


def _out_of_range(name: str, setting: str, value: int, allowed: str) -> BadValue:
    said = f"Invalid embedding settings: {setting}={value}: allowed is a {allowed}. {_SET_THEM}"
    return BadValue(name, {setting: value}, said)


BAD_VALUES = [
    _out_of_range("nothing-at-once", "batch_size", 0, _BATCH_SIZES),
    _out_of_range("too-much-at-once", "batch_size", 5000, _BATCH_SIZES),
    _out_of_range(
        "too-many-requests",
        "parallel_batches",
        65,
        "whole number from 1 to 64 (requests in flight)",
    ),
    _out_of_range("no-time", "timeout_s", 0, "whole number from 1 to 3600 (seconds)"),
    BadValue(
        "no-number",
        {"batch_size": "many"},
        f"Invalid embedding settings: batch_size='many': allowed is a {_BATCH_SIZES}. {_SET_THEM}",
        f"EMBEDDING_BATCH_SIZE='many': expected a {_BATCH_SIZES}",
    ),
    BadValue(
        "no-preset",
        {"preset": "huge"},
        f"Value {_PATH}:preset not in enum type Preset (auto, cpu-dev, cpu-prod, gpu, tuned) got "
        "huge",
        "EMBEDDING_PRESET='huge': allowed are auto, cpu-dev, cpu-prod, gpu, tuned",
    ),
    BadValue(
        "no-field",
        {"batchsize": 4},
        f'Received unexpected config entry "batchsize" {_PATH}. Expected: "{{ adaptive?: ',
        None,
    ),
]
