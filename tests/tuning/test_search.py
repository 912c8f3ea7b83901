import json

import pytest

from interlock.configuration import load_settings
from interlock.errors import ContractError, DataRefused, UserCodeFailed
from interlock.model.contract import read_contract
from tuning.desk import TRAIN, Desk


def test_a_search_finds_better_parameters_without_seeing_the_holdout(desk: Desk) -> None:
    found = desk.search()
    assert (found.status, found.complete, found.target, found.ended) == ("done", 6, 6, "all trials were made")
    assert found.start_score == desk.trials[0].score
    assert desk.trials[0].params == {"tilt": 3.0}
    assert found.score == max(trial.score for trial in desk.trials)
    assert found.score > found.start_score
    assert desk.said[-1].startswith(f"trial 6/6: best accuracy {found.score:.4g} (tilt=")
    widths = {f"{value:.4f}" for value in desk.rows(desk.snapshot.holdout_key)["width"]}
    learnt, answered = desk.spied("learnt"), desk.spied("answered")
    assert len(widths) > 20
    assert not widths & {*learnt, *answered}
    assert not {*learnt} & {*answered}
    training = {f"{value:.4f}" for value in desk.rows(desk.snapshot.training_key)["width"]}
    assert {*learnt} | {*answered} == training
    assert (found.fit_rows, found.valid_rows) == ((len({*learnt}),), (len({*answered}),))
    assert list((desk.root / ".interlock" / "work" / "t").iterdir()) == []


def test_the_same_question_is_answered_from_the_record(desk: Desk) -> None:
    first = desk.search()
    calls = len(desk.spied("learnt"))
    assert desk.search() == first
    assert len(desk.spied("learnt")) == calls
    assert desk.kinds() == ["tune.done"]


def test_more_trials_go_on_where_the_search_ended(desk: Desk) -> None:
    desk.search()
    before = desk.trials
    assert desk.search(**{"tune.trials": 8}).target == 8
    assert desk.trials[:6] == before
    assert desk.search(**{"tune.trials": 8}, more=True).target == 16
    assert len(desk.trials) == 16


def test_a_new_search_begins_with_the_parameters_in_force(desk: Desk) -> None:
    first = desk.search()
    desk.write(tune="folds = 2")
    second = desk.search()
    assert second.digest != first.digest
    assert [trial.params for trial in desk.trials[:2]] == [first.params, {"tilt": 3.0}]
    assert second.score >= second.start_score
    assert (len(second.fit_rows), second.folds) == (2, 2)


def test_a_question_answered_earlier_comes_into_force_again(desk: Desk) -> None:
    desk.search()
    desk.write(TRAIN + "# another file\n")
    desk.search()
    desk.write()
    desk.search()
    assert desk.kinds() == ["tune.done", "tune.done", "tune.reused"]


FAILING = TRAIN.replace(
    '    spy("learnt", X["width"])',
    '    if tilt < 0: raise ValueError("too far left")\n    if tilt > 3.5: import os; os._exit(7)\n',
)


def test_trials_that_fail_are_told_and_the_search_goes_on(desk: Desk) -> None:
    desk.write(FAILING)
    found = desk.search(**{"tune.trials": 12})
    assert found.status == "done"
    assert found.failed == sum(trial.params["tilt"] < 0 or trial.params["tilt"] > 3.5 for trial in desk.trials) > 0
    reasons = {trial.reason for trial in desk.trials if trial.state == "failed"}
    assert any("raised ValueError (train.py" in reason for reason in reasons)
    assert found.params["tilt"] >= 0


def test_when_every_trial_fails_the_search_is_given_up(desk: Desk) -> None:
    desk.write(
        "def train(X, y, tilt):\n    open(HERE + 'calls', 'a').write('x ')\n    raise ValueError('never works')\n"
    )
    for _ in range(2):
        with pytest.raises(UserCodeFailed, match=r"All 10 trials of the search failed.*raised ValueError"):
            desk.search(**{"tune.trials": 30})
        assert len(desk.spied("calls")) == 10
    assert desk.kinds() == ["tune.failed"]
    with pytest.raises(UserCodeFailed, match="All 20 trials"):
        desk.search(**{"tune.trials": 30}, more=True)


def test_an_answer_that_is_no_number_fails_the_trial(desk: Desk) -> None:
    desk.write(TRAIN.replace('"yes", "no")', '"yes", "no") if self.tilt > 0 else np.full(len(X), np.nan)'))
    found = desk.search(**{"tune.trials": 8})
    assert found.failed > 0
    assert found.params["tilt"] > 0


def test_a_trial_is_stopped_at_its_deadline(desk: Desk) -> None:
    desk.write(TRAIN.replace("def train(X, y, tilt):", "def train(X, y, tilt):\n    while tilt == 3.0: pass"))
    found = desk.search(**{"tune.trials": 2, "tune.deadline": "1s"})
    assert [trial.state for trial in desk.trials] == ["failed", "complete"]
    assert "deadline of 1 s" in desk.trials[0].reason
    assert found.start_score is None


REPORTING = TRAIN.replace("def train(X, y, tilt):", "def train(X, y, tilt, report):").replace(
    '    spy("learnt", X["width"])',
    "    for step in range(3):\n"
    '        open(HERE + "steps", "a").write(f"{tilt}/{step}\\n")\n'
    "        try:\n"
    "            report(step, -abs(tilt - 1))\n"
    "        except Exception:\n"
    "            pass",
)


