"""Text and Markdown files."""

import re
from dataclasses import dataclass

from rba_pipeline.core.documents import Section
from rba_pipeline.core.parsing.dates import DateEvidence
from rba_pipeline.core.parsing.outline import Outline, one_line

HEAD_LINES = 12
LONGEST_TITLE = 200
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FIELD = re.compile(r"^([A-Za-z_]+)[ \t]*:[ \t]*(.*)$", re.M)
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-+)$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


@dataclass(frozen=True, slots=True)
class PlainText:
    """What a text file says about itself; ``title`` is empty where it has none."""

    title: str
    url: str | None
    dates: tuple[DateEvidence, ...]
    sections: tuple[Section, ...]


def head_dates(text: str) -> tuple[DateEvidence, ...]:
    """Return the short lines among the first twelve that are not empty: where a date may stand."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return tuple(
        DateEvidence("text:head", line) for line in lines[:HEAD_LINES] if len(line) <= LONGEST_TITLE
    )


def read_text(text: str) -> PlainText:
    """Return a normalised text file; a first line of at most 200 characters is its title."""
    first, _, rest = text.lstrip("\n ").partition("\n")
    has_title = len(first) <= LONGEST_TITLE and bool(rest.strip())
    title = one_line(first) if has_title else ""
    outline = Outline(title, 1 if title else 0)
    for paragraph in (rest if has_title else text).split("\n\n"):
        outline.paragraph(paragraph)
    return PlainText(title, None, head_dates(text), outline.sections())


def read_markdown(text: str) -> PlainText:
    """Return a normalised Markdown file, its headings as sections; other marks stay as they are.

    The title is that of the front matter, else the first heading.
    """
    fields: dict[str, str] = {}
    match = _FRONT_MATTER.match(text)
    if match is not None:
        fields = {
            name.lower(): value.strip(" \"'") for name, value in _FIELD.findall(match.group(1))
        }
        text = text[match.end() :]
    outline, first_heading = _outline(text)
    dates = head_dates(text)
    if fields.get("date"):
        dates = (DateEvidence("front-matter", fields["date"]), *dates)
    title = one_line(fields.get("title") or first_heading)
    return PlainText(title, fields.get("url") or None, dates, outline.sections())


def _outline(text: str) -> tuple[Outline, str]:
    outline = Outline()
    first_heading = ""
    lines: list[str] = []
    fenced = False
    for line in text.split("\n"):
        fenced ^= _FENCE.match(line) is not None
        heading, level = ("", 0) if fenced else _heading(line, lines)
        if heading:
            outline.paragraph("\n".join(lines))
            outline.heading(heading, level)
            first_heading = first_heading or heading
            lines = []
        elif line.strip() or fenced:
            lines.append(_row(line))
        else:
            outline.paragraph("\n".join(lines))
            lines = []
    outline.paragraph("\n".join(lines))
    return outline, first_heading


def _heading(line: str, before: list[str]) -> tuple[str, int]:
    """Return the heading that ends with ``line``, and its level; removes it from ``before``."""
    # Longer lines are prose, and would keep the patterns busy for very long.
    if len(line) > 2 * LONGEST_TITLE:
        return "", 0
    match = _ATX.match(line)
    if match is not None:
        return match.group(2), len(match.group(1))
    if len(before) == 1 and _UNDERLINE.match(line) and "|" not in before[0]:
        return before.pop(), 1 if "=" in line else 2
    return "", 0


def _row(line: str) -> str:
    """Return a row of a table as cells joined with " | ", its ruling line as nothing."""
    if not line.lstrip().startswith("|"):
        return line
    if not set(line.strip()) - set("|-: "):
        return ""
    return " | ".join(cell.strip() for cell in line.strip().strip("|").split("|"))
