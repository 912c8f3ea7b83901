"""Records as text."""

from msgspec.structs import replace

from interlock.cli import render
from interlock.errors import NotFound, UserCodeFailed
from interlock.records import Audit, BatchResult, Release
from interlock.release.canary import Tally, Trial


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    lines = render.table(("n", "name"), [(1, "a"), (100, "long name")], right=(0,))
    assert lines == ["  n  name", "---  ---------", "  1  a", "100  long name"]


def test_an_error_has_its_kind_the_fact_and_the_next_step() -> None:
    assert render.error(NotFound("No.", next_step="Look.")) == ["NotFound: No.", "Next: Look."]


def test_the_users_own_traceback_stands_between() -> None:
    problem = UserCodeFailed("It raised.", traceback='File "train.py", line 3\n', next_step="Mend it.")
    assert render.error(problem) == ["UserCodeFailed: It raised.", "", 'File "train.py", line 3', "", "Next: Mend it."]


def test_a_release_without_last_good_says_so() -> None:
    live = Release(generation=1, champion="c" * 64, last_good=None, baseline="b" * 64, cause="gate", because="better")
    assert "  last good  none yet" in render.release(live)


def test_a_challenger_is_shown_with_what_its_trial_still_needs() -> None:
    live = Release(
        generation=2, champion="c" * 64, last_good=None, baseline="b" * 64, cause="gate", because="better",
        challenger="d" * 64,
    )  # fmt: skip
    assert "  challenger dddddddddddd" in render.release(live)
    trial = Trial(
        began=2, challenger="d" * 64, champion="c" * 64, baseline="b" * 64, receipt=1, share=0.25, shadow=True,
        key="", rows=1_000, duration_s=5_400.0, tolerated=0.001, alarm=1e6, since="",
    )  # fmt: skip
    nothing = Tally(worker="all")
    assert render.trial(trial, nothing, 31.0) == [
        "  trial      dddddddddddd (entry 1) in shadow at 25 % for 31 s: 0 of 1,000 records answered, at least 1.5 h"
    ]
    seen = Tally(worker="all", asked=412, answered=410, failed=2, compared=400, agreed=380)
    told, failed = render.trial(trial, seen, 720.0)
    assert told.endswith("at 25 % for 12 min: 410 of 1,000 records answered, at least 1.5 h")
    assert failed == (
        "             failed 2 of 412 that another model answered; 380 of 400 answers agree with the champion's"
    )
    timed = replace(seen, duels=20, slower=3, times={"challenger": {"100": 20}, "champion": {"96": 20}})
    assert render.trial(replace(trial, slower=2.0), timed, 720.0)[2] == (
        "             for the same records it took 6 ms in the median, the champion 4.3 ms, and in 3 of 20 duels it "
        "took more than 2 times as long"
    )


def test_a_refused_batch_shows_the_failed_audits_only() -> None:
    result = BatchResult(
        name="a.csv", digest="d", status="refused", generation=1, model="m", rows=2, scored=1, quarantined=1,
        reason="Half is bad.",
        audits=(Audit(name="rows", passed=False, reason="1 of 2"), Audit(name="finite", passed=True, reason="all")),
    )  # fmt: skip
    assert render.batch_result(result) == ["a.csv: refused. Half is bad.", "  rows: 1 of 2"]


def test_who_stood_in_for_the_champion_is_shown() -> None:
    result = BatchResult(
        name="a.csv", digest="d", status="published", generation=2, model="m" * 64, tier="last-good", rows=2, scored=2,
        quarantined=0, output="predictions/a.parquet", form="linear", reason="The champion is damaged.",
    )  # fmt: skip
    assert render.batch_result(result) == [
        "a.csv: 2 rows scored by the last good model mmmmmmmmmmmm for release 2 (linear) -> predictions/a.parquet",
        "  The champion is damaged.",
    ]
