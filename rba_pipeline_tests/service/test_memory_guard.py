"""How much memory a pass takes, as far as the passes before tell."""

import numpy as np
import pytest

from embedding_service.app import memory_guard
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.memory import Footprint, MemoryGuard, Seen
from embedding_service.errors import SettingRefused
from embedding_service.settings import read_settings

MIB = 2**20
IDLE = 500 * MIB


class Process:
    """A process whose passes take what ``bytes_per`` says, and whose allocator keeps it."""

    def __init__(self, *, per_token: int, per_pair: int = 0, hidden: int = 0) -> None:
        self.resident = self.peak = IDLE
        self._per_token = per_token
        self._per_pair = per_pair
        self._hidden = hidden
        """What an allocator has in store from before: growth below it does not show."""

    def run(self, guard: MemoryGuard, texts: int, longest: int) -> None:
        with guard.measured(texts, longest, tokens=texts * longest):
            tokens = texts * longest
            needed = self._per_token * tokens + self._per_pair * tokens * longest
            self.take(IDLE + needed - self._hidden - self.resident)

    def take(self, n_bytes: int) -> None:
        self.resident += max(0, n_bytes)
        self.peak = max(self.peak, self.resident)


def fits(guard: MemoryGuard, texts: int, longest: int) -> bool:
    return bool(guard.footprint.fits(np.array(texts), np.array(longest)))


def guarded(limit: int, process: Process, reserved: int = 0) -> MemoryGuard:
    """Return a guard that has seen what a warm-up shows."""
    guard = MemoryGuard(limit, lambda: (process.resident, process.peak), reserved_bytes=reserved)
    for texts, longest in ((1, 5), (1, 20), (4, 96)):
        process.run(guard, texts, longest)
    return guard


def test_nothing_is_known_to_fit_before_the_first_pass() -> None:
    assert not fits(MemoryGuard(10**12, lambda: (IDLE, IDLE)), 1, 1)


def test_what_was_seen_fits_again() -> None:
    guard = guarded(IDLE + 100 * MIB, Process(per_token=100_000))

    assert fits(guard, 4, 96)
    assert fits(guard, 2, 96)


def test_no_bound_reaches_far_beyond_what_was_seen() -> None:
    guard = guarded(10**15, Process(per_token=100_000))

    assert fits(guard, 1, 512)
    assert not fits(guard, 1, 8192)


def test_a_long_text_is_reached_in_a_few_passes_and_fits_where_it_should() -> None:
    process = Process(per_token=100_000, per_pair=1)
    guard = guarded(IDLE + 1_500 * MIB, process)
    probes = 0

    while (reach := guard.footprint.reach(8192)) < 8192:
        process.run(guard, 1, reach)
        probes += 1

    assert probes <= 6
    process.run(guard, 1, 8192)
    assert process.peak <= guard.limit_bytes


@pytest.mark.parametrize("hidden", [0, 40 * MIB])
@pytest.mark.parametrize("per_pair", [0, 144])
def test_no_pass_that_is_known_to_fit_goes_beyond_the_limit(per_pair: int, hidden: int) -> None:
    process = Process(per_token=100_000, per_pair=per_pair, hidden=hidden)
    guard = guarded(IDLE + 1_000 * MIB, process)
    before = 0

    while (reach := guard.footprint.reach(8192)) > before:
        process.run(guard, 1, reach)
        before = reach

    assert process.peak <= guard.limit_bytes
    assert before > 1000


def test_a_pass_that_took_more_than_was_promised_corrects_the_promise() -> None:
    process = Process(per_token=0)
    guard = guarded(IDLE + 200 * MIB, process)
    assert fits(guard, 1, 300)

    with guard.measured(1, 100, tokens=100):
        process.take(150 * MIB)

    assert fits(guard, 1, 100)
    assert not fits(guard, 1, 300)


def test_a_large_body_that_came_and_went_takes_nothing_from_passes() -> None:
    process = Process(per_token=100_000)
    guard = guarded(IDLE + 200 * MIB, process)
    before = guard.footprint

    process.take(5_000 * MIB)
    process.run(guard, 1, 20)
    assert not fits(guard, 4, 96)
    process.resident -= 5_000 * MIB

    assert guard.footprint == before


