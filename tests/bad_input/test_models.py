"""Models that the gate must not release, and answers of odd shapes, through whole turns."""

import csv
import random
from pathlib import Path

import pytest

from bad_input.kit import MARKER, accepted, check_ledger, published, recorded, release, run
from e2e.small_project import TRAIN, make_project
from interlock.errors import ContractError

PREDICT = "def predict(model, X):\n    good = model.predict(X)\n    {body}\n"


def with_predict(project: Path, body: str) -> Path:
    """A new project whose inference ends with ``body``; ``good`` are the right answers."""
    root = make_project(project)
    (root / "predict.py").write_text(PREDICT.format(body=body))
    text = (root / "interlock.toml").read_text().replace('target = "ok"', 'target = "ok"\npredict = "predict.py"')
    (root / "interlock.toml").write_text(text)
    return root


def nothing_live(root: Path) -> None:
    assert release(root) is None
    assert published(root) == []
    assert accepted(root) == list(range(400))
    check_ledger(root)


# ---- too large ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_is_too_large_is_not_released(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    ballast = "        self.means, self.classes = means, classes\n        self.ballast = np.random.bytes(4_000_000)\n"
    heavy = TRAIN.replace("        self.means, self.classes = means, classes\n", ballast)
    assert heavy != TRAIN
    (root / "train.py").write_text(heavy)
    seen = run(root, "gate.max_size_mb=3").result
    (check,) = [check for check in seen.decision.checks if check.name == "size"] if seen.decision else []
    assert (check.passed, check.on_fail, check.required) == (False, "keep", 3.0)
    assert check.observed is not None
    assert 4.0 < check.observed < 4.2
    told = f"Its size of {check.observed:.3g} MB is over the budget of 3."
    assert seen.sentence == f"Not released, nothing is live yet. {told}"
    assert seen.next_step == f"See the evidence with 'interlock report --decision {seen.receipt}'."
    assert seen.exit_code == 1
    nothing_live(root)
    assert run(root, "gate.max_size_mb=5").result.outcome == "released", "under another budget it is decided again"


# ---- rows in another order ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_in_another_order_than_the_rows_are_not_released(tmp_path: Path) -> None:
    root = with_predict(tmp_path / "project", "return sorted(good)")
    seen = run(root).result
    assert seen.outcome == "kept"
    assert seen.sentence.startswith("Not released, nothing is live yet. Not better than ")
    assert seen.decision is not None
    (check,) = [check for check in seen.decision.checks if check.name == "consistent"]
    assert not check.passed
    nothing_live(root)


@pytest.mark.slow
def test_answers_that_are_in_order_only_in_large_batches_are_held(tmp_path: Path) -> None:
    """Good on the whole holdout; asked in small pieces, the rows come back in another order."""
    root = with_predict(tmp_path / "project", "return good if len(X) > 80 else good[::-1]")
    seen = run(root).result
    assert seen.outcome == "held", seen.sentence
    start, _, end = seen.sentence.partition(" alone or in small pieces. ")
    assert start.startswith(
        "Held: Not a function of the row: asked again, other answers came for 0 of 85 with the rows "
    )
    assert end == (
        "Let an answer depend on its row alone, or set gate.row_by_row = false if the model needs its whole batch."
    )
    assert seen.next_step == (
        f"Look at it: interlock report --decision {seen.receipt}. "
        f'If it is right: interlock promote {seen.receipt} --because "…".'
    )
    assert seen.exit_code == 1
    nothing_live(root)
    assert run(root, "gate.row_by_row=false").result.outcome == "released", "its owner may say that it needs a batch"


# ---- generators --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return (label for label in good[:3])", "The prediction has 3 answers for 85 rows."),
        (
            "import itertools\n    return itertools.cycle(good)",
            "The prediction is a cycle of more than 85 answers for 85 rows.",
        ),
    ],
)
def test_a_generator_of_too_few_or_without_end(tmp_path: Path, body: str, message: str) -> None:
    root = with_predict(tmp_path / "project", body)
    seen = run(root).result
    assert seen.sentence == f"The turn could not do 'judge'. {message}"
    assert seen.next_step == "Return one answer per row of the data, in the same order."
    assert seen.exit_code == 3
    nothing_live(root)


@pytest.mark.slow
def test_a_generator_of_the_right_answers_is_as_good_as_a_list(tmp_path: Path) -> None:
    root = with_predict(tmp_path / "project", "return (label for label in good)")
    assert run(root).result.outcome == "released"


def test_a_function_with_a_yield_is_told_before_anything_runs(tmp_path: Path) -> None:
    root = with_predict(tmp_path / "project", "yield from good")
    with pytest.raises(ContractError) as caught:
        run(root)
    assert caught.value.message == "predict in predict.py is a generator (it has a yield)."
    assert caught.value.next_step == "Return the answer instead of yielding it."


# ---- numbers -----------------------------------------------------------------------------------------------------

LINE = """import numpy as np


class Line:
    def predict(self, X):
        good = 3.0 * np.asarray(X["width"], dtype=float)
        {body}


def train(X, y):
    return Line()
"""
TYPE = "The prediction is of type String, numbers were expected."
AS_NUMBERS = "Return numbers, or set model.task to what the answers are."
NUMBERS = {
    "strings": ("return [str(value) for value in good]", TYPE, AS_NUMBERS),
    "values of a person": (f"return ['{MARKER}'] * len(good)", TYPE, AS_NUMBERS),
    "infinite": (
        "return good / 0.0",
        "The prediction is infinite for 85 rows.",
        "Look for an overflow or a division by zero.",
    ),
    "NaN": (
        "return good * float('nan')",
        "The prediction is missing (None or NaN) for 85 of 85 rows.",
        "Answer every row; fill what is missing in the data first.",
    ),
}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A project that learns a number."""
    root = make_project(tmp_path / "project")
    source = random.Random(3)
    with (root / "inbox" / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "width", "weight", "ok"])
        for number in range(400):
            width = round(source.gauss(0, 1), 4)
            writer.writerow([number, width, 0.5, round(3 * width + source.gauss(0, 0.3), 4)])
    text = (root / "interlock.toml").read_text().replace('"classification"', '"regression"').replace("accuracy", "r2")
    (root / "interlock.toml").write_text(text)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", NUMBERS)
def test_what_is_no_number_is_refused_in_words(numbers: Path, kind: str) -> None:
    body, message, next_step = NUMBERS[kind]
    (numbers / "train.py").write_text(LINE.format(body=body))
    seen = run(numbers).result
    assert seen.sentence == f"The turn could not do 'judge'. {message}"
    assert (seen.next_step, seen.exit_code) == (next_step, 3)
    assert MARKER not in recorded(numbers)
    assert MARKER not in seen.sentence
    nothing_live(numbers)
