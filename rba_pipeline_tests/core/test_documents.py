"""What a file becomes, and which files become nothing."""

import re
from dataclasses import replace
from datetime import date
from importlib.resources import files as package_files

import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st

from rba_pipeline.core.documents import (
    Parsed,
    Section,
    Stated,
    content_hash,
    document_id,
    normalise,
)
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.dates import DateEvidence, day_in, day_in_name, filing_date
from rba_pipeline.core.parsing.decoding import decode
from rba_pipeline.core.parsing.files import parse
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline_tests.bad_documents import circular_pdf
from rba_pipeline_tests.resources.sample_pdf import sample_pdf

REASONS = {"empty", "undecodable", "unsupported", "encrypted", "no_text", "corrupt", "undated"}
DAY = Stated("x", date="2020-02-03")


def page(content: str, head: str = "") -> bytes:
    return f"<html><head>{head}</head><body>{content}</body></html>".encode()


def parsed(raw: bytes, path: str = "x.html", stated: Stated | None = DAY) -> Parsed:
    return parse(raw, path=path, stated=stated)


def rejection(raw: bytes, path: str, stated: Stated | None = DAY) -> str:
    with pytest.raises(DocumentRejected) as caught:
        parse(raw, path=path, stated=stated)
    assert caught.value.detail
    return caught.value.reason


# Clean-up


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a\x00b\x07c", "abc", id="controls-go"),
        pytest.param("a\tb\u00a0c\u202fd", "a b c d", id="tab-and-no-break-spaces-are-spaces"),
        pytest.param("a\r\nb\rc\fd", "a\nb\nc\nd", id="every-line-end-is-a-newline"),
        pytest.param("a\ud83db\udc00", "ab", id="lone-surrogates-go"),
        pytest.param("e\u0301", "é", id="composed"),
        pytest.param("a  \nb ", "a\nb", id="trailing-spaces-go"),
        pytest.param("bank\x92s \x96 1", "bank’s – 1", id="stray-windows-1252"),
        pytest.param("\ufeffa\u00adb\uffff", "ab", id="marks-and-noncharacters-go"),
        pytest.param("👩\u200d🔬", "👩\u200d🔬", id="joined-emoji-stay"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_normalising_twice_changes_nothing_and_the_result_can_be_stored(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", once)
    once.encode()


def test_two_thousand_combining_marks_are_no_trouble() -> None:
    assert normalise("a" + "\u0301" * 2000).startswith("á")


# Identity


def test_a_document_is_named_by_its_corpus_and_canonical_address() -> None:
    name = document_id("rba", "https://Example.org/a?b=1#top")

    assert re.fullmatch("[0-9a-f]{32}", name)
    assert name == document_id("rba", "http://example.org/a?b=1")
    assert name != document_id("other", "http://example.org/a?b=1")
    assert name != document_id("rba", "http://example.org/a?b=2")


PARSED = Parsed("T", None, "s", date(2020, 1, 1), "manifest", (Section("h", 1, None, "t"),))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(PARSED, title="U"), id="title"),
        pytest.param(replace(PARSED, url="https://example.org"), id="url"),
        pytest.param(replace(PARSED, series="r"), id="series"),
        pytest.param(replace(PARSED, published_on=date(2020, 1, 2)), id="date"),
        pytest.param(replace(PARSED, sections=(Section("h", 1, 2, "t"),)), id="sections"),
    ],
)
def test_the_content_hash_covers_what_downstream_uses(changed: Parsed) -> None:
    assert content_hash(changed) != content_hash(PARSED)


def test_the_content_hash_does_not_tell_how_a_date_was_found() -> None:
    assert content_hash(replace(PARSED, dated_by="title")) == content_hash(PARSED)


# Characters


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param("dé".encode(), "dé", id="utf-8"),
        pytest.param("dé".encode("utf-8-sig"), "dé", id="utf-8-with-mark"),
        pytest.param("dé".encode("utf-16"), "dé", id="utf-16"),
        pytest.param("dé".encode("utf-32"), "dé", id="utf-32"),
        pytest.param(b"a plain \x93bank\x94", "a plain “bank”", id="windows-1252"),
        pytest.param(b"a few \x00 controls", "a few \x00 controls", id="few-controls-are-text"),
    ],
)
def test_decoding(raw: bytes, expected: str) -> None:
    assert decode(raw) == expected


