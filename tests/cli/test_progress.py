"""What a person sees while a turn runs."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.cli.progress import Live, Plain, Silent, one_line, progress_for, seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (0.25, "0.25 s"), (3.21, "3.2 s"), (59.96, "60.0 s"), (245.2, "4 min 05 s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@given(st.text())
def test_news_cannot_drive_the_terminal(text: str) -> None:
    shown = one_line(text)
    assert len(shown) <= 101
    assert all(letter.isprintable() for letter in shown)


def test_plain_lines_tell_each_step_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Plain(every_s=0.0)
    progress.begin("train")
    progress.say("epoch 1\x1b[2J")
    progress.end("train", "abc, native form", 1.5, failed=False)
    progress.end("judge", "it broke", 0.1, failed=True)
    out, told = capsys.readouterr()
    assert out == ""
    assert told.splitlines() == [
        "  …         epoch 1 [2J",
        ". train     abc, native form  [1.5 s]",
        "x judge     it broke  [0.10 s]",
    ]


def test_plain_news_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Plain(every_s=1000.0)
    progress.begin("train")
    progress.say("again and again")
    assert capsys.readouterr().err == ""


def test_a_terminal_keeps_the_finished_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    live = Live()
    live.begin("train")
    live.say("[bold]not markup[/bold]")
    live.end("train", "[done] well", 2.0, failed=False)
    assert "✓ train     [done] well 2.0 s" in terminal.getvalue()


def test_the_place_decides_how_it_is_shown() -> None:
    with progress_for(json=True) as progress:
        assert isinstance(progress, Silent)
    with progress_for(json=False) as progress:
        assert isinstance(progress, Plain), "a test's standard error is no terminal"
