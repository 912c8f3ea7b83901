"""How a turn is told: one sentence, one next step, one exit code."""

import msgspec
import pytest

from interlock.outcome import Problem, TurnResult, batch_note, conclude, files_note
from interlock.records import BatchResult, Check, Decision, FileResult, Release

RELEASE = Release(generation=3, champion="c" * 64, last_good=None, baseline="b" * 64, cause="gate", because="better")
BATCH = BatchResult(
    name="today.csv", digest="d" * 64, status="published", generation=3, model="c" * 64, rows=5, scored=5, quarantined=0
)
REFUSED = FileResult(
    source="data",
    name="bad.csv",
    digest="e" * 64,
    size_bytes=1,
    status="refused",
    reason="Half is bad.",
    next_step="Mend it.",
)


def _decision(verdict: str) -> Decision:
    check = Check(name="champion", passed=verdict == "promote", on_fail="keep", reason="because")
    return Decision(verdict=verdict, candidate="a" * 64, champion="c" * 64, reason="So it is.", checks=(check,))


def _told(**facts: object) -> tuple[str, str, str, int]:
    done = TurnResult(turn="t", **facts)
    outcome, sentence, next_step = conclude(done, ["inbox"])
    return outcome, sentence, next_step, msgspec.structs.replace(done, outcome=outcome).exit_code


def test_a_release_is_told_with_its_generation() -> None:
    outcome, sentence, next_step, code = _told(
        snapshot="s", decision=_decision("promote"), receipt=9, released=True, release=RELEASE
    )
    assert (outcome, code) == ("released", 0)
    assert sentence.startswith("Release 3: aaaaaaaaaaaa is live. So it is.")
    assert "interlock report" in next_step


def test_a_challenger_is_told_and_is_no_release() -> None:
    tried = msgspec.structs.replace(
        RELEASE, challenger="a" * 64, because="aaaaaaaaaaaa is challenger in canary at 10 %"
    )
    outcome, sentence, next_step, code = _told(
        snapshot="s", decision=_decision("promote"), receipt=9, challenger="a" * 64, release=tried
    )
    assert (outcome, code) == ("canary", 0)
    assert sentence == "Release 3: aaaaaaaaaaaa is challenger in canary at 10 %"
    assert "interlock status" in next_step
    assert _told(snapshot="s", release=tried)[1] == (
        "Nothing new to learn from: release 3 (cccccccccccc) stays, with challenger aaaaaaaaaaaa."
    )


@pytest.mark.parametrize(("verdict", "outcome"), [("keep", "kept"), ("hold", "held")])
def test_a_refusal_exits_with_one_and_names_the_entry(verdict: str, outcome: str) -> None:
    found, sentence, next_step, code = _told(snapshot="s", decision=_decision(verdict), receipt=9, release=RELEASE)
    assert (found, code) == (outcome, 1)
    assert "So it is." in sentence
    assert "--decision 9" in next_step


def test_without_rows_the_inbox_or_the_refused_file_is_named() -> None:
    assert _told()[1:] == ("There are no accepted rows to learn from yet.", "Put a data file into inbox.", 0)
    outcome, sentence, next_step, code = _told(files=(REFUSED,))
    assert (outcome, code) == ("waiting", 1)
    assert "bad.csv" in sentence
    assert next_step == "Mend it."


def test_nothing_new_is_said_with_what_was_published() -> None:
    outcome, sentence, _, code = _told(snapshot="s", release=RELEASE, batches=(BATCH,))
    assert (outcome, code) == ("unchanged", 0)
    assert "Nothing new" in sentence
    assert "5 predictions published from 1 file" in sentence


def test_a_refused_batch_or_file_is_never_silent() -> None:
    held = msgspec.structs.replace(BATCH, status="refused", reason="Too far.", next_step="Look.")
    _, sentence, next_step, code = _told(snapshot="s", release=RELEASE, batches=(held,))
    assert (next_step, code) == ("Look.", 1)
    assert "today.csv was not published: Too far." in sentence
    _, sentence, next_step, code = _told(snapshot="s", release=RELEASE, files=(REFUSED,))
    assert code == 1
    assert "bad.csv was not taken in: Half is bad." in sentence
    assert next_step == "Mend it."


def test_a_problem_gives_the_turn_its_exit_code() -> None:
    problem = Problem(step="train", code="UserCodeFailed", message="It raised.", next_step="Mend it.", exit_code=3)
    outcome, sentence, next_step, code = _told(snapshot="s", release=RELEASE, problems=(problem,))
    assert (outcome, next_step, code) == ("failed", "Mend it.", 3)
    assert sentence == "The turn could not do 'train'. It raised."


def test_a_step_that_was_done_all_the_same_is_told_by_what_it_did() -> None:
    problem = Problem(
        step="batch", code="ChampionDamaged", message="It is damaged.", next_step="Restore it.", exit_code=3, done=True
    )
    outcome, sentence, next_step, code = _told(snapshot="s", release=RELEASE, problems=(problem,), batches=(BATCH,))
    assert (outcome, next_step, code) == ("failed", "Restore it.", 3)
    assert sentence == "5 predictions published from 1 file. It is damaged."
    assert _told(snapshot="s", release=RELEASE, problems=(problem,))[1] == "Nothing new to score. It is damaged."


def test_notes_count_in_words() -> None:
    accepted = FileResult(
        source="data", name="a.csv", digest="f", size_bytes=1, status="accepted", rows=3, accepted=1, duplicates=2
    )
    assert files_note([]) == "no new file"
    assert files_note([accepted, REFUSED]) == "1 new row from 1 file, 2 duplicates, refused: bad.csv"
    assert batch_note([]) == "nothing new to score"
