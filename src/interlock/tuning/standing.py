"""Which parameters are in force, and is another search due? Read in every turn of a project that tunes, so kept light.

A search answers one question, named by its digest: which parameters of this space are best, by this metric, for this
code on these training rows. The *basis* is the question without the rows: as long as it stands, the parameters stay in
force for new rows too.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from interlock.ports import Ledger
from interlock.records import Record, Snapshot, digest, facts_of, moment
from interlock.settings import Settings
from interlock.units import seconds

COLLECTION = "tuning"
"""Documents of finished searches by digest; ``IN_FORCE`` is the key of what is in force."""
IN_FORCE = "in-force"


class InForce(Record, frozen=True, kw_only=True):
    """The parameters in force, and the search that found them. ``trials`` is what ``tune.trials`` was then."""

    study: str
    basis: str
    params: dict[str, Any]
    score: float
    metric: str
    trials: int
    at: str
    entry: int


class Tuning(Record, frozen=True, kw_only=True):
    """A finished search: the facts of ``tune.done`` and ``tune.failed``.

    ``params`` are the best of the space, ``start_score`` the score of the parameters that were there before on the same
    rows. ``target`` is how many trials were to be made in all; those that ended are counted by state. ``ended`` says
    why there were no more. ``importance`` is each parameter's share in what made trials good (PED-ANOVA, Watanabe et
    al., IJCAI 2023). The blob ``trials_key`` lists every trial.
    """

    digest: str
    status: Literal["done", "failed"]
    basis: str
    snapshot: str
    code: str
    metric: str
    greater_is_better: bool
    params: dict[str, Any]
    score: float | None = None
    start_score: float | None = None
    target: int
    complete: int
    pruned: int
    failed: int
    ended: str
    folds: int
    fit_rows: tuple[int, ...]
    valid_rows: tuple[int, ...]
    sampler: str
    pruner: str
    parallel: int
    seed: int
    seconds: float
    importance: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it
    trials_key: str = ""
    trials_digest: str = ""
    reason: str = ""
    at: str = ""


class TrialRecord(Record, frozen=True, kw_only=True):
    """One trial as the table lists it. ``reports`` are the (step, value) pairs that it reported while it ran."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    params: dict[str, Any]
    score: float | None = None
    seconds: float = 0.0
    reason: str = ""
    reports: tuple[tuple[int, float], ...] = ()


class TrialTable(Record, frozen=True, kw_only=True):
    """Every trial of a search, in the order in which they began."""

    trials: tuple[TrialRecord, ...]


def basis_of(settings: Settings, code: str) -> str:
    """Name the question without the rows: all that a change of makes the found parameters a guess."""
    tune = settings.tune
    return digest(
        {
            "code": code,
            "space": facts_of(tune)["space"],
            "params": settings.params,
            "metric": [settings.gate.metric, settings.gate.greater_is_better],
            "model": [settings.model.task, settings.model.target, list(settings.model.features), settings.model.seed],
            "how": [tune.folds, tune.sampler, tune.pruner],
        }
    )


def study_digest(settings: Settings, code: str, snapshot: Snapshot, features: Sequence[str]) -> str:
    """Name the whole question. Budgets are not in it: with a larger one the same search goes on."""
    rows = [snapshot.training_digest, list(features), [facts_of(each) for each in snapshot.references]]
    return digest({"basis": basis_of(settings, code), "rows": rows})


def in_force(ledger: Ledger) -> InForce | None:
    """Find the parameters in force; None before the first search."""
    return ledger.read(COLLECTION, IN_FORCE, InForce)


def due(settings: Settings, code: str, study: str, standing: InForce | None, now: datetime) -> str:
    """Say why a search is due, in words; empty when it is not."""
    tune = settings.tune
    if standing is None:
        return "there was no search yet"
    if standing.basis != basis_of(settings, code):
        return "the code, the space, [params] or the metric changed"
    if tune.trials > standing.trials:
        return f"tune.trials is {tune.trials}, and was {standing.trials}"
    old = tune.every is not None and (now - moment(standing.at)).total_seconds() >= seconds(tune.every)
    if old and standing.study != study:
        return f"the last search is older than {tune.every}, and there are new rows"
    return ""


def with_params(settings: Settings, found: Mapping[str, Any]) -> Settings:
    """Lay the found parameters over those of the settings."""
    return msgspec.structs.replace(settings, params={**settings.params, **found})


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters for people: ``depth=3, rate=0.12``; numbers to four digits."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
