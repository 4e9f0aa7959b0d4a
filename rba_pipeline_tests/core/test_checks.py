"""Counts in, verdicts out: which promise each fault breaks, and what is said of it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rba_pipeline.core.checks import (
    KeptVectors,
    ServedRows,
    as_catalogued,
    corpus_adds_up,
    unique_chunk_ids,
)
from rba_pipeline.core.embeddings import NORM_TOLERANCE, Space
from rba_pipeline.core.promises import CHECKS, FINITE, SENTINEL, ChecksFailed, Verdict, require

SPACE = Space("a" * 32, "oracle", 4, {})
UNIT = np.eye(4, dtype=np.float32)
ROWS = ServedRows(
    space=SPACE, chunks=10, withheld=2, rows=8, foreign=0, faulty=0, documents=3, recorded=3,
    known=Space("a" * 32, "oracle", 4, {"told": "more"}),
)  # fmt: skip

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def broken(verdicts: list[Verdict]) -> dict[str, str]:
    """Return what did not pass, and what is said of it."""
    return {each.check: each.said for each in verdicts if not each.passed}


def kept(*parts: tuple[str, str | None, NDArray[np.float32]], **counts: int) -> KeptVectors:
    found = KeptVectors(SPACE, **{"texts": 4, "outcomes": 4, **counts})
    for part in parts:
        found.add(*part)
    return found


def with_first(value: float) -> NDArray[np.float32]:
    changed = UNIT.copy()
    changed[0, 0] = value
    return changed


def test_vectors_as_they_should_be_pass_every_check() -> None:
    edge = UNIT * np.float32(1 + 0.9 * NORM_TOLERANCE)

    verdicts = kept(("a", SPACE.id, UNIT), ("b", None, edge)).verdicts()

    assert broken(verdicts) == {}
    assert [each.check for each in verdicts] == [
        check.name for check in CHECKS["embeddings"] if check is not SENTINEL
    ]


@pytest.mark.parametrize(
    ("check", "space", "vectors", "said"),
    [
        pytest.param("finite", None, with_first(np.nan), "1 vectors hold NaN", id="nan"),
        pytest.param("finite", None, with_first(-np.inf), "1 vectors hold NaN", id="infinity"),
        pytest.param("unit_norm", None, with_first(0.0), "1 vectors do not", id="zero"),
        pytest.param("unit_norm", None, UNIT * 1.002, "4 vectors do not have length", id="long"),
        pytest.param(
            "dimension", None, np.eye(4, 5, dtype=np.float32),
            "4 vectors do not have 4 dimensions", id="another-length",
        ),
        pytest.param("space", "b" * 32, UNIT, "were not made in space aaaa", id="another-space"),
    ],
)  # fmt: skip
def test_a_bad_vector_breaks_the_promise_that_it_breaks_and_names_its_file(
    check: str, space: str | None, vectors: NDArray[np.float32], said: str
) -> None:
    found = broken(kept(("good", SPACE.id, UNIT), ("bad", space, vectors)).verdicts())

    assert list(found) == [check]
    assert said in found[check]
    assert "in bad (" in found[check]
    assert "remove the files named" in found[check]


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"missing": 1}, id="a-text-without-a-vector"),
        pytest.param({"outcomes": 3}, id="a-text-without-an-outcome"),
    ],
)
def test_every_text_has_a_vector_or_a_reason(counts: dict[str, int]) -> None:
    assert list(broken(kept(("a", None, UNIT), **counts).verdicts())) == ["one_vector_per_text"]


def test_of_many_files_the_first_are_named_and_the_others_counted() -> None:
    [said] = broken(kept(*((f"part-{n}", None, UNIT * 2) for n in range(7))).verdicts()).values()

    assert "28 vectors" in said
    assert "part-4 (4) and 2 more" in said
    assert "part-5" not in said


def test_rows_as_they_should_be_pass_every_check() -> None:
    assert broken(ROWS.verdicts()) == {}


@pytest.mark.parametrize(
    ("check", "change", "said"),
    [
        ("one_vector_per_chunk", {"rows": 7}, "8 rows are due, 7 of them are there"),
        ("one_vector_per_chunk", {"rows": 9}, "9 of them"),
        ("one_vector_per_chunk", {"foreign": 1}, "1 that are not due"),
        ("unit_vectors", {"faulty": 2}, "2 rows do not have 4 dimensions and length 1"),
        ("space", {"known": None}, "and unknown in the database"),
        ("space", {"known": replace(SPACE, model="b")}, "'b' with 4 dimensions in the database"),
        ("documents_published", {"documents": 2}, "2 documents in the database, 3 in the record"),
    ],
)
def test_rows_that_are_not_as_recorded_break_one_promise(
    check: str, change: dict[str, int], said: str
) -> None:
    found = broken(replace(ROWS, **change).verdicts())

    assert list(found) == [check]
    assert said in found[check]
    assert "nothing was published" in found[check]


@pytest.mark.parametrize(
    ("have", "said"),
    [
        ("AB", ""),
        ("BA", ""),
        ("A", "lacks 1 documents, and holds 0"),
        ("ABC", "lacks 0 documents, and holds 1"),
        ("ABB", "lacks 0 documents, and holds 1"),
        ("AC", "lacks 1 documents, and holds 1"),
    ],
)
def test_documents_are_those_of_the_catalogue(have: str, said: str) -> None:
    verdict = as_catalogued("file", have, "AB")

    assert verdict.passed is (not said)
    assert said in verdict.said


@pytest.mark.parametrize(
    ("kept", "distinct", "passed"), [(3, 3, True), (2, 2, False), (4, 3, False), (3, 2, False)]
)
def test_chunks_are_kept_as_they_were_cut(kept: int, distinct: int, passed: bool) -> None:
    assert unique_chunk_ids("file", cut=3, kept=kept, distinct=distinct).passed is passed


@pytest.mark.parametrize(
    ("served", "waiting"),
    [
        pytest.param({"a": ("2011", "1"), "b": ("2012", "2")}, "", id="all-there"),
        pytest.param({"a": ("2011", "1")}, "2012 (1)", id="new"),
        pytest.param({"a": ("2011", "1"), "b": ("2012", "0")}, "2012 (1)", id="changed"),
        pytest.param({"a": ("2011", "1"), "b": ("2012", None)}, "2012 (1)", id="other-space"),
        pytest.param({"a": ("2011", "1"), "b": ("2013", "2")}, "2012 (1)", id="moved"),
        pytest.param(
            {"a": ("2011", "1"), "b": ("2012", "2"), "c": ("2014", "3")}, "2014 (1)", id="gone"
        ),
    ],
)
def test_the_sum_over_partitions_is_the_corpus_or_it_is_said_which_ones_wait(
    served: dict[str, tuple[str, str | None]], waiting: str
) -> None:
    filed = {"a": ("2011", "1"), "b": ("2012", "2")}

    verdict = corpus_adds_up(
        files=3, quarantined=1, filed=filed, served=served, ran=("2011", "2012", "2013", "2014")
    )
    before_any_other = corpus_adds_up(
        files=3, quarantined=1, filed=filed, served=served, ran=("2011",)
    )

    assert verdict.passed is (not waiting)
    assert not verdict.stops
    assert waiting in verdict.said
    assert before_any_other.passed


def test_only_what_fails_and_is_no_warning_stops_and_the_message_has_the_remedy() -> None:
    fine, warned = FINITE.verdict(), SENTINEL.verdict("it is away", is_warning=True)
    bad = FINITE.verdict("1 vectors are bad", vectors=1)

    assert require([fine, warned]) == [fine, warned]
    with pytest.raises(ChecksFailed, match=r"^finite: 1 vectors are bad\. What .* remove") as error:
        require([fine, warned, bad])
    assert error.value.verdicts == (fine, warned, bad)


@pytest.mark.parametrize("asset", CHECKS)
def test_every_check_has_a_name_of_its_own_and_says_what_to_do(asset: str) -> None:
    names = [check.name for check in CHECKS[asset]]

    assert len(set(names)) == len(names)
    for check in CHECKS[asset]:
        assert check.description == f"{check.promise} If not: {check.remedy}"
        assert check.promise.endswith(".")
        assert check.remedy.endswith(".")
