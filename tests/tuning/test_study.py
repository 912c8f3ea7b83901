import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import Conflict, SettingsError
from interlock.settings import Dimension, Tune
from interlock.tuning.standing import TrialRecord
from interlock.tuning.study import STARTUP_TRIALS, Asked, Study, held, require_optuna
from interlock.tuning.trial import Course, GivenUp, TrialEnd

SPACE = {
    "rate": Dimension(low=0.001, high=1.0, log=True),
    "depth": Dimension(low=1, high=9, step=2),
    "kind": Dimension(choices=("a", True, 3)),
}
TRIALS = STARTUP_TRIALS + 8


def score_of(params: dict[str, Any]) -> float:
    return -((params["rate"] - 0.1) ** 2) - 0.01 * (params["depth"] - 5) ** 2


def opened(journal: Path, **tune: Any) -> Study:
    require_optuna()
    kept = {"trials": TRIALS, "space": SPACE} | tune
    return Study(journal, "q", Tune(**kept), seed=3, greater_is_better=True)


def end(asked: Asked) -> TrialEnd:
    return TrialEnd(score=score_of(asked.params), seconds=1.0)


def run(journal: Path, *, stop_after: int | None = None) -> list[TrialRecord]:
    """Trials to the end, or to the one after ``stop_after`` more, which is left running."""
    study = opened(journal)
    study.resume()
    made = 0
    while study.begun < TRIALS:
        asked = study.ask({"rate": 0.5, "depth": 3} if study.begun == 0 else None)
        if made == stop_after:
            return study.records()
        study.complete(asked, end(asked))
        made += 1
    return study.records()


def test_a_search_that_was_cut_short_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "whole.log")
    for stop_after in (0, 1, 3, 7, 2):
        run(tmp_path / "cut.log", stop_after=stop_after)
    assert run(tmp_path / "cut.log") == undisturbed
    assert [record.number for record in undisturbed] == list(range(1, TRIALS + 1))
    assert max(record.score for record in undisturbed[STARTUP_TRIALS:]) > max(r.score for r in undisturbed[:5])


def test_the_search_begins_where_it_is_told(tmp_path: Path) -> None:
    first = run(tmp_path / "j.log")[0]
    assert (first.params["rate"], first.params["depth"]) == (0.5, 3)


def _killed(journal: Path, after: int) -> None:
    run(journal, stop_after=after)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_journal_survives_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    journal = tmp_path / "j.log"
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(journal, 4))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","stud')
    assert run(journal) == run(tmp_path / "whole.log")


def test_trials_that_failed_or_were_given_up_are_told_with_their_reason(tmp_path: Path) -> None:
    study = opened(tmp_path / "j.log")
    study.fail(study.ask(), "ValueError: no", 2.5)
    study.complete(study.ask(), TrialEnd(score=None, seconds=1.0, reports=((0, 0.4), (3, 0.5))))
    failed, pruned = opened(tmp_path / "j.log").records()
    assert (failed.state, failed.reason, failed.seconds, failed.score) == ("failed", "ValueError: no", 2.5, None)
    assert (pruned.state, pruned.reports, pruned.score) == ("pruned", ((0, 0.4), (3, 0.5)), None)


def test_proposals_are_plain_values_of_the_space(tmp_path: Path) -> None:
    for record in run(tmp_path / "j.log"):
        assert type(record.params["rate"]) is float
        assert type(record.params["depth"]) is int
        assert all(dimension.holds(record.params[name]) for name, dimension in SPACE.items())


def test_chance_proposes_too(tmp_path: Path) -> None:
    study = opened(tmp_path / "j.log", sampler="random")
    seen = set()
    for _ in range(5):
        asked = study.ask()
        study.complete(asked, end(asked))
        seen.add(asked.params["rate"])
    assert len(seen) == 5


def test_importance_finds_what_matters(tmp_path: Path) -> None:
    run(tmp_path / "j.log")
    shares = opened(tmp_path / "j.log").importance()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares, key=shares.__getitem__) == "kind"


def test_importance_of_a_few_trials_is_not_told(tmp_path: Path) -> None:
    study = opened(tmp_path / "j.log")
    study.complete(asked := study.ask(), end(asked))
    assert study.importance() == {}


def test_one_process_at_a_time_runs_a_search(tmp_path: Path) -> None:
    journal = tmp_path / "tune" / "j.log"
    with held(journal), pytest.raises(Conflict), held(journal):
        pass
    with held(journal):
        pass


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=4), min_size=4, max_size=9),
    st.lists(st.integers(-4, 4), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_trial_is_given_up_when_optunas_median_pruner_would(
    past: list[list[int]], course: list[int], greater: bool
) -> None:
    require_optuna()
    peer = optuna.create_study(
        direction="maximize" if greater else "minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=5)
    )
    for values in past:
        trial = peer.ask()
        for step, value in enumerate(values):
            trial.report(value, step)
        peer.tell(trial, values[-1])
    bars = _bars(past)
    trial, own = peer.ask(), Course(dict(bars), greater_is_better=greater)
    for step, value in enumerate(course):
        trial.report(value, step)
        try:
            own.report(step, value)
        except GivenUp:
            assert trial.should_prune()
            return
        assert not trial.should_prune()


def _bars(past: list[list[int]]) -> tuple[tuple[int, float], ...]:
    """The bars that a study works out from complete trials with these reports."""

    class Past(Study):
        def __init__(self) -> None:
            self._tune = Tune(trials=1, space=SPACE)

        def records(self) -> list[TrialRecord]:
            return [
                TrialRecord(number=n, state="complete", params={}, score=0.0, reports=tuple(enumerate(values)))
                for n, values in enumerate(past)
            ]

    return Past().bars()


def test_without_a_pruner_there_are_no_bars(tmp_path: Path) -> None:
    for pruner, expected in (("median", ((0, 2.0),)), ("none", ())):
        study = opened(tmp_path / f"{pruner}.log", pruner=pruner)
        for value in range(5):
            study.complete(study.ask(), TrialEnd(score=float(value), seconds=0.0, reports=((0, float(value)),)))
        assert study.bars() == expected


@pytest.mark.parametrize(("step", "value"), [(-1, 0.5), (0, float("nan")), (0, float("inf"))])
def test_a_report_is_a_step_and_a_finite_number(step: int, value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Course({}, greater_is_better=True).report(step, value)


def test_a_search_leaves_where_training_fails(tmp_path: Path) -> None:
    space = {"kind": Dimension(choices=("a", "b", "never")), "rate": Dimension(low=0.0, high=1.0)}
    study = opened(tmp_path / "j.log", space=space, trials=40)
    for _ in range(40):
        asked = study.ask()
        if asked.params["kind"] == "never":
            study.fail(asked, "ValueError: never", 0.0)
        else:
            study.complete(asked, TrialEnd(score=asked.params["rate"], seconds=0.0))
    later = [record.state for record in study.records()[STARTUP_TRIALS:]]
    assert later.count("failed") <= len(later) / 4  # chance would fail a third; a sampler that overlooks them, half


def test_without_optuna_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError) as caught:
        require_optuna()
    assert "pip install 'interlock[tune]'" in caught.value.next_step