def test_a_page_may_declare_its_characters_but_not_a_codec_that_runs_them() -> None:
    greek = '<meta charset="iso-8859-7">τ'.encode("iso-8859-7")
    escaped = b'<meta charset="unicode_escape">\\x41'

    assert decode(greek, declares=True).endswith("τ")
    assert decode(escaped, declares=True).endswith("\\x41")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(bytes(range(256)) * 4, id="every-byte"),
        pytest.param(b"\x00\x01" * 100, id="controls"),
        pytest.param("ab".encode("utf-16-le") * 20, id="utf-16-without-mark"),
        pytest.param(b"\xff\xfea", id="broken-utf-16"),
    ],
)
def test_binary_is_not_taken_for_text(raw: bytes) -> None:
    assert rejection(raw, "x.txt") == "undecodable"


# The filing date


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Sydney – 3 October 2006", date(2006, 10, 3), id="day-month-year"),
        pytest.param("5 and 6 August 2024", date(2024, 8, 6), id="last-day-of-a-meeting"),
        pytest.param("19–20 December 2024", date(2024, 12, 20), id="last-day-of-a-range"),
        pytest.param("October 3, 2006", date(2006, 10, 3), id="month-first"),
        pytest.param("on 2006-10-03.", date(2006, 10, 3), id="iso"),
        pytest.param("31 June 2006, 1 Jul 2006", date(2006, 7, 1), id="impossible-day-is-skipped"),
        pytest.param("3/10/2006", None, id="ambiguous-figures"),
        pytest.param("October 2006", None, id="no-day"),
        pytest.param("3 May 1066", None, id="out-of-any-range"),
    ],
)
def test_day_in_words(text: str, expected: date | None) -> None:
    assert day_in(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("minutes/2018/2018-02-06.html", date(2018, 2, 6), id="iso"),
        pytest.param("minutes/2006/03102006.html", date(2006, 10, 3), id="day-first"),
        pytest.param("a/20061003.txt", date(2006, 10, 3), id="year-first"),
        pytest.param("pdf/2_May_2023.pdf", date(2023, 5, 2), id="words"),
        pytest.param("media-releases/2021/mr-21-03.html", None, id="a-number-is-no-date"),
        pytest.param("rdp/2024/2024-10.html", None, id="a-paper-number-is-no-month"),
    ],
)
def test_day_in_a_name(name: str, expected: date | None) -> None:
    assert day_in_name(name) == expected


def test_rules_apply_in_their_order_whatever_the_order_of_the_evidence() -> None:
    path = DateEvidence("path", "2001-01-01.html")
    shown = DateEvidence("page:speech-date", "2 January 2002")

    assert filing_date(None, [path, shown]) == (date(2002, 1, 2), "page:speech-date")
    assert filing_date("2003-03-03", [path, shown]) == (date(2003, 3, 3), "manifest")


def test_a_wrong_date_in_the_manifest_is_never_replaced_by_a_guess() -> None:
    with pytest.raises(DocumentRejected, match=r"undated: the manifest says date '3\.5\.2020'"):
        filing_date("3.5.2020", [DateEvidence("path", "2001-01-01.html")])


def test_a_month_without_a_day_is_the_last_resort() -> None:
    raw = page('<div id="content"><h1>Paper, May 2020</h1><p>x</p></div>')

    assert parsed(raw, "a/b.html", None).published_on == date(2020, 5, 1)
    assert parsed(raw, "a/2020-05-09.html", None).dated_by == "path"


def test_the_date_in_the_head_of_a_page_is_not_used() -> None:
    raw = page('<div id="content"><p>x</p></div>', '<meta name="dc.date" content="2020-01-01">')

    assert rejection(raw, "x.html", None) == "undated"


