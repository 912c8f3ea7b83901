from datetime import timedelta
from typing import Any

import msgspec
import pytest

from interlock.records import Snapshot, timestamp
from interlock.settings import Dimension, Model, Settings, Tune
from interlock.testing.clock import ManualClock
from interlock.tuning.standing import InForce, basis_of, due, params_text, study_digest, with_params

SPACE = {"depth": Dimension(low=1, high=9)}


def settings(params: dict[str, Any] | None = None, seed: int = 0, **tune: Any) -> Settings:
    model = Model(name="m", task="classification", target="y", seed=seed)
    return Settings(model=model, params=params or {}, tune=Tune(**({"trials": 20, "space": SPACE} | tune)))


def snapshot(training: str) -> Snapshot:
    return Snapshot(
        digest="s", sources=(), query="", columns=("a", "y"), rows=9, training_rows=7, holdout_rows=2, training_key="t",
        holdout_key="h", training_digest=training, holdout_digest="d", split="",
    )  # fmt: skip


def standing(found: Settings, code: str = "code", rows: str = "rows") -> InForce:
    return InForce(
        study=study_digest(found, code, snapshot(rows), ["a"]), basis=basis_of(found, code), params={"depth": 4},
        score=0.9, metric="accuracy", trials=found.tune.trials, at=timestamp(ManualClock().now()), entry=3,
    )  # fmt: skip


def why(new: Settings, before: InForce | None, *, code: str = "code", rows: str = "rows", days: float = 1) -> str:
    clock = ManualClock()
    now = clock.now() + timedelta(days=days)
    return due(new, code, study_digest(new, code, snapshot(rows), ["a"]), before, now)


def test_the_first_search_is_due() -> None:
    assert why(settings(), None)


def test_new_rows_alone_ask_for_no_search() -> None:
    assert why(settings(), standing(settings()), rows="more rows", days=1_000) == ""


@pytest.mark.parametrize(
    "changed",
    [
        settings(space={"depth": Dimension(low=1, high=10)}),
        settings({"other": 1}),
        settings(seed=1),
        settings(folds=2),
        settings(sampler="random"),
        msgspec.structs.replace(settings(), gate=msgspec.structs.replace(settings().gate, metric="accuracy")),
    ],
)
def test_another_question_asks_for_a_search(changed: Settings) -> None:
    assert "changed" in why(changed, standing(settings()))


def test_changed_code_asks_for_a_search() -> None:
    assert "changed" in why(settings(), standing(settings()), code="other")


@pytest.mark.parametrize("budget", [{"trials": 10}, {"timeout": "1h"}, {"parallel": 2}, {"patience": 3}])
def test_another_budget_asks_for_none(budget: dict[str, Any]) -> None:
    assert why(settings(**budget), standing(settings())) == ""
    assert study_digest(settings(**budget), "c", snapshot("r"), []) == study_digest(settings(), "c", snapshot("r"), [])


def test_more_trials_are_made() -> None:
    assert why(settings(trials=21), standing(settings())) == "tune.trials is 21, and was 20"


def test_an_old_search_is_repeated_on_new_rows_only() -> None:
    monthly = settings(every="28d")
    assert why(monthly, standing(monthly), rows="new", days=27.9) == ""
    assert "older than 28d" in why(monthly, standing(monthly), rows="new", days=28)
    assert why(monthly, standing(monthly), days=28) == ""


def test_found_parameters_lie_over_the_given_ones() -> None:
    assert with_params(settings({"depth": 1, "other": 2}), {"depth": 7}).params == {"depth": 7, "other": 2}


def test_parameters_for_people() -> None:
    assert params_text({"rate": 0.123456, "depth": 3, "kind": "a"}) == "rate=0.1235, depth=3, kind=a"
