"""What pipeline and parser process say to each other: frames of bytes, and JSON in them.

Nothing that a file could have brought into the parser is ever run here, as a pickle would be.
"""

import json
import struct
from dataclasses import asdict
from datetime import date
from typing import BinaryIO

from rba_pipeline.core.documents import Parsed, Section, Stated
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.limits import ParseLimits

LENGTH = struct.Struct(">Q")
READY = b"ready"


class ParserBroke(Exception):
    """The parser did not come to an answer; its text says how, and holds nothing of the file."""


class ParserOutOfMemory(ParserBroke):
    """The parser was denied memory."""


def longest_answer(limits: ParseLimits) -> int:
    """Return the most bytes that an answer may have: JSON takes up to twelve for a character."""
    return 16 * limits.max_characters + 2**20


def write_frame(file: BinaryIO, payload: bytes) -> None:
    """Write ``payload`` with its length before it, and flush."""
    file.write(LENGTH.pack(len(payload)))
    file.write(payload)
    file.flush()


def read_frame(file: BinaryIO) -> bytes | None:
    """Return the next payload; ``None`` when the other side is gone."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    payload = file.read(length)
    return payload if len(payload) == length else None


def question(raw: bytes, *, path: str, stated: Stated | None) -> bytes:
    """Return two frames: what is known of a file, and its bytes."""
    about = json.dumps({"path": path, "stated": stated and asdict(stated)}).encode()
    return b"".join((LENGTH.pack(len(about)), about, LENGTH.pack(len(raw)), raw))


def asked(about: bytes) -> tuple[str, Stated | None]:
    """Return path and statement of a ``question``."""
    row = json.loads(about)
    return row["path"], None if row["stated"] is None else Stated(**row["stated"])


def answer(parsed: Parsed) -> bytes:
    """Return the payload that stands for a parsed file."""
    row = {
        "title": parsed.title,
        "url": parsed.url,
        "series": parsed.series,
        "published_on": parsed.published_on.isoformat(),
        "dated_by": parsed.dated_by,
        "sections": [[part.heading, part.level, part.page, part.text] for part in parsed.sections],
    }
    return json.dumps({"parsed": row}).encode()


def refusal(rejected: DocumentRejected) -> bytes:
    """Return the payload that stands for a rejected file."""
    kind = "stopped" if isinstance(rejected, ParsingStopped) else "rejected"
    return json.dumps({kind: [rejected.reason, rejected.detail]}).encode()


def failure(error: ParserBroke) -> bytes:
    """Return the payload that stands for a parser that is to be replaced."""
    kind = "out_of_memory" if isinstance(error, ParserOutOfMemory) else "broke"
    return json.dumps({kind: [str(error)]}).encode()


def told(payload: bytes) -> Parsed:
    """Return the parsed file that ``payload`` stands for, or raise what it stands for.

    Raises:
        DocumentRejected: The file was rejected; ``ParsingStopped`` if a limit stopped it.
        ParserBroke: The parser says that it broke, or what it says is no answer.
    """
    try:
        [(kind, content)] = json.loads(payload).items()
        if kind == "parsed":
            day = date.fromisoformat(content.pop("published_on"))
            sections = tuple(Section(*part) for part in content.pop("sections"))
            return Parsed(published_on=day, sections=sections, **content)
        error = {
            "rejected": DocumentRejected,
            "stopped": ParsingStopped,
            "out_of_memory": ParserOutOfMemory,
            "broke": ParserBroke,
        }[kind](*content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
        raise ParserBroke(f"its answer makes no sense: {type(broken).__name__}") from None
    raise error
