"""What several commands share."""

import pytest

from rba_pipeline.command_options import ProgressLine


def test_a_log_without_a_terminal_gets_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now_s = 0.0
    say = ProgressLine(lambda: now_s)

    for file in range(1, 101):
        now_s = 0.25 * file
        say("files", file, 100)
    say("partitions", 1, 2_000)

    assert capsys.readouterr().err == "40 of 100 files\n80 of 100 files\n"
    now_s += 10
    say("partitions", 1_999, 2_000)
    assert capsys.readouterr().err == "1,999 of 2,000 partitions\n"
