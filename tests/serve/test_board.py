"""Counts of several processes as one: nothing is lost with a process, and nothing is told as less than before."""

import os

from hypothesis import given
from hypothesis import strategies as st

from interlock.serve import board
from interlock.serve.board import SILENT_S, Board, Counts, Times, combined, shared_folder


class Hand:
    now_s = 1_000.0

    def __call__(self):
        return self.now_s


def counts(asked, waiting=0.0, mode="closed"):
    modes = {(each,): float(each == mode) for each in ("closed", "open")}
    return Counts(
        {"asked": {("/predict", "200"): asked, ("/batch", "200"): 1.0}},
        {"waiting": {(): waiting}, "mode": modes},
        {"/predict": Times([int(asked), 0], asked / 2)},
    )


RULES = {"waiting": "sum", "mode": "worst"}


def test_all_of_them_tell_the_sum(tmp_path):
    boards = [Board(tmp_path, place, Hand()) for place in range(3)]
    for place, each in enumerate(boards):
        each.post(counts(10.0 * (place + 1), waiting=place, mode="open" if place == 1 else "closed"))
    for each in boards:
        found, living = each.together(RULES)
        assert found.counters["asked"] == {("/predict", "200"): 60.0, ("/batch", "200"): 3.0}
        assert found.gauges["waiting"] == {(): 3.0}
        assert found.gauges["mode"] == {("closed",): 0.0, ("open",): 1.0}
        assert (found.times["/predict"].cells, found.times["/predict"].seconds) == ([60, 0], 30.0)
        assert living == 3


def test_a_worker_that_died_stays_counted_and_its_successor_counts_on(tmp_path):
    hand = Hand()
    first, second = Board(tmp_path, 0, hand), Board(tmp_path, 1, hand)
    first.post(counts(10.0, waiting=5.0, mode="open"))
    second.post(counts(1.0))
    hand.now_s += SILENT_S + 1.0
    second.post(counts(2.0))
    found, living = second.together(RULES)
    assert (found.counters["asked"]["/predict", "200"], living) == (12.0, 1)
    assert found.gauges == {"waiting": {(): 0.0}, "mode": {("closed",): 1.0, ("open",): 0.0}}

    successor = Board(tmp_path, 0, hand)
    assert successor.together(RULES)[0].counters["asked"]["/predict", "200"] == 12.0
    successor.post(counts(3.0))
    successor.post(counts(4.0))
    found, living = second.together(RULES)
    assert (found.counters["asked"]["/predict", "200"], living) == (16.0, 2)
    assert found.times["/predict"].cells == [16, 0]


def test_what_is_no_post_is_left_out_and_a_folder_that_is_gone_stops_nothing(tmp_path):
    one = Board(tmp_path, 0, Hand())
    one.post(counts(1.0))
    (tmp_path / "counts-1").write_text("{")
    assert one.together(RULES)[0].counters["asked"]["/predict", "200"] == 1.0
    gone = Board(tmp_path / "gone", 0, Hand())
    gone.post(counts(1.0))
    assert gone.together(RULES) == (Counts({}, {}, {}), 0)


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]).map(lambda each: (each,)), st.integers(0, 9)), max_size=5)
)
def test_rules_are_what_they_are_called(found):
    labels = {each for one in found for each in one}
    for rule, over in (("sum", sum), ("max", max), ("min", min)):
        assert combined(found, rule) == {each: over([one[each] for one in found if each in one]) for each in labels}
    worst = combined(found, "worst")
    assert sum(worst.values()) == float(any(value for one in found for value in one.values()))


def test_what_lies_on_the_disk_of_all_is_no_sum():
    found = [{("memory",): 1.0, ("disk",): 7.0}, {("memory",): 2.0, ("disk",): 8.0}]
    assert combined(found, "sum") == {("memory",): 3.0, ("disk",): 8.0}


def test_the_folder_is_for_one_user_and_gone_at_the_end():
    with shared_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.access(folder, os.W_OK)
        (folder / "counts-0").write_text("x")
    assert not folder.exists()


def test_what_a_killed_server_left_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "_MEMORY", tmp_path)
    left, used = tmp_path / "interlock-serve-left", tmp_path / "interlock-serve-used"
    for each in (left, used):
        each.mkdir()
        (each / "counts-0").write_text("x")
    os.utime(left, (0, 0))
    with shared_folder() as folder:
        assert folder.parent == tmp_path
        assert not left.exists()
        assert used.exists()
