import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from ropesearch.cli.progress import Bars, Lines, progress_on_stderr


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def work(report, clock, what, total, seconds_each, first=0.0):
    """Do work in equal steps, the first of which may take longer."""
    for done in range(1, total + 1):
        clock.now += first if done == 1 and first else seconds_each
        report(what, done, total)


@pytest.fixture
def lines(capsys):
    """Lines, their clock, and what they have printed."""
    clock = Clock()
    report = Lines(clock)

    def printed():
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return report, clock, printed


def test_lines_say_where_long_work_is_at_the_start_at_every_tenth_and_at_the_end(lines):
    report, clock, printed = lines
    work(report, clock, "waveforms and extrema", 134, 0.5)
    found = printed()
    assert found[0] == "waveforms and extrema: 8 % (11 of 134), 62 s left"
    assert found[1] == "waveforms and extrema: 10 % (14 of 134), 60 s left"
    assert found[-1] == "waveforms and extrema: 100 % (134 of 134), 66 s in all"
    assert [int(line.split()[3]) for line in found[1:]] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


def test_a_clock_that_jumps_stops_no_work(lines):
    report, clock, printed = lines
    for done, jump in enumerate((-1e9, 2e9, -1e9, 3600, 0), start=1):
        clock.now += jump
        report("points", done, 5)
    assert all(re.fullmatch(r"points: \d+ % \(\d of 5\), .*", line) for line in printed())


def test_lines_about_work_of_few_steps(lines):
    report, clock, printed = lines
    work(report, clock, "points", 3, 60)
    assert printed() == ["points: 66 % (2 of 3), 60 s left", "points: 100 % (3 of 3), 120 s in all"]


@pytest.mark.parametrize(("total", "each", "first"), [(134, 0.037, 0), (134, 0.001, 60), (2, 10, 0), (1, 60, 0)])
def test_no_line_about_short_work_nor_about_its_first_and_last_step_alone(lines, total, each, first):
    report, clock, printed = lines
    work(report, clock, "waveforms and extrema", total, each, first)
    work(report, clock, "choosing bases", total, each)
    assert printed() == []


def test_lines_about_one_piece_of_work_after_another(lines):
    report, clock, printed = lines
    work(report, clock, "coverage", 20, 0.1)
    work(report, clock, "texts", 2, 1)
    work(report, clock, "points", 10, 10)
    assert [line.partition(":")[0] for line in printed()] == ["points"] * 9


def test_bars_on_a_terminal_come_after_a_second_and_go_at_the_end():
    clock, screen = Clock(), io.StringIO()
    with Bars(clock, Console(file=screen, force_terminal=True, width=80)) as report:
        work(report, clock, "waveforms and extrema", 90, 0.01)
        assert screen.getvalue() == ""
        work(report, clock, "choosing bases", 20, 0.1)
        report._bars.refresh()
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())
        assert "choosing bases" in shown
        assert "100%" in shown
        assert "waveforms" not in shown
    end = screen.getvalue()[-40:]
    assert "\x1b[2K" in end  # the line of the bar is erased
    assert "\x1b[?25h" in end  # and the cursor is back


@pytest.mark.parametrize(("quiet", "terminal"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_form_is_that_of_stderr(monkeypatch, capsys, quiet, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    expected = Bars if terminal else Lines
    with progress_on_stderr(quiet=quiet) as report:
        assert isinstance(report, expected) != quiet
        report("texts", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_command_on_a_terminal_shows_bars(tmp_path):
    code = (
        "import sys; from ropesearch.cli import main, progress; progress.BARS_AFTER = 0;"
        "sys.exit(main(['compare', 'rope:1e4', 'pi:2', '--max-distance', '900', '--json']))"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        screen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux says so that the other end is closed
                break
            if not part:
                break
            screen += part
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert out.startswith('[{"name": "rope:1e4"')
    assert "sets and schemes" in screen.decode()
