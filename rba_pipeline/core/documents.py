"""What a document is, what names it, and how text is cleaned before anything is hashed."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit, urlunsplit

# Part of the chunking id: raise it whenever the same bytes would become another document.
PARSER_VERSION = 1

_LINE_ENDS = re.compile("\r\n|[\r\v\f\u2028\u2029]")
_WIDE_SPACES = re.compile("[\t\u00a0\u2007\u202f]")
_WINDOWS_1252 = re.compile("[\x80-\x9f]")
_UNWANTED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\u00ad\ufeff\ufdd0-\ufdef\ud800-\udfff"
    + "".join(
        f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17)
    )
    + "]"
)


@dataclass(frozen=True, slots=True)
class Section:
    """The text between one heading and the next.

    Attributes:
        heading: Empty where the text stands under no heading, as on the pages of a PDF.
        level: 1 for the title, 2 to 6 below it; 0 without a heading.
        page: 1-based page of a PDF, else ``None``.
        text: Never empty. Paragraphs are separated by a blank line; a table is one paragraph with
            one row per line, cells joined by " | ", its header first.
    """

    heading: str
    level: int
    page: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Stated:
    """What one row of a manifest says about a file; ``None`` where it says nothing.

    Attributes:
        path: Relative to the source, with forward slashes.
        date: As written; the filing rule demands YYYY-MM-DD.
    """

    path: str
    date: str | None = None
    title: str | None = None
    url: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file as read: everything but its place in a corpus; ``dated_by`` names a filing rule."""

    title: str
    url: str | None
    series: str
    published_on: date
    dated_by: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One publication.

    Attributes:
        document_id: 32 hex, see ``document_id``.
        path: Relative to the source, with forward slashes.
        published_on: Day of publication; for minutes, the day of the meeting.
        dated_by: The rule that found ``published_on``.
        sections: In reading order, at least one.
        sha256: Of the file's bytes, hex.
        content_hash: 64 hex, see ``content_hash``.
    """

    document_id: str
    corpus: str
    path: str
    series: str
    title: str
    url: str | None
    published_on: date
    dated_by: str
    sections: tuple[Section, ...]
    sha256: str
    content_hash: str


def normalise(text: str) -> str:
    """Return ``text`` as it is hashed, stored and embedded; idempotent.

    Line ends (form feed and vertical tab among them) become newlines, tabs and no-break spaces
    become spaces, C1 controls become the Windows-1252 characters they were meant to be. Other
    controls, lone surrogates, noncharacters, soft hyphens and byte order marks go; so do spaces
    at the ends of lines. The rest is in Unicode normal form C.
    """
    text = _WINDOWS_1252.sub(_from_windows_1252, text)
    text = _WIDE_SPACES.sub(" ", _LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", _UNWANTED.sub("", text))
    # A pattern for spaces before a line end would take quadratic time on a long run of spaces.
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


def _from_windows_1252(match: re.Match[str]) -> str:
    return match.group().encode("latin-1").decode("windows-1252", errors="ignore")


def document_id(corpus: str, url_or_path: str) -> str:
    """Return 32 hex that name one publication of ``corpus``.

    A web address is made canonical first: https, host in lower case, no fragment. Anything else is
    taken as a path relative to the source.
    """
    name = url_or_path
    if name.lower().startswith(("http://", "https://")):
        parts = urlsplit(name)
        name = urlunsplit(("https", parts.netloc.lower(), parts.path or "/", parts.query, ""))
    return hashlib.sha256(json.dumps([corpus, name]).encode()).hexdigest()[:32]


def content_hash(parsed: Parsed) -> str:
    """Return 64 hex over all that chunks and search use: equal means nothing to make again."""
    ingredients = [
        parsed.title,
        parsed.series,
        parsed.url,
        parsed.published_on.isoformat(),
        [
            [section.heading, section.level, section.page, section.text]
            for section in parsed.sections
        ],
    ]
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()
