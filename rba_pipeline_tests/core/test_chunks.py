"""Passages that the model reads whole, with ids that stay."""

from dataclasses import replace
from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rba_pipeline.core.chunks import Chunker, ChunkSettings, passage_of
from rba_pipeline.core.documents import Document, Section
from rba_pipeline.core.errors import BadSetting
from rba_pipeline_tests.oracle_service import tokenizer_json

TOKENIZER = Tokenizer.from_str(tokenizer_json().decode())
SENTENCE = "The ferry operator reported that tolls rose by 2½ per cent over the quarter. "


def chunker(size: int = 64, overlap: int = 16, prompt: str = "") -> Chunker:
    return Chunker(ChunkSettings(size, overlap, prompt, "tokenizer"), tokenizer_json().decode())


def document(*sections: Section, title: str = "Invented minutes") -> Document:
    return Document(
        document_id="d" * 32,
        corpus="invented",
        path="a.html",
        series="board-minutes",
        title=title,
        url=None,
        published_on=date(2013, 6, 4),
        dated_by="title",
        sections=sections,
        sha256="",
        content_hash="",
    )


def section(text: str, heading: str = "", page: int | None = None) -> Section:
    return Section(heading, 2 if heading else 0, page, text)


def true_length(text: str, prompt: str = "") -> int:
    return len(TOKENIZER.encode(prompt + text).ids)


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=3000), st.sampled_from(["", "search_document: "]))
def test_no_chunk_is_longer_than_the_model_takes_prompt_included(text: str, prompt: str) -> None:
    cutter = chunker(size=48, overlap=8, prompt=prompt)

    chunks = list(cutter.cut(document(section(text.encode(errors="ignore").decode() or "x"))))

    assert all(chunk.tokens == true_length(chunk.text, prompt) <= 48 for chunk in chunks)


def test_all_words_of_a_section_are_in_its_chunks() -> None:
    text = "\n\n".join(f"{SENTENCE}Paragraph {number} ends here." for number in range(20))

    chunks = list(chunker().cut(document(section(text))))

    found = " ".join(passage_of(chunk.text) for chunk in chunks)
    assert all(f"Paragraph {number} ends here." in found for number in range(20))
    assert len(chunks) > 5


def test_a_chunk_never_crosses_a_section_and_knows_heading_page_and_place() -> None:
    parts = [section("One thing.", "First", 1), section("Another thing.", "Second", 2)]

    chunks = list(chunker().cut(document(*parts)))

    assert [(c.ordinal, c.section, c.page, c.start) for c in chunks] == [
        (0, "First", 1, 0),
        (1, "Second", 2, len("One thing.") + 2),
    ]
    assert [passage_of(chunk.text) for chunk in chunks] == ["One thing.", "Another thing."]


def test_ids_are_stable_and_differ_for_a_repeated_text() -> None:
    parts = [section("Same words.", "Same"), section("Same words.", "Same")]

    first = [chunk.chunk_id for chunk in chunker().cut(document(*parts))]
    again = [chunk.chunk_id for chunk in chunker().cut(document(*parts))]

    assert first == again
    assert len(set(first)) == 2


def test_overlap_repeats_the_end_of_the_chunk_before() -> None:
    text = " ".join(f"Sentence number {number} is short." for number in range(30))

    chunks = [
        passage_of(chunk.text)
        for chunk in chunker(size=64, overlap=16).cut(document(section(text)))
    ]

    assert all(second.split(".")[0] in first for first, second in pairwise(chunks))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"size": 65}, id="size"),
        pytest.param({"overlap": 17}, id="overlap"),
        pytest.param({"prompt": "search_document: "}, id="prompt"),
        pytest.param({"tokenizer_sha256": "other"}, id="tokenizer"),
    ],
)
def test_whatever_changes_the_cut_changes_the_chunking_id(change: dict[str, object]) -> None:
    one = ChunkSettings(64, 16, "", "tokenizer")

    assert replace(one, **change).chunking_id != one.chunking_id


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        pytest.param(31, 0, "chunk_tokens=31: allowed is 32 to 8192", id="too-small"),
        pytest.param(8193, 0, "chunk_tokens=8193", id="too-large"),
        pytest.param(64, 33, "chunk_overlap=33: allowed is 0 to 32", id="overlap-over-half"),
        pytest.param(64, -1, "chunk_overlap=-1", id="negative-overlap"),
    ],
)
def test_a_size_out_of_range_is_refused_with_the_range(
    size: int, overlap: int, message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        ChunkSettings(size, overlap, "", "tokenizer")


def test_a_long_title_leaves_room_for_the_passage() -> None:
    chunks = list(chunker().cut(document(section(SENTENCE * 3), title="Statement " * 200)))

    assert all(chunk.tokens <= 64 for chunk in chunks)
    assert all("ferry" in passage_of(chunk.text) for chunk in chunks[:1])


def test_a_chunk_is_led_by_month_and_heading_or_title() -> None:
    parts = [section("One thing."), section("Another thing.", "The Decision")]

    texts = [chunk.text for chunk in chunker().cut(document(*parts))]

    assert texts == [
        "June 2013. Invented minutes.\n\nOne thing.",
        "June 2013. The Decision.\n\nAnother thing.",
    ]


def test_a_document_without_sections_has_no_chunks() -> None:
    assert list(chunker().cut(document())) == []