def test_what_a_page_shows_goes_before_its_markup() -> None:
    raw = page(
        '<div id="content"><h1>F</h1><div class="box-article-date">Release date: '
        '<time datetime="2024-08-30">30&nbsp;September&nbsp;2024</time></div><p>x</p></div>'
    )

    assert parsed(raw, stated=None).published_on == date(2024, 9, 30)


# Pages

RELEASE = """<div id="content"><nav>menu</nav>
<h1 class="page-title"><span class="page-title-prefix">Media Release</span>
<span class="rss-mr-title">Statement by Nobody:<br> Monetary&nbsp;Policy</span></h1>
<div class="box-article-info"><div class="item"><span class="key">Date</span>
<span class="value">{when}</span></div></div>
<p>Rate 4.35&nbsp;per&nbsp;cent,\r\n the bank&#146;s.</p>
<h2>Why</h2><ul><li>One</li><li>Two</li></ul>
<div class="box-enquiries"><h2>Enquiries</h2><p>phone</p></div>
<aside><div id="mp-related-links" class="nav-page-contents">links</div></aside></div>"""
ADDRESS = '<meta name="dcterms.identifier" content="https://bank.example/media-releases/1.html">'


@pytest.mark.parametrize(
    ("when", "rule"),
    [
        pytest.param(
            '<time class="rss-mr-date" datetime="2020-05-04">4 May 2020</time>',
            "page:rss-mr-date",
            id="newer",
        ),
        pytest.param("4&nbsp;May&nbsp;2020", "page:article-info", id="older"),
    ],
)
def test_both_layouts_of_media_releases(when: str, rule: str) -> None:
    result = parsed(page(RELEASE.format(when=when), ADDRESS), stated=None)

    assert (result.title, result.dated_by) == ("Statement by Nobody: Monetary Policy", rule)
    assert result.series == "media-release/monetary-policy-decision"
    assert (result.url, result.published_on) == (
        "https://bank.example/media-releases/1.html",
        date(2020, 5, 4),
    )
    assert result.sections == (
        Section(result.title, 1, None, "Date: 4 May 2020\n\nRate 4.35 per cent, the bank’s."),
        Section("Why", 2, None, "• One\n\n• Two"),
    )


def test_a_speech_keeps_notes_and_descriptions_of_graphs() -> None:
    raw = page(
        '<div id="content"><h1 class="rss-speech-title">'
        '<span class="page-title-prefix">Speech</span> Money</h1>'
        '<p>Text<sup><a href="#fn1">[1]</a></sup></p><figure><figcaption>Graph 1'
        '</figcaption><img alt="Graph 1: a line"></figure><figure><img alt="logo"></figure>'
        '<div class="footnotes"><h2>Endnotes</h2><p class="footnote">See there. '
        '<a class="back-to-reference">[1]</a></p></div></div>'
    )

    result = parsed(raw)

    assert result.title == "Money"
    assert [section.text for section in result.sections] == [
        "Text[1]\n\nGraph 1: a line",
        "[1] See there.",
    ]


def test_a_table_reads_row_by_row_under_one_header() -> None:
    raw = page(
        '<div id="content"><table><caption>Credit</caption><thead><tr><th></th>'
        '<th colspan="2">Monthly</th><th></th></tr><tr><td></td><th>Oct</th><th>Nov</th><td></td>'
        "</tr></thead><tbody><tr>"
        "<th>Total</th><td>0.6</td><td>0.5</td><td></td></tr>"
        '<tr><th rowspan="2">Parts</th><td>1</td>'
        "<td>2</td></tr><tr><td>3</td><td>4</td></tr></tbody><tfoot><tr><td>Source: us</td></tr>"
        "</tfoot></table></div>"
    )

    assert parsed(raw).sections[0].text == (
        "Credit\n| Monthly Oct | Monthly Nov\nTotal | 0.6 | 0.5\nParts | 1 | 2\nParts | 3 | 4"
        "\n\nSource: us"
    )


