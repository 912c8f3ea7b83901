"""Following what the sender counts."""

from pathlib import Path

import msgspec

from interlock.load.drive import _command, _Tail
from interlock.load.plan import Plan
from interlock.load.tally import Interval


def line(begin_s: float) -> bytes:
    return msgspec.json.encode(Interval(begin_s=begin_s, end_s=begin_s + 1, tiers={"champion": 1})) + b"\n"


def test_lines_are_read_once_and_only_when_they_are_whole(tmp_path: Path) -> None:
    seen: list[Interval] = []
    tail = _Tail(tmp_path / "tally", seen.append)
    tail.look()
    path = tmp_path / "tally"
    path.write_bytes(line(0) + line(1)[:10])
    tail.look()
    assert [each.begin_s for each in seen] == [0]
    path.write_bytes(line(0) + line(1))
    tail.look()
    tail.look()
    assert [each.begin_s for each in tail.intervals] == [0, 1]


def test_a_run_that_began_anew_is_the_one_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "tally"
    path.write_bytes(line(0) + line(1) + b"null\n" + line(0))
    tail = _Tail(path, lambda _: None)
    tail.look()
    assert len(tail.intervals) == 1


def test_every_run_has_an_end() -> None:
    plan = Plan(url="http://127.0.0.1:1", route="/predict", bodies=(), users=7, duration_s=2.5, seed=0)
    words = _command(plan, None)
    assert words[words.index("--run-time") + 1] == "18s"
    assert words[words.index("--stop-timeout") + 1] == "10"
    assert "--headless" in words
    shown = _command(plan, 8_089)
    assert shown[shown.index("--web-host") + 1] == "127.0.0.1"
    assert shown[shown.index("--autoquit") + 1] == "0"
    assert "--headless" not in shown
