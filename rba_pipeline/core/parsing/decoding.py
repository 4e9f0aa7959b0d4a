"""Which characters the bytes of a text file stand for."""

import codecs
import re

from rba_pipeline.core.errors import DocumentRejected

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""")
# Browsers read these names as Windows-1252 (WHATWG Encoding Standard, "windows-1252").
_LATIN = {"iso-8859-1", "iso8859-1", "latin-1", "latin1", "us-ascii", "ascii", "cp1252"}
# No others: Python also knows "charsets" such as unicode_escape, which run on what they decode.
_TRUSTED = re.compile(
    r"utf-?8|(?:windows|cp)-?125\d|iso-?8859-\d{1,2}|koi8-[ru]|gbk|gb2312|gb18030|big5|shift[_-]jis"
    r"|euc-(?:jp|kr)|mac-?roman|macintosh"
)
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]")


def decode(raw: bytes, *, declares: bool = False) -> str:
    """Return the text of ``raw`` by the first of these that fits, on every machine alike.

    1. A byte order mark (UTF-8, UTF-16, UTF-32).
    2. With ``declares``, the character set named in the first 1,024 bytes (an HTML page).
    3. UTF-8 without an error.
    4. Windows-1252, if it has no control characters and at most 3 in 10 characters beyond ASCII.

    Raises:
        DocumentRejected: ``undecodable``: none of them fits, or it is binary: more controls than
            one in a hundred characters and more than 8.
    """
    text = _by_mark(raw)
    if text is None and declares:
        text = _by_declaration(raw)
    if text is None:
        text = _attempt(raw, "utf-8")
    if text is None:
        text = _by_plausibility(raw)
    if text is None:
        raise DocumentRejected(
            "undecodable", "the bytes are neither UTF-8, UTF-16 nor Windows-1252 text"
        )
    controls = len(_CONTROLS.findall(text))
    if controls > max(8, len(text) // 100):
        raise DocumentRejected(
            "undecodable", f"{controls} control characters: this is binary, not text"
        )
    return text


def _attempt(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _by_mark(raw: bytes) -> str | None:
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), None)
    return None if encoding is None else _attempt(raw, encoding)


def _by_declaration(raw: bytes) -> str | None:
    match = _DECLARED.search(raw[:1024])
    if match is None:
        return None
    name = match.group(1).decode("ascii").lower()
    if name in _LATIN:
        name = "windows-1252"
    return _attempt(raw, name) if _TRUSTED.fullmatch(name) else None


def _by_plausibility(raw: bytes) -> str | None:
    text = _attempt(raw, "windows-1252")
    if text is None or _CONTROLS.search(text):
        return None
    return text if len(_BEYOND_ASCII.findall(text)) <= 0.3 * len(text) else None
