"""How the service's log is written: readable lines, or one JSON object per line.

A line is an event and its fields: ``logger.info("request", extra={"status": 200})``. Neither may
hold a text or a key.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

LogFormat = Literal["text", "json"]


class _TextFormatter(logging.Formatter):
    """Time, level and event, and the fields behind it as ``name=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), *fields])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {n: v for n, v in record.__dict__.items() if n not in RESERVED_ATTRS and v is not None}


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class _JsonFormatter(OrjsonFormatter):
    """The same fields, as they are."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "message": "event"},
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """ISO 8601, in UTC, to the millisecond: programs of any zone compare these."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds")

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in log_data.items() if value is not None}


def formatter(log_format: LogFormat) -> logging.Formatter:
    return _JsonFormatter() if log_format == "json" else _TextFormatter()


def configure(log_format: LogFormat) -> None:
    """Write everything from INFO on to standard error, in ``log_format``, from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # What it says at INFO is said by us, or is noise.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
