"""One file's bytes become what a document is made of, or the reason why not."""

import posixpath
import re
from urllib.parse import urlsplit

from rba_pipeline.core.documents import Parsed, Section, Stated, normalise
from rba_pipeline.core.errors import DocumentRejected
from rba_pipeline.core.parsing.dates import DateEvidence, filing_date
from rba_pipeline.core.parsing.decoding import decode
from rba_pipeline.core.parsing.html import read_page
from rba_pipeline.core.parsing.outline import one_line, says_something
from rba_pipeline.core.parsing.pdf import read_pdf
from rba_pipeline.core.parsing.plain import read_markdown, read_text
from rba_pipeline.core.parsing.series import series_of

_HTML = (".html", ".htm", ".xhtml")
_MARKDOWN = (".md", ".markdown")
_TEXT = (".txt", ".text")
_PDF = (".pdf",)
_LOOKS_LIKE_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)\b", re.I)

_Found = tuple[str, str | None, tuple[DateEvidence, ...], tuple[Section, ...]]


def require_supported(path: str) -> None:
    """Refuse a file whose ending says that it need not be read at all.

    Raises:
        DocumentRejected: ``unsupported``.
    """
    if not path.lower().endswith((*_HTML, *_MARKDOWN, *_TEXT, *_PDF)):
        ending = posixpath.splitext(path)[1] or "no ending"
        raise DocumentRejected("unsupported", f"{ending}: known are HTML, PDF, text and Markdown")


def parse(raw: bytes, *, path: str, stated: Stated | None) -> Parsed:
    """Return title, address, series, filing date and sections of one file.

    The ending says what it is, but a PDF or an HTML page is known by its first bytes under any of
    them. What the manifest states goes before what the file says of itself.

    Raises:
        DocumentRejected: ``unsupported``, ``empty``, ``undecodable``, ``encrypted``, ``corrupt``,
            ``no_text`` or ``undated``. The same bytes and statement always give the same answer.
    """
    require_supported(path)
    if not raw.strip():
        raise DocumentRejected("empty", "the file has no content")
    own_title, own_url, dates, sections = _read(raw, path)
    if not any(says_something(section.text) for section in sections):
        raise DocumentRejected("empty", "the file has no text after clean-up")
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


def _read(raw: bytes, path: str) -> _Found:
    ending = path.lower()
    # The PDF reference allows the mark anywhere in the first 1,024 bytes.
    if raw.startswith(b"%PDF-") or (ending.endswith(_PDF) and b"%PDF-" in raw[:1024]):
        printed = read_pdf(raw)
        return printed.title, None, printed.dates, printed.sections
    if ending.endswith(_PDF):
        raise DocumentRejected("corrupt", "the file does not begin like a PDF")
    text = decode(raw, declares=ending.endswith(_HTML))
    if ending.endswith(_HTML) or _LOOKS_LIKE_HTML.match(text):
        page = read_page(text)
        return page.title, page.url, page.dates, page.sections
    text = normalise(text)
    plain = read_markdown(text) if ending.endswith(_MARKDOWN) else read_text(text)
    return plain.title, plain.url, plain.dates, plain.sections


def _address(url: str | None) -> str | None:
    """Return a web address as it stands; anything else names nothing."""
    cleaned = one_line(url or "")
    try:
        parts = urlsplit(cleaned)
    except ValueError:
        return None
    return cleaned if parts.scheme in ("http", "https") and parts.netloc else None
