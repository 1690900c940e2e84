"""Progress on standard error: lines when piped, bars in a terminal, both with rate and time left."""

from __future__ import annotations

import io
import sys
import time

import pytest

from dataengine.cli.output import progress
from dataengine.cli.progress import rate_text, time_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_piped_command_tells_a_line_in_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress(clock) as tell:
        tell("shards", 20, 512)  # found done: no work of this run
        for done in range(21, 121):
            clock.now += 0.32
            tell("shards", done, 512)
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 3, "100 items in 32 s, one line in 10 s"
    # after 32 items, 10.24 s: 3.125/s, so 460 more take 147 s
    assert lines[0] == "shards 52/512, 3.1/s, about 2 min left"
    assert lines[2] == "shards 116/512, 3.1/s, about 2 min left"


def test_lines_of_several_stages_share_the_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress(clock) as tell:
        tell("survey", 0, 4)
        clock.now += 12
        tell("survey", 4, 4)
        tell("shards", 0, 9000)
        clock.now += 600
        tell("shards", 5, 9000)
        clock.now += 30
        tell("shards", 5, 9000)
    assert capsys.readouterr().err.splitlines() == [
        "survey 4/4, 20.0/min",
        "shards 5/9,000, 30.0/h, about 12.5 days left",
        "shards 5/9,000, 28.6/h, about 13.1 days left",
    ]


def test_a_quick_command_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        for done in range(100):
            tell("files", done, 100)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress() as tell:
        tell("shards", 1000, 2000)
        for done in range(1001, 1041):
            time.sleep(0.01)
            tell("shards", done, 2000)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "shards" in shown
    assert "1040/2000" in shown
    rates = [float(part.split("/s")[0].split()[-1].split("m")[-1]) for part in shown.split("\n") if "/s" in part]
    assert rates
    assert max(rates) < 200, "what was found done counts as speed"
    assert "0:00:" in shown.rsplit("1040/2000", 1)[1], "no time left is shown"


@pytest.mark.parametrize(
    ("rate", "told"),
    [(1234.0, "1,234/s"), (3.14, "3.1/s"), (1.0, "1.0/s"), (0.5, "30.0/min"), (0.01, "36.0/h"), (1e-9, "0.0/h")],
)
def test_rates(rate: float, told: str) -> None:
    assert rate_text(rate) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (42.4, "42 s"), (61, "1 min"), (5399, "90 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_times(seconds: float, told: str) -> None:
    assert time_text(seconds) == told
