"""What the ending of a file's name says: whether, and as what, it is read."""

import posixpath

from rba_pipeline.core.errors import DocumentRejected

HTML = (".html", ".htm", ".xhtml")
MARKDOWN = (".md", ".markdown")
TEXT = (".txt", ".text")
PDF = (".pdf",)


def require_supported(path: str) -> None:
    """Refuse a file whose ending says that it need not be read at all.

    Raises:
        DocumentRejected: ``unsupported``.
    """
    if not path.lower().endswith((*HTML, *MARKDOWN, *TEXT, *PDF)):
        ending = posixpath.splitext(path)[1] or "no ending"
        raise DocumentRejected("unsupported", f"{ending}: known are HTML, PDF, text and Markdown")