def test_what_others_let_go_and_a_pass_gave_back_is_not_counted_again() -> None:
    process = Process(per_token=100_000)
    guard = guarded(IDLE + 200 * MIB, process)
    guard.end_warm_up()
    before = guard.footprint

    for _ in range(60):
        process.take(50 * MIB)
        assert guard.footprint.spare_bytes == before.spare_bytes - 50 * MIB
        with guard.measured(1, 20, tokens=20):
            process.resident -= 50 * MIB

    assert guard.footprint == before


def test_others_may_take_what_is_set_aside_for_them() -> None:
    process = Process(per_token=100_000)
    guard = guarded(IDLE + 200 * MIB, process, reserved=50 * MIB)
    spare = guard.footprint.spare_bytes

    process.take(50 * MIB)
    assert guard.footprint.spare_bytes == spare == IDLE + 150 * MIB - guard.idle_bytes

    process.take(10 * MIB)
    assert guard.footprint.spare_bytes == spare - 10 * MIB


def test_what_the_warm_up_has_made_is_never_refused_later() -> None:
    process = Process(per_token=100_000)
    guard = guarded(IDLE + 200 * MIB, process)
    guard.end_warm_up()

    process.take(300 * MIB)
    process.run(guard, 1, 20)

    assert fits(guard, 4, 96)
    assert not fits(guard, 5, 96)


def test_a_pass_that_fails_teaches_nothing() -> None:
    process = Process(per_token=100_000)
    guard = guarded(10**12, process)
    before = guard.footprint

    with pytest.raises(MemoryError):
        _fail_large(process, guard)
    process.run(guard, 1, 20)

    assert guard.footprint == before


def _fail_large(process: Process, guard: MemoryGuard) -> None:
    with guard.measured(1, 2000, tokens=2000):
        process.take(10**9)
        raise MemoryError


def test_what_is_remembered_stays_small() -> None:
    process = Process(per_token=100_000)
    guard = guarded(10**12, process)

    for n in range(1, 2000):
        process.run(guard, 1 + n % 32, 1 + n % 500)

    assert len(guard.footprint.seen) < 100


def test_a_limit_that_would_bound_nothing_is_refused() -> None:
    class OnAnAccelerator(FakeBackend):
        device = "cuda"

    assert memory_guard(read_settings(), OnAnAccelerator()) is None

    with pytest.raises(
        SettingRefused, match=r"EMBEDDING_MAX_MEMORY=3221225472: .* no pass on cuda"
    ):
        memory_guard(read_settings(max_memory="3GiB"), OnAnAccelerator())


def test_a_limit_is_refused_where_nobody_tells_what_is_taken() -> None:
    def measure() -> tuple[int, int]:
        raise OSError("no VmRSS")

    assert memory_guard(read_settings(), FakeBackend(), measure) is None

    with pytest.raises(SettingRefused, match="cannot be measured: no VmRSS"):
        memory_guard(read_settings(max_memory="3GiB"), FakeBackend(), measure)


def test_a_bound_grows_with_the_square_of_the_length_only_for_longer_texts() -> None:
    known = Footprint(4000, (Seen(tokens=1000, pairs=1000 * 1000, n_bytes=1000),))

    assert known.fits(np.array([4]), np.array([1000])).tolist() == [True]
    assert known.fits(np.array([5]), np.array([1000])).tolist() == [False]
    assert known.reach(10_000) == 2000


def test_a_pass_that_was_hardly_padded_is_not_judged_by_one_that_was_padded_a_lot() -> None:
    """Only some parts of a pass are padded; the others grow with the texts' own tokens."""
    process = Process(per_token=1_000_000)
    guard = guarded(IDLE + 1000 * MIB, process)
    # Eight texts in a table of 8 x 128, seven of them of 8 tokens.
    with guard.measured(8, 128, tokens=184):
        process.take(IDLE + 184 * 1_000_000 - process.resident)

    # Full, the same table takes 1,024 MB.
    assert not fits(guard, 8, 128)
    assert fits(guard, 5, 128)


def test_a_pass_a_little_larger_may_be_filled_up_to_the_next_size() -> None:
    process = Process(per_token=100_000, per_pair=1_000)
    guard = guarded(10**12, process)
    process.run(guard, 1, 512)
    needed = guard.least_bytes - guard.idle_bytes

    assert needed >= 100_000 * 544 + 1_000 * 544**2
