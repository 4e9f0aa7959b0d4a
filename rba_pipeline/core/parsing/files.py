"""One file's bytes become what a document is made of, or the reason why not."""

import posixpath
import re
from urllib.parse import urlsplit

from rba_pipeline.core.documents import Parsed, Section, Stated, normalise
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.dates import DateEvidence, filing_date
from rba_pipeline.core.parsing.decoding import decode
from rba_pipeline.core.parsing.endings import HTML, MARKDOWN, PDF, require_supported
from rba_pipeline.core.parsing.html import read_page
from rba_pipeline.core.parsing.limits import DEFAULT_LIMITS, ParseLimits
from rba_pipeline.core.parsing.outline import one_line, says_something
from rba_pipeline.core.parsing.pdf import read_pdf
from rba_pipeline.core.parsing.plain import read_markdown, read_text
from rba_pipeline.core.parsing.series import series_of

_LOOKS_LIKE_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)\b", re.I)

_Found = tuple[str, str | None, tuple[DateEvidence, ...], tuple[Section, ...]]


def parse(
    raw: bytes, *, path: str, stated: Stated | None, limits: ParseLimits = DEFAULT_LIMITS
) -> Parsed:
    """Return title, address, series, filing date and sections of one file.

    The ending says what it is, but a PDF or an HTML page is known by its first bytes under any of
    them. What the manifest states goes before what the file says of itself.

    Raises:
        DocumentRejected: ``unsupported``, ``empty``, ``undecodable``, ``encrypted``, ``corrupt``,
            ``no_text`` or ``undated``. The same bytes and statement always give the same answer.
        ParsingStopped: ``too_many_pages``, or ``too_large`` for more text than the limits allow.
    """
    require_supported(path)
    if not raw.strip():
        raise DocumentRejected("empty", "the file has no content")
    own_title, own_url, dates, sections = _read(raw, path, limits)
    if not any(says_something(section.text) for section in sections):
        raise DocumentRejected("empty", "the file has no text after clean-up")
    _require_room(sum(len(part.heading) + len(part.text) for part in sections), limits)
    name = posixpath.splitext(posixpath.basename(path))[0]
    title = one_line((stated and stated.title) or own_title) or one_line(name.replace("_", " "))
    url = _address(stated.url if stated else None) or _address(own_url)
    place = (
        DateEvidence("url", url or ""),
        DateEvidence("path", path),
        DateEvidence("title", title),
    )
    day, rule = filing_date(stated.date if stated else None, (*dates, *place))
    series = series_of(kind=stated.kind if stated else None, url=url, path=path, title=title)
    return Parsed(title, url, one_line(series), day, rule, sections)


def _read(raw: bytes, path: str, limits: ParseLimits) -> _Found:
    ending = path.lower()
    # The PDF reference allows the mark anywhere in the first 1,024 bytes.
    if raw.startswith(b"%PDF-") or (ending.endswith(PDF) and b"%PDF-" in raw[:1024]):
        printed = read_pdf(raw, limits)
        return printed.title, None, printed.dates, printed.sections
    if ending.endswith(PDF):
        raise DocumentRejected("corrupt", "the file does not begin like a PDF")
    text = decode(raw, declares=ending.endswith(HTML))
    if ending.endswith(HTML) or _LOOKS_LIKE_HTML.match(text):
        page = read_page(text)
        return page.title, page.url, page.dates, page.sections
    # Before anything is done with it that takes longer than to count.
    _require_room(len(text), limits)
    text = normalise(text)
    plain = read_markdown(text) if ending.endswith(MARKDOWN) else read_text(text)
    return plain.title, plain.url, plain.dates, plain.sections


def _require_room(characters: int, limits: ParseLimits) -> None:
    if characters > limits.max_characters:
        raise ParsingStopped("too_large", limits.exceeded("max_characters"))


def _address(url: str | None) -> str | None:
    """Return a web address as it stands; anything else names nothing."""
    cleaned = one_line(url or "")
    try:
        parts = urlsplit(cleaned)
    except ValueError:
        return None
    return cleaned if parts.scheme in ("http", "https") and parts.netloc else None
