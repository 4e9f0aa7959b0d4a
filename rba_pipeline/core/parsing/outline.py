"""Paragraphs gathered under headings, as any parser meets them, become sections."""

import re

from rba_pipeline.core.documents import Section, normalise

_SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_AROUND_NEWLINES = re.compile(r" *\n *")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def tidy(text: str) -> str:
    """Return ``text`` normalised and stripped, with single spaces and no empty lines."""
    spaced = _AROUND_NEWLINES.sub("\n", _SPACES.sub(" ", normalise(text)))
    return re.sub("\n+", "\n", spaced).strip()


def one_line(text: str) -> str:
    """Return ``text`` tidied onto one line."""
    return tidy(text).replace("\n", " ")


def says_something(text: str) -> bool:
    """Return whether ``text`` has a letter or a digit."""
    return _LETTER_OR_DIGIT.search(text) is not None


class Outline:
    """Collects headings and paragraphs in reading order.

    A heading without text of its own leads the deeper heading that follows it ("Outlook – Prices"),
    so that its words are not lost; otherwise it is dropped. The title at level 1 never leads.
    """

    def __init__(self, heading: str = "", level: int = 0) -> None:
        self._sections: list[Section] = []
        self._heading = heading
        self._level = level
        self._paragraphs: list[str] = []

    def heading(self, text: str, level: int) -> None:
        """Begin a section; an empty heading is ignored."""
        text = one_line(text)
        if not text:
            return
        leads = not self._paragraphs and 1 < self._level < level
        title = f"{self._heading} – {text}" if leads else text
        self._close()
        self._heading, self._level = title, level

    def paragraph(self, text: str) -> None:
        """Add a paragraph, newlines kept; one without letter or digit is ignored."""
        text = tidy(text)
        if says_something(text):
            self._paragraphs.append(text)

    def sections(self) -> tuple[Section, ...]:
        """Return the sections that have text; none when nothing had."""
        self._close()
        return tuple(self._sections)

    def _close(self) -> None:
        if self._paragraphs:
            text = "\n\n".join(self._paragraphs)
            self._sections.append(Section(self._heading, self._level, None, text))
        self._paragraphs = []
