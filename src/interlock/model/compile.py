"""Find the fastest form that gives the native model's answers; keep the native model when none does. In a worker.

A form is kept only when it agrees with the native model on rows of the holdout and on made rows: see
:mod:`interlock.model.parity` for what agreement is and :mod:`interlock.model.edges` for the rows. What was tried, what
came of it and how long each took to answer is recorded.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from interlock.errors import InterlockError, bounded
from interlock.model.candidates import Candidate, candidates
from interlock.model.edges import made_rows, split_rows
from interlock.model.fold import Unfoldable
from interlock.model.forest import TreeForest
from interlock.model.forms import Form
from interlock.model.loader import Native
from interlock.model.native import answer_natively
from interlock.model.parity import ATOL, Answer, Case, cases_of, check_parity, difference
from interlock.model.rows import answers_of, rows_of
from interlock.model.trees import LightGbm
from interlock.records import Record, Signature

COMPILE_MODEL = "interlock.model.compile:compile_model"
"""What the runner calls."""
_ONE_ROW_CALLS = 20
_ONE_ROW_BUDGET_S = 0.1
_ROWS_COMPARED = 32
_REASON_CHARS = 300


class CompileCall(Record, frozen=True, kw_only=True):
    """What to compile: a bundle draft with its native part, and rows as Arrow IPC files.

    ``holdout`` are the rows to agree on, ``sample`` a few training rows to make rows from. ``output`` is the folder for
    the form's files, ``answers`` the Arrow IPC file for the native model's answers on ``holdout``.
    """

    bundle: str
    signature: Signature
    holdout: str
    sample: str
    output: str
    answers: str


class Compiled(Record, frozen=True, kw_only=True):
    """The form that was kept and why. ``answered`` is False when the native model failed on the holdout itself."""

    form: str
    reason: str
    answered: bool
    parity: dict[str, Any]


def compile_model(arguments: Mapping[str, Any]) -> Any:
    """Compile as a :class:`CompileCall` says and give a :class:`Compiled`, both as plain data.

    Raises only what loading the native model raises: a model that no form fits is answered by its own code.
    """
    call = msgspec.convert(dict(arguments), CompileCall)
    native = Native(Path(call.bundle))
    rows = {name: pl.read_ipc(path) for name, path in (("holdout", call.holdout), ("sample", call.sample))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept, form = _compile(native, call.signature, rows["holdout"], rows["sample"], Path(call.answers))
    if form is not None:
        Path(call.output).mkdir(parents=True)
        for name, content in form.files().items():
            (Path(call.output) / name).write_bytes(content)
    return msgspec.to_builtins(kept)


class _Tried(NamedTuple):
    """What came of one candidate: a form that agrees, or why there is none."""

    form: Form | None
    reason: str
    facts: Mapping[str, Any]

    def cost(self) -> float:
        """What is compared to find the fastest: halving either time counts the same."""
        return float(self.facts["one_row_ms"] * self.facts["holdout_ms"])


def _compile(
    native: Native, signature: Signature, holdout: pl.DataFrame, sample: pl.DataFrame, answers: Path
) -> tuple[Compiled, Form | None]:
    def own(frame: pl.DataFrame) -> pl.DataFrame:
        return answer_natively(native, signature, frame)

    try:
        expected, seconds = _timed(own, holdout)
    except Exception as error:  # noqa: BLE001 - user code; the judge will meet and tell the same failure
        return Compiled(
            form="native", reason=f"it failed on the holdout: {_words(error)}", answered=False, parity={}
        ), None
    expected.write_ipc(answers)
    forms: dict[str, Any] = {"native": {"verdict": "the user's own code", "holdout_ms": seconds * 1e3}}
    if holdout.height:
        forms["native"]["one_row_ms"] = _one_row_ms(lambda: own(holdout[:1]))
    parity: dict[str, Any] = {"holdout_rows": holdout.height, "forms": forms}
    if native.function is not None:
        reason = "the project has its own predict function"
        return Compiled(form="native", reason=reason, answered=True, parity=parity), None
    bench = _Bench(own, signature, sample, Case(name="the holdout", rows=holdout, native=expected))
    try:
        offered = candidates(native.model, signature)
    except Exception as error:  # noqa: BLE001 - a model of another version may lack any attribute
        reason = f"it could not be read: {_words(error)}"
        return Compiled(form="native", reason=reason, answered=True, parity=parity), None
    found: dict[str, _Tried] = {}
    for candidate in offered:
        if candidate.spare and any(tried.form for tried in found.values()):
            forms[candidate.name] = {"verdict": "not tried", "reason": "another form agrees"}
            continue
        tried = found[candidate.name] = bench.tried(candidate)
        verdict = "agrees" if tried.form else "refused"
        forms[candidate.name] = {"verdict": verdict, "reason": tried.reason, **tried.facts}
    agreeing = [name for name, tried in found.items() if tried.form is not None]
    if not agreeing:
        reason = next(iter(found.values())).reason
        return Compiled(form="native", reason=reason, answered=True, parity=parity), None
    kept = min(agreeing, key=lambda name: found[name].cost())
    forms[kept]["verdict"] = "kept"
    form, facts = found[kept].form, found[kept].facts
    assert form is not None
    parity |= {"rtol": facts["rtol"], "atol": ATOL, "largest_gap": facts["largest_gap"]}
    parity |= {"made_rows": facts["rows"] - holdout.height}
    return Compiled(form=form.name, reason="", answered=True, parity=parity), form


def _made(sample: pl.DataFrame, signature: Signature) -> dict[str, pl.DataFrame]:
    made = made_rows(sample, signature)
    return {"made rows": made.calm, "rows of rare values": made.risky, "rows of extremes": made.far}


class _Bench:
    """What every candidate is held against: the native model, ``own``, its answers to the holdout and to made rows.

    The model is asked about made rows only when there is a form to compare.
    """

    def __init__(self, own: Answer, signature: Signature, sample: pl.DataFrame, whole: Case) -> None:
        self._own = own
        self._signature = signature
        self._sample = sample
        self._whole = whole

    @cached_property
    def _cases(self) -> list[Case]:
        return [self._whole, *cases_of(self._own, _made(self._sample, self._signature))]

    def tried(self, candidate: Candidate) -> _Tried:
        """Make the forms of a candidate, and take the first that agrees."""
        try:
            forms = candidate.make()
        except Unfoldable as error:
            return _Tried(None, bounded(str(error), _REASON_CHARS), {})
        except Exception as error:  # noqa: BLE001 - a model of another version may lack any attribute
            return _Tried(None, f"it could not be read: {_words(error)}", {})
        first = None
        for form in forms:
            tried = self._compared(form)
            if tried.form is not None:
                return tried
            first = first or tried
        assert first is not None
        return first

    def _compared(self, form: Form) -> _Tried:
        cases = [*self._cases, *self._splits(form)]
        found = check_parity(form, cases)
        facts: dict[str, Any] = {"rows": found.rows, "largest_gap": found.largest_gap, "rtol": found.rtol}
        reason = found.reason
        rows = self._whole.rows if self._whole.rows.height else self._sample.select(self._signature.names)
        if found.agrees and rows.height and not self._alike(form, rows[:_ROWS_COMPARED]):
            reason = "answers single rows otherwise than frames"
        if reason:
            return _Tried(None, f"the form '{form.name}' {reason}", facts)
        facts["holdout_ms"] = _timed(form.answer, rows)[1] * 1e3
        facts["one_row_ms"] = 0.0
        if rows.height:
            single, one = rows_of(form, self._signature), rows.rows()[:1]
            facts["one_row_ms"] = _one_row_ms(lambda: single.answers(one))
        return _Tried(form, "", facts)

    def _splits(self, form: Form) -> list[Case]:
        if not isinstance(form, LightGbm | TreeForest):
            return []
        rows = split_rows(self._sample, self._signature, form.features, form.thresholds())
        return cases_of(self._own, {"rows at split thresholds": rows})

    def _alike(self, form: Form, frame: pl.DataFrame) -> bool:
        """Whether a few rows get as tuples, the way of a server, what they get as a frame."""
        singles = rows_of(form, self._signature).answers(frame.fill_nan(None).rows())
        if any(isinstance(given, InterlockError) for given in singles):
            return False
        together = answers_of(form.answer(frame), frame.height)
        return not difference(_as_frame(together), _as_frame(singles))[1]


def _as_frame(given: Any) -> pl.DataFrame:
    """Answers to rows as a frame, to be compared."""
    shares = [extra or () for _, extra in given]
    columns = [pl.Series("prediction", [value for value, _ in given])]
    columns += [pl.Series(f"probability_{place}", values) for place, values in enumerate(zip(*shares, strict=True))]
    return pl.DataFrame(columns)


def _words(error: Exception) -> str:
    """What may be recorded of it: an exception of user code may hold values of the data in its words."""
    text = error.message if isinstance(error, InterlockError) else type(error).__name__
    return bounded(" ".join(text.split()), _REASON_CHARS)


def _timed(answer: Answer, frame: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    started = time.perf_counter()
    result = answer(frame)
    return result, time.perf_counter() - started


def _one_row_ms(ask: Callable[[], Any]) -> float:
    """Median time of a call, in milliseconds; fewer calls when they are slow."""
    took: list[float] = []
    while len(took) < _ONE_ROW_CALLS and sum(took) < _ONE_ROW_BUDGET_S:
        started = time.perf_counter()
        ask()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3
