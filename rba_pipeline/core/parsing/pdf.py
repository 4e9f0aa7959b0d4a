"""PDF files: the text of each page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import pypdfium2

from rba_pipeline.core.documents import Section, normalise
from rba_pipeline.core.errors import DocumentRejected
from rba_pipeline.core.parsing.dates import DateEvidence
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


def read_pdf(raw: bytes) -> PrintedText:
    """Return the text of a PDF that opens without a password, page by page.

    The title is that of its properties, else its first line. Pages without text are left out.

    Raises:
        DocumentRejected: ``encrypted``, ``corrupt``, or ``no_text`` when no page has any (scanned
            pages).
    """
    stated_title, pages = _read(raw)
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


def _read(raw: bytes) -> tuple[str, list[tuple[int, str]]]:
    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(raw)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _WRONG_PASSWORD:
                raise DocumentRejected("encrypted", "the PDF needs a password") from error
            raise DocumentRejected("corrupt", f"the PDF cannot be opened: {error}") from error
        try:
            title = document.get_metadata_dict().get("Title", "")
            return title, list(_pages(document))
        except pypdfium2.PdfiumError as error:
            raise DocumentRejected("corrupt", f"the PDF breaks off: {error}") from error
        finally:
            document.close()


def _pages(document: pypdfium2.PdfDocument) -> Iterator[tuple[int, str]]:
    for number in range(1, len(document) + 1):
        page = document[number - 1]
        try:
            textpage = page.get_textpage()
            text = textpage.get_text_range()
            textpage.close()
        finally:
            page.close()
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
