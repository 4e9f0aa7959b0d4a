"""The filing date: which day a publication is filed under, and by which rule it was found."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from rba_pipeline.core.errors import DocumentRejected

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    "(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    "|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
RULES = (
    "front-matter",
    "page:rss-mr-date",
    "page:speech-date",
    "page:article-info",
    "page:release-date",
    "page:below-title",
    "page:published",
    "text:head",
    "title",
    "url",
    "path",
    "page:month",
)
_ISO = re.compile(r"(?<![\d-])(\d{4})-(\d{2})-(\d{2})(?![\d-])")
_DAY_MONTH_YEAR = re.compile(
    rf"(?<!\d)(\d{{1,2}})(?:st|nd|rd|th)?[ _-]+{_MONTH}\.?,?[ _-]+(\d{{4}})(?!\d)", re.I
)
_MONTH_DAY_YEAR = re.compile(
    rf"(?<![a-z]){_MONTH}\.? (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})(?!\d)", re.I
)
_MONTH_YEAR = re.compile(rf"(?<![a-z]){_MONTH}\.?,? (\d{{4}})(?!\d)", re.I)
_EIGHT_DIGITS = re.compile(r"(?<!\d)(\d{8})(?!\d)")


@dataclass(frozen=True, slots=True)
class DateEvidence:
    """A place that may hold the date: the name of its rule, and the words found there."""

    rule: str
    text: str


def filing_date(stated: str | None, evidence: Iterable[DateEvidence]) -> tuple[date, str]:
    """Return the day a publication is filed under, and the name of the rule that found it.

    It is the day of publication; for minutes, the day of the meeting (of the last day, if it had
    several). The first of these that holds a full date decides:

    1. ``manifest``: the operator's own statement.
    2. ``front-matter``: the ``date:`` of a Markdown file.
    3. ``page:rss-mr-date``: the release date shown on newer media releases.
    4. ``page:speech-date``: the date shown with the speaker.
    5. ``page:article-info``: "Date" in the box of older media releases and papers.
    6. ``page:release-date``: "Release date" of statistical releases.
    7. ``page:below-title``: the line under a title that is place and date, as on minutes.
    8. ``page:published``: schema.org's ``datePublished`` or ``article:published_time``.
    9. ``text:head``: the first lines of a PDF or text file, in which a line says a full date.
    10. ``title``: the title on the page or in its head.
    11. ``url``: the canonical address: 2013-06-04, 04062013 or 20130604.
    12. ``path``: the path below the source, likewise, or 4_June_2013.
    13. ``page:month``: a month without a day, in the box or the title, is its first day.

    ``dc.date``, ``dcterms.created``, ``dcterms.modified``, a PDF's CreationDate and the file's own
    time are never used: they say when a page was put up, moved or rebuilt, and on most minutes the
    first is two weeks after the meeting. Days in figures alone (3/10/2006) are not used either:
    they read differently in different countries.

    Args:
        stated: The manifest's date, YYYY-MM-DD; ``None`` where it has none.
        evidence: In any order; of several for one rule, the first with a date decides.

    Raises:
        DocumentRejected: ``undated``: no rule applies, or the manifest's date is not a date. A
            wrong statement is never replaced by a guess.
    """
    if stated is not None:
        try:
            return date.fromisoformat(stated.strip()), "manifest"
        except ValueError:
            detail = f"the manifest says date {stated[:40]!r}; expected YYYY-MM-DD"
            raise DocumentRejected("undated", detail) from None
    for item in sorted(evidence, key=lambda item: RULES.index(item.rule)):
        read = {"url": day_in_name, "path": day_in_name, "page:month": month_in}.get(
            item.rule, day_in
        )
        day = read(item.text)
        if day is not None:
            return day, item.rule
    raise DocumentRejected(
        "undated", "no date in the manifest, on the page, in its title, address or path"
    )


def day_in(text: str) -> date | None:
    """Return the first full date in ``text``; of "5 and 6 August 2024" the last day."""
    found = [
        *((match.start(), match.groups(), (1, 2, 3)) for match in _ISO.finditer(text)),
        *((match.start(), match.groups(), (3, 2, 1)) for match in _DAY_MONTH_YEAR.finditer(text)),
        *((match.start(), match.groups(), (3, 1, 2)) for match in _MONTH_DAY_YEAR.finditer(text)),
    ]
    for _, groups, (year, month, day) in sorted(found):
        result = _date(groups[year - 1], groups[month - 1], groups[day - 1])
        if result is not None:
            return result
    return None


def day_in_name(text: str) -> date | None:
    """Return the last full date in an address or path, written in one of the ways of rule 12."""
    for name in reversed(text.split("/")):
        day = day_in(name)
        if day is not None:
            return day
        for match in reversed(_EIGHT_DIGITS.findall(name)):
            day = _date(match[4:], match[2:4], match[:2]) or _date(match[:4], match[4:6], match[6:])
            if day is not None:
                return day
    return None


def month_in(text: str) -> date | None:
    """Return the first day of the first month named with its year in ``text``."""
    match = _MONTH_YEAR.search(text)
    return None if match is None else _date(match.group(2), match.group(1), "1")


def _date(year: str, month: str, day: str) -> date | None:
    """Return the date, or ``None`` if there is no such day between 1900 and 2100."""
    number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
    try:
        result = date(int(year), number, int(day))
    except ValueError:
        return None
    return result if 1900 <= result.year <= 2100 else None
