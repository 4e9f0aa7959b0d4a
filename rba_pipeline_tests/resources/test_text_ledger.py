"""The ledger of texts: each is entered once, and given away once."""

from collections.abc import Iterator

import pytest

from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import RecordFull, RecordMissing
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline_tests.resources.sample_records import sha256
from rba_pipeline_tests.resources.test_store_root import limited_file_size

A, B, C, D = map(sha256, "abcd")


@pytest.fixture
def ledger() -> Iterator[TextLedger]:
    with TextLedger() as opened:
        opened.add([(A, 1), (B, 2), (C, 4), (A, 1)])
        yield opened


def test_every_text_is_entered_once_with_its_tokens(ledger: TextLedger) -> None:
    assert ledger.totals() == (3, 7, 3)
    assert list(ledger.rows()) == [(A, 1, None), (B, 2, None), (C, 4, None)]


def test_a_state_is_given_to_those_that_were_entered(ledger: TextLedger) -> None:
    ledger.settle([A, D], "reused")
    ledger.settle([B], "embedded")
    ledger.settle([B], "truncated")

    assert ledger.totals() == (3, 7, 1)
    assert list(ledger.rows()) == [(A, 1, "reused"), (B, 2, "truncated"), (C, 4, None)]


def test_entering_a_text_again_leaves_its_state(ledger: TextLedger) -> None:
    ledger.settle([A], "reused")

    ledger.add([(D, 8), (A, 1), (D, 8)])

    assert list(ledger.rows()) == [(A, 1, "reused"), (B, 2, None), (C, 4, None), (D, 8, None)]
    assert ledger.take([A, D]) == {D}


def test_a_text_without_a_state_is_taken_once(ledger: TextLedger) -> None:
    ledger.settle([B], "reused")

    assert ledger.take([A, B, D]) == {A}
    assert ledger.take([A, C]) == {C}
    assert ledger.take([A, C]) == set()


def test_texts_without_a_state_are_yielded_once_in_their_order(ledger: TextLedger) -> None:
    texts = [Text(sha256(letter), letter, 1) for letter in "cbacdab"]
    ledger.settle([B], "held")

    assert [text.text for text in ledger.take_texts(texts)] == ["c", "a"]


def test_texts_that_are_not_there_any_more_are_missed(ledger: TextLedger) -> None:
    texts = ledger.take_texts([Text(A, "a", 1), Text(C, "c", 1)])

    with pytest.raises(RecordMissing, match="1 texts are not among the chunks any more"):
        list(texts)


def test_more_texts_than_are_looked_up_at_once_are_all_found() -> None:
    hashes = [sha256(str(number)) for number in range(3000)]
    with TextLedger() as ledger:
        ledger.add((name, 1) for name in hashes)

        assert ledger.take(hashes) == set(hashes)
        assert ledger.totals() == (3000, 3000, 0)


def test_a_ledger_that_cannot_grow_says_where_room_is_needed() -> None:
    with (
        pytest.raises(RecordFull, match="SQLITE_TMPDIR"),
        limited_file_size(100_000),
        TextLedger() as ledger,
    ):
        ledger.add((sha256(str(number)), 1) for number in range(300_000))


def test_a_ledger_without_room_for_its_index_says_so_as_well() -> None:
    ledger = TextLedger()
    ledger.add((sha256(str(number)), 1) for number in range(300_000))

    with pytest.raises(RecordFull, match="SQLITE_TMPDIR"), limited_file_size(100_000), ledger:
        ledger.totals()