def test_a_cell_that_claims_a_billion_columns_costs_nothing() -> None:
    raw = page('<table><tr><td colspan="999999999" rowspan="999999999">x</td></tr></table>')

    assert "x" in parsed(raw).sections[0].text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("<nav>n</nav><main><h1>T</h1>{}</main><footer>f</footer>", id="main"),
        pytest.param("<header>h</header><article><h1>T</h1>{}</article>", id="only-article"),
        pytest.param("<nav>n</nav><form><h1>T</h1>{}</form><footer>f</footer>", id="whole-form"),
    ],
)
def test_of_other_pages_the_main_content_is_read(content: str) -> None:
    body = "<p>Words<script>s</script></p><form><input><label>Search</label></form>"

    assert parsed(page(content.format(body))).sections == (Section("T", 1, None, "Words"),)


def test_a_heading_without_text_leads_the_deeper_one() -> None:
    raw = page('<div id="content"><h2>Outlook</h2><h3>Prices</h3><p>x</p><h2>Empty</h2></div>')

    assert [section.heading for section in parsed(raw).sections] == ["Outlook – Prices"]


def test_deep_nesting_is_no_trouble() -> None:
    assert parsed(page("<div>" * 5000 + "x")).sections[0].text == "x"


# Text, Markdown, PDF


def test_a_text_file_has_its_first_line_for_title() -> None:
    result = parsed(b"A title\r\n3 May 2020\r\n\r\nOne\r\nline\r\n\r\nTwo", "a.txt", None)

    assert (result.title, result.published_on, result.dated_by) == (
        "A title",
        date(2020, 5, 3),
        "text:head",
    )
    assert result.sections[0].text == "3 May 2020\n\nOne\nline\n\nTwo"


def test_markdown_headings_are_sections_and_its_front_matter_dates_it() -> None:
    text = (
        "---\ndate: 2020-05-03\n---\n# T\nintro\n\nUnder\n---\n```\n# code\n```\n| a | b |\n"
        "|---|---|\n| 1 | 2 |\n"
    )

    result = parsed(text.encode(), "a.md", None)

    assert (result.title, result.dated_by) == ("T", "front-matter")
    assert [(section.heading, section.level) for section in result.sections] == [
        ("T", 1),
        ("Under", 2),
    ]
    assert result.sections[1].text.endswith("a | b\n1 | 2")


def test_a_pdf_is_read_page_by_page() -> None:
    result = parsed(sample_pdf(), "report.pdf", None)

    assert [section.page for section in result.sections] == [1, 2]
    assert (result.published_on, result.dated_by) == (date(2022, 7, 11), "text:head")
    assert "\n\nThe doors did not. The inner door is built" in result.sections[0].text
    assert result.title.startswith("Report on the Earthquake Drill")


def test_the_committed_pdf_is_what_its_program_makes() -> None:
    committed = package_files("rba_pipeline") / "sample_corpus/publications/2022/vault-drill.pdf"

    assert parsed(committed.read_bytes(), "a.pdf", None) == parsed(sample_pdf(), "a.pdf", None)


def test_a_broken_word_is_mended_only_if_it_stands_whole_elsewhere() -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("helvetica", size=12)
    pdf.multi_cell(0, 6, "Prices follow supply-\ndemand and infor-\nmation. More information.")

    text = parsed(bytes(pdf.output()), "a.pdf").sections[0].text

    assert text == "Prices follow supply-demand and information. More information."


def test_a_pdf_or_page_is_known_under_another_ending() -> None:
    assert parsed(sample_pdf(), "report.txt").sections[0].page == 1
    assert parsed(b"<!DOCTYPE html><p>words", "page.txt").sections[0].text == "words"


# What becomes nothing


def encrypted_pdf() -> bytes:
    pdf = FPDF()
    pdf.set_encryption(owner_password="o", user_password="u")
    pdf.add_page()
    return bytes(pdf.output())


def blank_pdf() -> bytes:
    pdf = FPDF()
    pdf.add_page()
    return bytes(pdf.output())


