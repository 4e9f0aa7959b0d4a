"""PDF files: the text of each page."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import pypdfium2

from rba_pipeline.core.documents import Section, normalise
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.dates import DateEvidence
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.core.parsing.outline import one_line, says_something
from rba_pipeline.core.parsing.plain import LONGEST_TITLE, head_dates

# PDFium keeps global state and may be entered by one thread at a time.
_PDFIUM = Lock()
_WRONG_PASSWORD = 4
# PDFium writes U+FFFE (or U+0002) for a hyphen at the end of a line, and leaves the line end out.
# Bounded, because a page may be one endless word.
_BROKEN_WORD = re.compile("(\\w{1,40})[\ufffe\x02](?:\r?\n)?(\\w{1,40})")
_WORD = re.compile(r"\w+")
_SENTENCE_END = (".", "!", "?", ":", ";", ".”", ".’", '."')
# A line this much shorter than the longest of its page was not broken by the margin.
SHORT_LINE = 0.75


@dataclass(frozen=True, slots=True)
class PrintedText:
    """What a PDF says about itself; one section per page with text."""

    title: str
    dates: tuple[DateEvidence, ...]
    sections: tuple[Section, ...]


def read_pdf(raw: bytes, limits: ParseLimits) -> PrintedText:
    """Return the text of a PDF that opens without a password, page by page.

    The title is that of its properties, else its first line. Pages without text are left out.

    Raises:
        DocumentRejected: ``encrypted``, ``corrupt``, or ``no_text`` when no page has any (scanned
            pages).
        ParsingStopped: ``too_many_pages``, or ``too_large`` for too much text.
    """
    # PDFium mends what was cut off, and would hand over the pages that arrived as if they were all.
    if b"%%EOF" not in raw[-1024:]:
        raise DocumentRejected("corrupt", "the PDF is cut off: its end mark is missing")
    stated_title, pages = _read(raw, limits)
    pages = [(number, _mend(text, pages)) for number, text in pages]
    sections = tuple(
        Section("", 0, number, body) for number, text in pages if (body := _paragraphs(text))
    )
    if not sections:
        raise DocumentRejected("no_text", "no page of the PDF has text; it may be scanned images")
    head = pages[0][1].lstrip("\n")
    first_line = head.partition("\n")[0]
    title = one_line(stated_title) or (
        one_line(first_line) if len(first_line) <= LONGEST_TITLE else ""
    )
    return PrintedText(title, head_dates(head), sections)


def _read(raw: bytes, limits: ParseLimits) -> tuple[str, list[tuple[int, str]]]:
    with _PDFIUM:
        _forget_last_failure()
        try:
            document = pypdfium2.PdfDocument(raw)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _WRONG_PASSWORD:
                raise DocumentRejected("encrypted", "the PDF needs a password") from error
            raise DocumentRejected("corrupt", f"the PDF cannot be opened: {error}") from error
        try:
            title = document.get_metadata_dict().get("Title", "")
            return title, list(_pages(document, limits))
        except pypdfium2.PdfiumError as error:
            raise DocumentRejected("corrupt", f"the PDF breaks off: {error}") from error
        finally:
            document.close()


def _forget_last_failure() -> None:
    """Let PDFium fail in a known way: of some failures it reports the code of the one before."""
    with suppress(pypdfium2.PdfiumError):
        pypdfium2.PdfDocument(b"no PDF")


def _pages(document: pypdfium2.PdfDocument, limits: ParseLimits) -> Iterator[tuple[int, str]]:
    if len(document) > limits.max_pages:
        raise ParsingStopped("too_many_pages", limits.exceeded("max_pages"))
    characters = 0
    for number in range(1, len(document) + 1):
        page = document[number - 1]
        try:
            textpage = page.get_textpage()
            text = textpage.get_text_range()
            textpage.close()
        finally:
            page.close()
        characters += len(text)
        if characters > limits.max_characters:
            raise ParsingStopped("too_large", limits.exceeded("max_characters"))
        if says_something(text):
            yield number, text


def _mend(text: str, pages: list[tuple[int, str]]) -> str:
    """Join words broken at the end of a line, and normalise.

    The hyphen goes only if the whole word stands elsewhere in the document: "infor-mation" is
    mended, "supply-demand" keeps its own.
    """
    broken = _BROKEN_WORD.findall(text)
    if broken:
        wanted = {(first + second).lower() for first, second in broken}
        known = {
            word for _, page in pages for word in _WORD.findall(page.lower()) if word in wanted
        }

        def joined(match: re.Match[str]) -> str:
            whole = match.group(1) + match.group(2)
            return whole if whole.lower() in known else f"{match.group(1)}-{match.group(2)}"

        text = _BROKEN_WORD.sub(joined, text)
    return normalise(text)


def _paragraphs(text: str) -> str:
    """Return the lines of a page as paragraphs.

    A paragraph ends at an empty line, at a short line that ends a sentence, and around a short line
    that does not, if the next begins a sentence (a heading).
    """
    lines = [one_line(line) for line in text.split("\n")]
    margin = SHORT_LINE * max((len(line) for line in lines), default=0)
    paragraphs: list[list[str]] = [[]]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line:
            paragraphs[-1].append(line)
        short = len(line) < margin and (line.endswith(_SENTENCE_END) or not following[:1].islower())
        if not line or short:
            paragraphs.append([])
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs if paragraph)
