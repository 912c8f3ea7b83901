"""The one seam to Optuna: a study on a journal file, asked and told by the driver, and resumed after a kill.

A trial's proposal is a function of the trials that ended before it and of a seed made from the project's seed and the
trial's place in line: whether the process was killed in between changes nothing. A trial that was running when its
process died is marked as failed and its place is tried again.
"""

import contextlib
import fcntl
import os
import statistics
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from interlock.errors import Conflict, SettingsError, StoreFault
from interlock.settings import Dimension, Tune
from interlock.tuning.standing import TrialRecord
from interlock.tuning.trial import TrialEnd

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

STARTUP_TRIALS = 10
"""Trials drawn at random before the sampler learns from them."""
_FEWEST_FOR_BARS = 5
"""Complete trials before any trial is given up: the same as Optuna's median pruner asks for."""
_FEWEST_FOR_IMPORTANCE = 10
_INTERRUPTED, _ENDED, _FAILED = "interrupted", "ended", "failed"
_REASON_CHARS = 400


def require_optuna() -> None:
    """Import Optuna; raises :class:`SettingsError` when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise SettingsError(
            "[tune] needs Optuna, which is not installed.",
            next_step="pip install 'interlock[tune]', or set tune.trials to 0.",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class Asked:
    """A trial that was proposed: its number in the journal, its parameters, and its place in line from 0."""

    def __init__(self, number: int, params: dict[str, Any], place: int) -> None:
        self.number = number
        self.params = params
        self.place = place


class Study:
    """One search over ``space``; every change is on the disk when a method returns."""

    def __init__(self, journal: Path, name: str, tune: Tune, *, seed: int, greater_is_better: bool) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._tune = tune
        self._seed = seed
        self._greater = greater_is_better
        self._state = optuna.trial.TrialState
        self._space = {key: _distribution(dimension) for key, dimension in tune.space.items()}
        _mend(journal)
        lock: Any = _Unlocked()
        try:
            self._storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if greater_is_better else "minimize",
                pruner=optuna.pruners.NopPruner(),
                sampler=self._sampler(0),
                load_if_exists=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise StoreFault(
                f"The journal {journal} of the search cannot be used: {error}.",
                next_step="Delete it: the search then begins anew.",
            ) from error
        self._id = self._storage.get_study_id_from_name(name)

    def resume(self) -> int:
        """Mark the trials of a dead process as failed, so that they are tried again; gives their number."""
        dead = [trial for trial in self._all() if trial.state == self._state.RUNNING]
        for trial in dead:
            self._attribute(trial.number, _INTERRUPTED, True)
            self._study.tell(trial.number, state=self._state.FAIL)
        return len(dead)

    @property
    def begun(self) -> int:
        """How many trials were asked for, those that will be tried again not counted."""
        return sum(1 for trial in self._all() if _counts(trial) and trial.state != self._state.WAITING)

    def ask(self, start: Mapping[str, Any] | None = None) -> Asked:
        """Propose the next trial; ``start`` gives values that it must have."""
        place = self.begun
        self._study.sampler = self._sampler(place)
        if start and not any(trial.state == self._state.WAITING for trial in self._all()):
            self._study.enqueue_trial(dict(start))
        trial = self._study.ask(self._space)
        params = {name: _plain(trial.params[name], self._tune.space[name]) for name in self._space}
        return Asked(trial.number, params, place)

    def complete(self, asked: Asked, end: TrialEnd) -> None:
        """Record a trial that has a score, or was given up."""
        self._attribute(asked.number, _ENDED, {"seconds": end.seconds, "reports": [list(r) for r in end.reports]})
        if end.score is not None:
            self._study.tell(asked.number, end.score)
            return
        step, value = end.reports[-1]
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, asked.number)
        self._storage.set_trial_intermediate_value(trial_id, step, value)
        self._study.tell(asked.number, state=self._state.PRUNED)

    def fail(self, asked: Asked, reason: str, seconds: float) -> None:
        """Record a trial that gave no score, and why.

        Optuna's samplers overlook what failed, and would go on proposing parameters that the code refuses; a trial that
        was pruned without a report counts among the worst instead.
        """
        told = {"seconds": seconds, "reports": [], _FAILED: True, "reason": reason[:_REASON_CHARS]}
        self._attribute(asked.number, _ENDED, told)
        self._study.tell(asked.number, state=self._state.PRUNED)

    def records(self) -> list[TrialRecord]:
        """Every trial that ended, in the order in which they began."""
        states = {self._state.COMPLETE: "complete", self._state.PRUNED: "pruned"}
        found: list[TrialRecord] = []
        for trial in self._all():
            if trial.state not in states or not _counts(trial):
                continue
            told = trial.user_attrs.get(_ENDED, {})
            found.append(
                TrialRecord(
                    number=len(found) + 1,
                    state="failed" if told.get(_FAILED) else cast("Any", states[trial.state]),
                    params={name: _plain(trial.params[name], self._tune.space[name]) for name in trial.params},
                    score=trial.value if trial.state == self._state.COMPLETE else None,
                    seconds=float(told.get("seconds", 0.0)),
                    reason=str(told.get("reason", "")),
                    reports=tuple((int(step), float(value)) for step, value in told.get("reports", ())),
                )
            )
        return found

    def bars(self) -> tuple[tuple[int, float], ...]:
        """The median of the complete trials' reports at each step; a trial below it so far is given up.

        The rule of Optuna's ``MedianPruner``, worked out ahead so that a trial needs no way back to the driver.
        """
        complete = [record for record in self.records() if record.state == "complete"]
        if self._tune.pruner == "none" or len(complete) < _FEWEST_FOR_BARS:
            return ()
        at: dict[int, list[float]] = {}
        for record in complete:
            for step, value in record.reports:
                at.setdefault(step, []).append(value)
        return tuple((step, statistics.median(values)) for step, values in sorted(at.items()))

    def importance(self) -> dict[str, float]:
        """Each parameter's share, most important first; empty when there are too few trials to tell."""
        complete = [record.score for record in self.records() if record.state == "complete"]
        if len(complete) < _FEWEST_FOR_IMPORTANCE or len(self._space) < 2 or len(set(complete)) < 2:
            return {}
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        with _calm():
            found = get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(share) for name, share in found.items()}

    def _all(self) -> "list[optuna.trial.FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _attribute(self, number: int, key: str, value: Any) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        self._storage.set_trial_user_attr(trial_id, key, value)

    def _sampler(self, place: int) -> "optuna.samplers.BaseSampler":
        import optuna

        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        if self._tune.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with _calm():
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=self._tune.parallel > 1
            )


def _counts(trial: "optuna.trial.FrozenTrial") -> bool:
    return not trial.user_attrs.get(_INTERRUPTED, False)


def _plain(value: Any, dimension: Dimension) -> Any:
    """A value as TOML would have it: no numpy scalar."""
    if dimension.choices:
        return value
    return int(value) if dimension.whole else float(value)


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    with _calm():  # a range that is no multiple of the step is cut, as the reference says
        if dimension.whole:
            step = int(dimension.step or 1)
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
        width = None if dimension.step is None else float(dimension.step)
        return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log, step=width)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Optuna warns of what is experimental in one of its versions; the versions are tested here instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Unlocked:
    """Stands in for the journal's own lock: :func:`held` keeps others away, and a dead holder leaves nothing behind."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


@contextlib.contextmanager
def held(journal: Path) -> Iterator[None]:
    """Keep the journal to this process until the block ends; raises :class:`Conflict` when another one has it."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict("Another process runs the same search.", next_step="Wait for it, or end it.") from error
        yield
    finally:
        os.close(descriptor)


def _mend(journal: Path) -> None:
    """Cut off a last line that a kill left unfinished."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())