@pytest.mark.parametrize(
    ("raw", "path", "reason"),
    [
        pytest.param(b"", "a.txt", "empty", id="no-bytes"),
        pytest.param(b" \n\t", "a.md", "empty", id="only-spaces"),
        pytest.param(b"... !\n--", "a.txt", "empty", id="only-stops"),
        pytest.param(b"<html><nav>menu</nav></html>", "a.html", "empty", id="page-without-content"),
        pytest.param(b"PK\x03\x04", "a.docx", "unsupported", id="office"),
        pytest.param(b"words", "noending", "unsupported", id="no-ending"),
        pytest.param(b"words", "a.pdf", "corrupt", id="no-pdf"),
        pytest.param(sample_pdf()[:300], "a.pdf", "corrupt", id="cut-off"),
        pytest.param(sample_pdf()[:-200], "a.pdf", "corrupt", id="cut-off-near-its-end"),
        pytest.param(encrypted_pdf(), "a.pdf", "encrypted", id="password"),
        pytest.param(blank_pdf(), "a.pdf", "no_text", id="scanned"),
    ],
)
def test_rejections(raw: bytes, path: str, reason: str) -> None:
    assert rejection(raw, path) == reason


def test_a_pdf_is_not_called_encrypted_because_the_one_before_was() -> None:
    assert rejection(encrypted_pdf(), "a.pdf") == "encrypted"

    assert rejection(circular_pdf(), "a.pdf") == "corrupt"


@pytest.mark.parametrize(
    ("raw", "path", "limits", "reason"),
    [
        pytest.param(sample_pdf(), "a.pdf", ParseLimits(max_pages=1), "too_many_pages", id="pages"),
        pytest.param(
            sample_pdf(), "a.pdf", ParseLimits(max_characters=1000), "too_large", id="text-of-pages"
        ),
        pytest.param(
            b"a\n\n" + b"x" * 998, "a.txt", ParseLimits(max_characters=1000), "too_large", id="text"
        ),
        pytest.param(
            b"<p>" + b"x" * 1001, "a.html", ParseLimits(max_characters=1000), "too_large", id="page"
        ),
    ],
)
def test_a_file_beyond_a_limit_is_stopped(
    raw: bytes, path: str, limits: ParseLimits, reason: str
) -> None:
    with pytest.raises(ParsingStopped) as caught:
        parse(raw, path=path, stated=DAY, limits=limits)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("raw", "path", "limits"),
    [
        pytest.param(sample_pdf(), "a.pdf", ParseLimits(max_pages=2), id="pages"),
        pytest.param(b"a\n\n" + b"x" * 997, "a.txt", ParseLimits(max_characters=1000), id="text"),
        pytest.param(b"<p>" + b"x" * 1000, "a.html", ParseLimits(max_characters=1000), id="page"),
    ],
)
def test_a_file_exactly_at_a_limit_is_a_document(
    raw: bytes, path: str, limits: ParseLimits
) -> None:
    assert parse(raw, path=path, stated=DAY, limits=limits).sections


def outcome(raw: bytes, path: str) -> tuple[str, list[str]]:
    try:
        return "", [section.text for section in parse(raw, path=path, stated=DAY).sections]
    except DocumentRejected as rejected:
        return rejected.reason, []


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)),
    st.sampled_from(["a.txt", "a.md", "a.html", "a.pdf"]),
)
def test_any_bytes_are_a_document_or_a_rejection_with_a_known_reason(raw: bytes, path: str) -> None:
    prefix = b"%PDF-1.4\n" if path == "a.pdf" else b""

    reason, texts = outcome(prefix + raw, path)

    assert (reason in REASONS) != bool(texts)
    assert all(text and normalise(text) == text for text in texts)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        pytest.param(b"a" + b" " * 1_000_000 + b"b", "a.txt", id="spaces"),
        pytest.param(b"# a" + b" #" * 500_000 + b"b", "a.md", id="hashes"),
        pytest.param(b"a\n|" + b"-" * 1_000_000 + b"x", "a.md", id="dashes"),
        pytest.param(b"<p>" + b" \n" * 500_000 + b"x", "a.html", id="lines"),
    ],
)
@pytest.mark.timeout(20)
def test_a_monotonous_file_takes_linear_time(raw: bytes, path: str) -> None:
    assert parsed(raw, path).sections


def test_an_address_that_is_none_names_nothing() -> None:
    stated = Stated("x", date="2020-02-03", url="https://[broken")

    assert parsed(b"words", "x.txt", stated).url is None
