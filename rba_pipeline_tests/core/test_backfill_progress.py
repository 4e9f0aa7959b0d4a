"""The one line that says how far a backfill is."""

import pytest

from rba_pipeline.core.backfill_progress import Progress, Stage


@pytest.mark.parametrize(
    ("texts", "elapsed_s", "told"),
    [
        pytest.param(49, 300.0, "49 texts embedded (0.2/s)", id="slow"),
        pytest.param(5_000, 100.0, "5,000 texts embedded (50/s)", id="fast"),
        pytest.param(1, 300.0, "1 texts embedded, ", id="next-to-nothing"),
    ],
)
def test_a_speed_is_never_told_as_a_standstill(texts: int, elapsed_s: float, told: str) -> None:
    stages = {"2011-01-01": Stage.DONE, "2012-01-01": Stage.LEFT}

    assert told in str(Progress(stages, texts, elapsed_s))
