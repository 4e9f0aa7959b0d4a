"""``python -m embedding_service check``: the contract holds, or the check says how it is broken."""

from collections.abc import Sequence

import numpy as np
import pytest

from embedding_service.__main__ import main
from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.backend.fake import FakeBackend
from embedding_service.check import Extent, run
from embedding_service.engine.deviation import Deviation, deviation
from embedding_service.engine.invariance import check_contract
from embedding_service.engine.passes import too_large
from embedding_service.engine.policy import BatchLimits
from embedding_service.settings import read_settings

LIMITS = BatchLimits(max_texts=8, max_padded_tokens=256)


class Leaky(FakeBackend):
    """Vectors depend on the neighbours, but only in batches larger than the self-test's."""

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        vectors = super().encode(batch)
        if len(batch) > 5:
            vectors[:, 0] += np.float32(1e-3)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def test_a_model_that_keeps_the_contract_passes() -> None:
    backend = FakeBackend(max_tokens=96, native_tokens=64)

    report = check_contract(backend, LIMITS, batches=100, threads=4)

    assert report.passed
    assert report.compositions >= 100
    assert (report.worst_delta, report.texts > 100) == (0, True)


def test_long_texts_are_in_it_padded_to_each_other_and_to_no_others() -> None:
    backend = FakeBackend(max_tokens=96, native_tokens=64)

    report = check_contract(backend, LIMITS, batches=100, threads=4)

    long = [batch for batch in backend.batches if max(batch) > 64]
    assert len(long) > 2 * 3
    assert sum(map(len, long)) == report.long_texts
    assert all(min(batch) > 64 for batch in long)
    assert any(min(batch) < max(batch) for batch in long)


def test_a_model_that_breaks_it_in_some_batches_is_found_out() -> None:
    report = check_contract(Leaky(), LIMITS, batches=50, threads=8)

    assert not report.passed
    assert report.worst_delta > 1e-5


@pytest.mark.parametrize(
    ("backend", "code", "said"),
    [
        pytest.param(FakeBackend(), 0, "result        passed", id="kept"),
        pytest.param(Leaky(), 1, "result        FAILED", id="broken"),
        pytest.param(FakeBackend(), 0, "long texts    0: none are taken", id="no-long-texts"),
    ],
)
def test_the_exit_code_and_the_table_say_the_same(
    backend: FakeBackend, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(read_settings(), Extent(batches=50, threads=8, seed=1), backend)

    assert found == code
    assert said in capsys.readouterr().out


def test_a_model_that_fails_is_a_failed_check(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(batch: Sequence[TokenIds]) -> None:
        raise ValueError("bad numbers")

    code = run(read_settings(), Extent(1, 1, 0), FakeBackend(before_encode=fail))

    assert code == 1
    assert "failed: bad numbers" in capsys.readouterr().err


def test_refused_settings_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL", "/no/such/model")

    assert main(["check", "--batches", "1"]) == 2


@pytest.mark.parametrize("arguments", [["--batches", "0"], ["--threads", "x"]])
def test_an_extent_that_means_nothing_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])

    assert ended.value.code == 2


def test_a_vector_that_is_not_finite_is_never_allowed() -> None:
    good = np.eye(3, dtype=np.float32)

    found = Deviation().worst(deviation(good * np.float32("nan"), good))

    assert not found.allowed("fp32")
    assert not found.allowed("bf16")


def test_other_precisions_are_held_to_the_cosine() -> None:
    found = Deviation(delta=1e-3, cosine=0.99995)

    assert found.allowed("int8")
    assert not found.allowed("fp32")
    assert not Deviation(cosine=0.9998).allowed("bf16")


def test_texts_that_do_not_fit_into_memory_are_left_out_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(batch: Sequence[TokenIds]) -> None:
        if max(map(len, batch)) > 80:
            raise too_large("a text", 80)

    backend = FakeBackend(max_tokens=96, native_tokens=64, before_encode=refuse)

    code = run(read_settings(), Extent(batches=50, threads=4, seed=0), backend)

    assert code == 0
    assert "left out      1: they need more memory" in capsys.readouterr().out
