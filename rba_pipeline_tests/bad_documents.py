"""Makes the files that nobody wants to meet, the same bytes each time, and says what they become.

All names hold a date, so that none is quarantined merely for the want of one.
"""

import io
import random
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fpdf import FPDF

from rba_pipeline_tests.resources.sample_pdf import sample_pdf

SEED = 20120503
MEBIBYTE = 2**20
WORDS = "Tolls on the harbour bridge were kept for another quarter."


@dataclass(frozen=True, slots=True)
class Case:
    """One file: the number and name of its case, and what makes its bytes.

    Attributes:
        expected: The reason code of a bad file; of a strange but good one, its text.
    """

    id: str
    ending: str
    make: Callable[[], bytes]
    expected: str

    @property
    def path(self) -> str:
        return f"2012/{self.id}_2012-05-03{self.ending}"


def noise(size: int = 4096) -> bytes:
    """Return random bytes, the same each time."""
    return random.Random(SEED).randbytes(size)


# PDF


def pdf(*objects: bytes, trailer: bytes = b"") -> bytes:
    """Return a PDF of ``objects``, numbered from 1; the first is its catalogue."""
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<</Size %d/Root 1 0 R%b>>\n" % (len(objects) + 1, trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def stream(content: bytes, about: bytes = b"") -> bytes:
    """Return a stream object."""
    return b"<</Length %d%b>>stream\n%b\nendstream" % (len(content), about, content)


def one_page(
    contents: bytes, *more: bytes, resources: bytes = b"", catalogue: bytes = b""
) -> bytes:
    """Return a PDF of one page: objects 1 to 4 are its own, ``more`` are 5 and on."""
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R%b>>" % catalogue,
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<<%b"
        b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>" % resources,
        contents,
        *more,
    )


def shown(text: str) -> bytes:
    """Return the contents of a page that shows ``text``."""
    return stream(b"BT /F 12 Tf 50 700 Td (%b) Tj ET" % text.encode("ascii"))


def flate_bomb(mebibytes: int = 10 * 1024) -> bytes:
    """Return a stream that inflates to spaces, a thousand times its size.

    A block that ends with a full flush can be repeated as it is.
    """
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packing.compress(b" " * MEBIBYTE) + packing.flush(zlib.Z_FULL_FLUSH)
    packed = b"\x78\xda" + block * mebibytes + b"\x03\x00" + bytes(4)
    return stream(packed, b"/Filter/FlateDecode")


def locked_pdf(user_password: str) -> bytes:
    made = FPDF()
    made.set_creation_date(datetime(2012, 5, 3, tzinfo=UTC))
    made.set_encryption(owner_password="owner", user_password=user_password)
    made.add_page()
    made.set_font("helvetica", size=12)
    made.multi_cell(0, 6, WORDS)
    return bytes(made.output())


def image_only_pdf() -> bytes:
    image = b"/Type/XObject/Subtype/Image/Width 8/Height 8/ColorSpace/DeviceGray/BitsPerComponent 8"
    return one_page(
        stream(b"q 400 0 0 400 100 200 cm /I Do Q"),
        stream(noise(64), image),
        resources=b"/XObject<</I 5 0 R>>",
    )


def looping_pdf() -> bytes:
    """Return a PDF whose table of objects names itself as its predecessor."""
    whole = one_page(shown(WORDS))
    start = whole.rindex(b"xref\n0 ")
    return whole.replace(b"/Root 1 0 R", b"/Root 1 0 R/Prev %d" % start)


def circular_pdf() -> bytes:
    """Return a PDF whose tree of pages holds itself."""
    return pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]>>")


def many_pages_pdf(pages: int = 100_000) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(3, pages + 3))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"
    root = b"<</Type/Pages/Kids[%b]/Count %d>>" % (kids, pages)
    return pdf(b"<</Type/Catalog/Pages 2 0 R>>", root, *[page] * pages)


def scripted_pdf() -> bytes:
    """Return a PDF that would run a script, and carries an attachment with a date and words."""
    script = b"/OpenAction<</S/JavaScript/JS(this.getField\\('secret'\\))>>"
    attached = (
        b"/Names<</EmbeddedFiles<</Names[(a.txt)<</Type/Filespec/F(a.txt)/EF<</F 5 0 R>>>>]>>>>"
    )
    return one_page(shown(WORDS), stream(b"attached secret words"), catalogue=script + attached)


def xfa_bomb_pdf() -> bytes:
    return one_page(shown(WORDS), flate_bomb(), catalogue=b"/AcroForm<</Fields[]/XFA 5 0 R>>")


# Other files


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def zip_bomb() -> bytes:
    return zipped("word/document.xml", bytes(20 * MEBIBYTE))


def wide_lines() -> bytes:
    """Return a text within every limit but the memory's: each character takes four bytes there."""
    return ("Title\n" + "\U0001d4ae toll\n" * 1_200_000).encode()


