"""The tuned preset: a setting that was measured, at which service, and how it is kept in a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import RANGES, Bounds, whole_number
from rba_pipeline.core.tuning import Measurement

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class MeasuredService:
    """What a service is recognised by: of another one, the figures say little."""

    space: str
    model: str
    device: str
    cores: int


@dataclass(frozen=True, slots=True)
class TunedPreset:
    """What ``rba-pipeline tune`` found.

    Attributes:
        measured_at: ISO 8601, with its offset from UTC.
        rate: Texts per second.
        why: Why nothing more was tried.
        measurements: In their order.
    """

    bounds: Bounds
    service: MeasuredService
    measured_at: str
    rate: float
    why: str
    measurements: tuple[Mapping[str, Any], ...] = ()

    def difference(self, service: MeasuredService) -> str | None:
        """Return what sets ``service`` apart from the one that was measured; ``None``: nothing."""
        before, now = asdict(self.service), asdict(service)
        told = [
            f"{name} {before[name]}, now {now[name]}" for name in now if before[name] != now[name]
        ]
        return "; ".join(told) or None

    def to_json(self) -> str:
        """Return the file's content."""
        content = {
            "format": _FORMAT,
            "batch_size": self.bounds.batch_size,
            "parallel_batches": self.bounds.parallel_batches,
            "chunks_per_second": round(self.rate, 3),
            "service": asdict(self.service),
            "measured_at": self.measured_at,
            "why": self.why,
            "measurements": list(self.measurements),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> "TunedPreset":
        """Return what a file says.

        Args:
            place: Where it is, for the error.

        Raises:
            BadSetting: It is damaged, or a value is out of range.
        """
        try:
            content = json.loads(text)
            service = content["service"]
            return cls(
                bounds=Bounds(_whole(content, "batch_size"), _whole(content, "parallel_batches")),
                service=MeasuredService(
                    str(service["space"]),
                    str(service["model"]),
                    str(service["device"]),
                    int(service["cores"]),
                ),
                measured_at=str(content["measured_at"]),
                rate=float(content["chunks_per_second"]),
                why=str(content.get("why", "")),
                measurements=tuple(content.get("measurements", ())),
            )
        except BadSetting as error:
            raise BadSetting(f"{place}: {error}. {_AGAIN}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadSetting(f"{place} is no tuned preset ({error!r}). {_AGAIN}") from error


_AGAIN = "Run `rba-pipeline tune` to write it anew, or choose another preset"


def _whole(content: Mapping[str, object], name: str) -> int:
    low, high, _ = RANGES[name]
    value = content[name]
    if type(value) is not int or not low <= value <= high:
        raise BadSetting(f"{name}={value!r}: allowed is a {whole_number(name)}")
    return value


def rows(measurements: Sequence[Measurement]) -> tuple[Mapping[str, Any], ...]:
    """Return what a file keeps of ``measurements``."""
    return tuple(
        {
            "batch_size": each.bounds.batch_size,
            "parallel_batches": each.bounds.parallel_batches,
            "chunks_per_second": round(each.rate, 3),
            "p50_s": round(each.p50_s, 4),
            "refusals": each.refusals,
            "errors": each.errors,
            "seconds": round(each.seconds, 2),
        }
        for each in measurements
    )
