"""What makes a partition missing, stale or current."""

import pytest

from rba_pipeline.core.standings import Served, Standing, State, standing


def judged(wanted: dict[str, str], *served: Served, is_recorded: bool = True) -> Standing:
    return standing("2013-01-01", wanted, served, is_recorded=is_recorded)


def document(name: str, content: str = "v1", *, in_space: bool = True, cut: bool = True) -> Served:
    return Served(name, content, is_in_space=in_space, is_cut_so=cut)


def test_a_partition_that_search_knows_nothing_of_is_missing() -> None:
    found = judged({"a": "v1", "b": "v1"}, is_recorded=False)

    assert (found.state, found.documents, found.new) == (State.MISSING, 2, 2)


def test_a_partition_as_it_was_published_is_current() -> None:
    found = judged({"a": "v1", "b": "v1"}, document("a"), document("b"))

    assert (found.state, found.reasons) == (State.CURRENT, ())


@pytest.mark.parametrize(
    ("wanted", "served", "counts"),
    [
        ({"a": "v1", "b": "v1"}, [document("a")], (1, 0, 0)),
        ({"a": "v2"}, [document("a")], (0, 1, 0)),
        ({"a": "v1"}, [document("a"), document("b")], (0, 0, 1)),
        ({}, [document("a")], (0, 0, 1)),
        ({"b": "v1"}, [document("a")], (1, 0, 1)),
    ],
    ids=["new", "changed", "gone", "all-gone", "replaced"],
)
def test_a_changed_source_makes_it_stale(
    wanted: dict[str, str], served: list[Served], counts: tuple[int, int, int]
) -> None:
    found = judged(wanted, *served)

    assert (found.state, found.reasons) == (State.STALE, ("source",))
    assert (found.new, found.changed, found.gone) == counts


def test_another_space_another_chunking_and_a_lost_record_make_it_stale() -> None:
    assert judged({"a": "v1"}, document("a", in_space=False)).reasons == ("space",)
    assert judged({"a": "v1"}, document("a", cut=False)).reasons == ("chunking",)
    assert judged({"a": "v1"}, document("a"), is_recorded=False).reasons == ("record",)


def test_a_text_that_is_to_be_sent_again_makes_it_stale() -> None:
    found = standing("", {"a": "v1"}, [document("a")], is_recorded=True, to_send_again=1)

    assert (found.state, found.reasons) == (State.STALE, ("retry",))


def test_a_document_that_changed_is_not_counted_again_for_its_space_or_chunking() -> None:
    found = judged({"a": "v2"}, document("a", in_space=False, cut=False))

    assert (found.changed, found.in_other_space, found.cut_otherwise) == (1, 0, 0)