def endless_page() -> bytes:
    """Return a small page that takes minutes: each menu is looked for in all that is around it."""
    return b"<html><body><p>%b</p>" % WORDS.encode() + b"<div><nav>menu</nav>" * 50_000


def strange_text() -> str:
    """Return a text with all that must be cleaned before anything is hashed."""
    return "\r\n".join(
        (
            "Toll\x00s on\x07 the bridge\x1b",
            "A bank\x92s caf\u00e9 and cafe\u0301,\ta\u00a0\u202fspace",
            "\u00adsoft \ufeff\uffff mark",
            "right \u202eto left\u202c, a scientist \U0001f469\u200d\U0001f52c",
            "and a" + "\u0301" * 2000,
        )
    )


BAD = (
    Case("T1-no-bytes", ".txt", lambda: b"", "empty"),
    Case("T1-only-spaces", ".md", lambda: b" \n\t\r\n" * 100, "empty"),
    Case("T1-only-stops", ".txt", lambda: b"... !\n--\n?", "empty"),
    Case("T1-empty-after-cleaning", ".txt", lambda: "\u00ad\ufeff\x07".encode() * 4, "empty"),
    Case("T1-page-of-menus", ".html", lambda: b"<html><nav>menu</nav></html>", "empty"),
    Case("T2-noise-as-text", ".txt", noise, "undecodable"),
    Case("T2-noise-as-page", ".html", noise, "undecodable"),
    Case("T2-noise-as-pdf", ".pdf", noise, "corrupt"),
    Case("T2-noise-in-a-pdf", ".pdf", lambda: b"%PDF-1.7\n" + noise() + b"%%EOF", "corrupt"),
    Case("T2-page-as-pdf", ".pdf", lambda: b"<html><p>words</p></html>", "corrupt"),
    Case("T2-utf-16-without-mark", ".txt", lambda: WORDS.encode("utf-16-le"), "undecodable"),
    Case("T3-line-of-20-MB", ".txt", lambda: b"toll " * 4_000_000, "too_large"),
    Case("T3-wide-lines", ".txt", wide_lines, "bomb"),
    Case("T6-encrypted", ".pdf", lambda: locked_pdf("user"), "encrypted"),
    Case("T6-image-only", ".pdf", image_only_pdf, "no_text"),
    Case("T6-cut-to-a-third", ".pdf", lambda: cut(0.33), "corrupt"),
    Case("T6-cut-to-nine-tenths", ".pdf", lambda: cut(0.9), "corrupt"),
    Case("T6-cut-by-a-few-bytes", ".pdf", lambda: sample_pdf().rstrip()[:-3], "corrupt"),
    Case("T6-circle-of-pages", ".pdf", circular_pdf, "corrupt"),
    Case("T6-100000-pages", ".pdf", many_pages_pdf, "too_many_pages"),
    Case("T6-flate-bomb", ".pdf", lambda: one_page(flate_bomb()), "bomb"),
    Case("T6-page-of-elements", ".html", lambda: b"<p>a" * 4_000_000, "bomb"),
    Case("T6-endless", ".html", endless_page, "timeout"),
    Case("T8-zip", ".zip", zip_bomb, "unsupported"),
    Case("T8-docx", ".docx", zip_bomb, "unsupported"),
    Case("T8-zip-bomb-as-text", ".txt", zip_bomb, "undecodable"),
    Case("T8-zip-bomb-as-pdf", ".pdf", zip_bomb, "corrupt"),
    Case("T8-zip-slip", ".md", lambda: zipped("../../escaped.txt", noise()), "undecodable"),
)

# What is strange, but good: the words that its document must hold.
GOOD = (
    Case("T2-utf-8-with-mark", ".txt", lambda: marked(WORDS, "utf-8-sig"), WORDS),
    Case("T2-utf-16", ".txt", lambda: marked(WORDS, "utf-16"), WORDS),
    Case("T2-windows-1252", ".txt", lambda: marked("The caf\u00e9 \u2013 closed.", "cp1252"),
         "The caf\u00e9 \u2013 closed."),
    Case("T2-mixed-newlines", ".txt", lambda: b"Title\r\n\rTolls\r\nstay\rthe\nsame.",
         "Tolls\nstay\nthe\nsame."),
    Case("T2-pdf-as-page", ".html", lambda: one_page(shown(WORDS)), WORDS),
    Case("T4-strange-characters", ".txt", lambda: marked(strange_text(), "utf-8"),
         "Tolls on the bridge"),
    Case("T6-empty-password", ".pdf", lambda: locked_pdf(""), WORDS),
    Case("T6-script-and-attachment", ".pdf", scripted_pdf, WORDS),
    Case("T6-xfa-bomb", ".pdf", xfa_bomb_pdf, WORDS),
    Case("T6-xref-loop", ".pdf", looping_pdf, WORDS),
)  # fmt: skip


def cut(share: float) -> bytes:
    whole = sample_pdf()
    return whole[: int(len(whole) * share)]


def marked(text: str, encoding: str) -> bytes:
    return f"Title\n\n{text}".encode(encoding)
