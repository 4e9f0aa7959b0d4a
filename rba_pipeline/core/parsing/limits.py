"""How much one file may take to become a document; what takes more is quarantined."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rba_pipeline.core.errors import BadSetting

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limit:
    """One setting: its default, the lowest and highest value allowed, its unit and a sentence."""

    default: int
    low: int
    high: int
    unit: str
    sentence: str

    @property
    def description(self) -> str:
        """The sentence with range and unit, for the Launchpad."""
        return f"{self.sentence} {self.low:,} to {self.high:,} {self.unit}."

    def allows(self, value: object) -> bool:
        """Return whether ``value`` is a whole number within the range."""
        return type(value) is int and self.low <= value <= self.high


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "max_file_bytes": Limit(
            64 * _MIB, 1024, 1024 * _MIB, "bytes", "Larger files are quarantined as too_large."
        ),
        "max_pages": Limit(
            5_000, 1, 1_000_000, "pages", "Longer PDFs are quarantined as too_many_pages."
        ),
        "max_characters": Limit(
            10_000_000, 1_000, 100_000_000, "characters",
            "Files with more text, headings included, are quarantined as too_large.",
        ),
        "max_parse_s": Limit(
            30, 1, 3_600, "seconds of computing",
            "Files that take longer to parse are quarantined as timeout.",
        ),
        "max_parse_memory_bytes": Limit(
            1024 * _MIB, 256 * _MIB, 64 * 1024 * _MIB, "bytes",
            "Files that take more memory to parse are quarantined as bomb.",
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """The values in force, each explained in ``LIMITS``."""

    max_file_bytes: int = LIMITS["max_file_bytes"].default
    max_pages: int = LIMITS["max_pages"].default
    max_characters: int = LIMITS["max_characters"].default
    max_parse_s: int = LIMITS["max_parse_s"].default
    max_parse_memory_bytes: int = LIMITS["max_parse_memory_bytes"].default

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r}: allowed is a whole number from {limit.low:,} to {limit.high:,} "
            f"({limit.unit}); set {variable(name)}, or resources > source > config > {name}"
            for name, limit in LIMITS.items()
            if not limit.allows(value := getattr(self, name))
        ]
        if problems:
            raise BadSetting("; ".join(problems))

    def exceeded(self, name: str) -> str:
        """Return the sentence for people about a file that takes more than the limit ``name``."""
        return (
            f"takes more than {getattr(self, name):,} {LIMITS[name].unit} ({name}); "
            f"raise {variable(name)} to take it"
        )


def variable(name: str) -> str:
    """Return the environment variable that sets the limit ``name``."""
    return f"RBA_{name.upper()}"


DEFAULT_LIMITS = ParseLimits()