def test_a_trial_that_reports_less_than_the_median_is_given_up(desk: Desk) -> None:
    desk.write(REPORTING)
    found = desk.search(**{"tune.trials": 14})
    pruned = [trial for trial in desk.trials if trial.state == "pruned"]
    assert found.pruned == len(pruned) > 0
    steps = desk.spied("steps")
    for trial in desk.trials:
        made = sum(step.startswith(f"{trial.params['tilt']}/") for step in steps)
        assert made == len(trial.reports) == (1 if trial.state == "pruned" else 3)
    assert all(trial.state == "complete" for trial in desk.trials[:5])


def test_without_a_pruner_every_trial_runs_to_its_end(desk: Desk) -> None:
    desk.write(REPORTING)
    assert desk.search(**{"tune.trials": 10, "tune.pruner": "none"}).pruned == 0


def test_folds_are_pruned_between_and_reports_inside_them_are_not_heard(desk: Desk) -> None:
    desk.write(REPORTING)
    desk.search(**{"tune.trials": 9, "tune.folds": 3})
    states = {trial.state for trial in desk.trials}
    assert "pruned" in states
    for trial in desk.trials:
        assert [step for step, _ in trial.reports] == list(
            range(3 if trial.state == "complete" else len(trial.reports))
        )


def test_patience_ends_a_search(desk: Desk) -> None:
    desk.write(TRAIN.replace("> self.tilt", "> -99"))
    found = desk.search(**{"tune.trials": 50, "tune.patience": 3})
    assert found.ended == "no trial was better than the best for 3 trials"
    assert found.complete == 4


def test_time_ends_a_search_with_what_was_found(desk: Desk) -> None:
    found = desk.search(**{"tune.trials": 50, "tune.timeout": "1ms"})
    assert (found.complete, found.status) == (1, "done")
    assert found.ended == "the time of 1ms was up"


def test_the_same_parameters_are_not_trained_twice(desk: Desk) -> None:
    desk.write(
        params="side = 'a'",
        space="side = { choices = ['a', 'b'] }",
        train=TRAIN.replace("tilt):\n    spy", "tilt, side):\n    spy"),
    )
    (desk.root / "interlock.toml").write_text(
        (desk.root / "interlock.toml").read_text().replace("tilt = { low = -4.0, high = 4.0 }", "")
    )
    found = desk.search(**{"tune.trials": 9})
    assert found.complete == 9
    assert len(desk.spied("learnt")) == 2 * found.fit_rows[0]


def test_several_trials_at_once(desk: Desk) -> None:
    found = desk.search(**{"tune.parallel": 2, "tune.trials": 7})
    assert (found.complete, found.parallel) == (7, 2)


def test_a_metric_of_the_users_own_and_a_parameter_of_inference(desk: Desk) -> None:
    desk.write(
        "def train(X, y):\n    return 'nothing'\n",
        metric="score.py:distance",
        model='predict = "answer.py"',
    )
    (desk.root / "answer.py").write_text(
        "import numpy as np\n"
        "def predict(model, X, tilt):\n"
        "    return np.where(X['width'] + X['weight'] > tilt, 'yes', 'no')\n"
    )
    (desk.root / "score.py").write_text("def distance(y_true, y_pred):\n    return float((y_true != y_pred).mean())\n")
    found = desk.search(**{"gate.greater_is_better": "false"})
    assert found.metric == "score.py:distance"
    assert found.score == min(trial.score for trial in desk.trials) < found.start_score


def test_too_few_rows_are_refused_before_a_trial(desk: Desk) -> None:
    with pytest.raises(DataRefused, match="too few"):
        desk.search(**{"tune.folds": 20, "data.holdout": "{ fraction = 0.95 }"})


def test_a_parameter_that_nobody_takes_is_refused(desk: Desk) -> None:
    desk.write(space="tilted = { low = 1, high = 2 }")
    with pytest.raises(ContractError, match=r"'tilted', which train\(X, y, tilt\) never takes. Did you mean 'tilt'"):
        read_contract(load_settings(desk.root))


def test_a_parameter_of_the_space_alone_is_on_offer(desk: Desk) -> None:
    desk.write(TRAIN.replace("tilt):\n    spy", "tilt, depth):\n    spy"), space="depth = { low = 1, high = 2 }")
    assert read_contract(load_settings(desk.root)).train.required == ("X", "y", "tilt", "depth")


@pytest.mark.slow
def test_a_notebook_is_tuned_as_a_function_is(desk: Desk) -> None:
    def cell(source: str, *tags: str) -> dict[str, object]:
        return {
            "cell_type": "code", "id": f"c{len(source)}", "execution_count": None, "outputs": [], "source": source,
            "metadata": {"tags": list(tags)} if tags else {},
        }  # fmt: skip

    code = "import numpy as np\nclass Tilted:\n    def __init__(self, tilt):\n        self.tilt = tilt\n"
    code += "    def predict(self, X):\n"
    code += "        return np.where(X['width'] + X['weight'] > self.tilt, 'yes', 'no')\n"
    cells = [cell("tilt = 1.0", "parameters"), cell(code), cell("rows = len(X)"), cell("model = Tilted(tilt)")]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": ""}}}
    text = json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5})
    (desk.root / "train.ipynb").write_text(text)
    desk.write(model='train = "train.ipynb"')
    found = desk.search(**{"tune.trials": 3})
    assert [trial.state for trial in desk.trials] == ["complete"] * 3, desk.trials[0].reason
    assert found.score > found.start_score
