"""A released model that answers nonsense: the batch is refused in words that say what, nothing is published."""

from pathlib import Path

import pytest

from bad_input.kit import MARKER, accepted, check_ledger, published, recorded, release, run
from e2e.small_project import TRAIN, make_project

MODE = "mode.txt"
PREDICT = f'''"""Answers as the file {MODE} in the project says; well as long as there is none."""

import pathlib
import time

import numpy as np


def predict(model, X):
    good = model.predict(X)
    mode = pathlib.Path({MODE!r})
    if not mode.exists():
        return good
    return eval(mode.read_text())
'''
PARTS = "later.csv was not published: "
INTO_ORDER = "Return one answer per row of the data, in the same order."
AS_TARGET = "Return the labels as they are in the target column."
NONSENSE: dict[str, tuple[str, str, str]] = {
    "too few rows": ("good[:3]", "The prediction has 3 answers for 20 rows.", INTO_ORDER),
    "missing": (
        "[None, *good[1:]]",
        "The prediction is missing (None or NaN) for 1 of 20 rows.",
        "Answer every row; fill what is missing in the data first.",
    ),
    "NaN": (
        "np.full(len(good), np.nan)",
        "The prediction is missing (None or NaN) for 20 of 20 rows.",
        "Answer every row; fill what is missing in the data first.",
    ),
    "numbers for labels": ("np.ones(len(good))", "The labels are of type Float64, the target is str.", AS_TARGET),
    "strange labels": (
        f"['{MARKER}'] * len(good)",
        "20 of 20 labels are none of the 2 classes of the target.",
        AS_TARGET,
    ),
    "None": ("None", "The prediction is None.", "Return one answer per row; is a 'return' missing?"),
    "one value": ("7", "The prediction is one int.", "Return one answer per row."),
    "a table": (
        "np.zeros((len(good), 3))",
        "The prediction is an array of shape (20, 3).",
        "Return shape (rows,); give probabilities in a frame with 'prediction' and 'probability_0' ….",
    ),
    "a mixture": (
        "[1, *good[1:]]",
        "The prediction mixes values of different types, or of a type that no table has.",
        "Return only numbers, only text or only booleans.",
    ),
    "probabilities beyond 1": (
        "__import__('pandas').DataFrame({'prediction': good, 'probability_no': 1.5, 'probability_yes': -0.5})",
        "'probability_0' is not a probability between 0 and 1 for every row.",
        "Return probabilities, one per row and class.",
    ),
}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose released model answers as it is told; what it did wrong is tried again under other rules."""
    root = make_project(tmp_path_factory.mktemp("answering") / "project")
    (root / "train.py").write_text(TRAIN)
    (root / "predict.py").write_text(PREDICT)
    text = (root / "interlock.toml").read_text().replace('target = "ok"', 'target = "ok"\npredict = "predict.py"')
    (root / "interlock.toml").write_text(text)
    first = run(root).result
    assert first.outcome == "released", first.sentence
    return root


def ask(root: Path, mode: str, seed: int, *overrides: str) -> tuple[str, str, int]:
    """Sentence, next step and exit code of a turn that scores one new file."""
    rows = [f"{number},{(number * 37 % 101) / 50 - 1},{(number + 20 * seed) / 2000}" for number in range(20)]
    (root / "to_score" / "later.csv").write_text("\n".join(["part,width,weight", *rows]) + "\n")
    (root / MODE).write_text(mode)
    before = published(root)
    try:
        seen = run(root, *overrides).result
    finally:
        (root / MODE).unlink()
    assert published(root) == before
    assert MARKER not in recorded(root)
    found = release(root)
    assert found is not None
    assert found.generation == 1
    assert len(accepted(root)) == 400
    check_ledger(root)
    return seen.sentence, seen.next_step, seen.exit_code


@pytest.mark.slow
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_in_words(answering: Path, kind: str) -> None:
    mode, message, next_step = NONSENSE[kind]
    told = ask(answering, mode, list(NONSENSE).index(kind))
    assert told == (PARTS + message, next_step, 1)


@pytest.mark.slow
def test_what_inference_raises_is_told_and_not_recorded(answering: Path) -> None:
    sentence, next_step, code = ask(answering, f"[][{MARKER!r}]", 50)
    assert sentence.startswith(f"{PARTS}predict in predict raised TypeError: list indices must be integers or slices")
    assert (next_step, code) == ("Mend it, and run again.", 1)
    sentence, _, _ = ask(answering, f"{{}}[{MARKER!r}]", 51)
    assert MARKER in sentence, "the person who runs it needs the words"


@pytest.mark.slow
def test_inference_that_is_slow_is_stopped(answering: Path) -> None:
    sentence, next_step, code = ask(answering, "time.sleep(60)", 52, "model.predict_deadline=3s")
    assert sentence == f"{PARTS}predict in predict was stopped after its deadline of 3 s."
    assert next_step == "Make it faster, or raise model.deadline (training) or model.predict_deadline (inference)."
    assert code == 1


@pytest.mark.slow
def test_inference_that_forks_answers_once(answering: Path) -> None:
    rows = "\n".join(["part,width,weight", *(f"{number},0.2,{number / 30}" for number in range(20))])
    (answering / "to_score" / "later.csv").write_text(rows)
    (answering / MODE).write_text("([__import__('os').fork() for _ in range(3)], good)[1]")
    seen = run(answering).result
    (answering / MODE).unlink()
    assert [(batch.status, batch.scored) for batch in seen.batches] == [("published", 20)]


@pytest.mark.slow
def test_a_frame_that_is_changed_by_inference_changes_nothing_of_ours(answering: Path) -> None:
    rows = "\n".join(["part,width,weight", *(f"{number},0.1,{number / 30}" for number in range(20))])
    (answering / "to_score" / "later.csv").write_text(rows)
    (answering / MODE).write_text("(X.iloc.__setitem__((slice(None), 0), 9.0), good)[1]")
    before = published(answering)
    seen = run(answering).result
    (answering / MODE).unlink()
    (batch,) = seen.batches
    assert (batch.status, batch.scored) == ("published", 20)
    (new,) = set(published(answering)) - set(before)
    import polars as pl

    assert pl.read_parquet(answering / "predictions" / new)["part"].to_list() == list(range(20))
