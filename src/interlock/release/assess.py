"""From evidence to scores, purely: the same bytes of evidence and the same terms give the same bytes of judgement.

Evidence is one Parquet file. Columns: ``row`` (uint64, names the row by its key), ``truth``, ``<who>.prediction``,
``<who>.probability_<i>``, and ``slice.<column>`` (text: the slice of that column that the row is in). Rows held out by
time have ``step`` too (their moments in order, from 0). Features are not in it, except as slices. Its header, in the
file's own metadata, holds what else the scoring needs.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace as with_changes
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import SettingsError, StoreFault
from interlock.records import Comparison, Record, Score, SliceScore, canonical
from interlock.release.bounds import interval, paired_gain, percentiles, student
from interlock.release.found import text_codes
from interlock.release.metrics import METRICS, is_own, named_metric, truth_of
from interlock.release.own_metric import Measured, Sample
from interlock.release.resample import Floats, Groups, Integers, Joint, from_draws, generator, group_count
from interlock.release.score import Answers, Problem, Truth, Undefined
from interlock.release.serial import Memory

EDITION = 3
"""Rules of today: 1 knew neither skewness nor rows that belong together."""
FORMAT = 1
"""Version of the evidence's columns and header."""
_HEADER = "interlock"
STEP: Final = "step"
_SHUFFLE_STREAM = 1 << 20
"""A stream of random numbers beyond those of the slices."""
_FEWEST_ORDERS, _MOST_ORDERS, _ORDERS_BUDGET = 20, 200, 4_000_000
"""Shuffled orders to score: as many as 4 million rows allow."""
SHUFFLED: Final = "shuffled"
"""The candidate's own answers in another order, a witness beside the models."""
_AGAINST: dict[str, Literal["champion", "baseline", "shuffled"]] = {
    "champion": "champion",
    "baseline": "baseline",
    SHUFFLED: SHUFFLED,
}


class Witness(Record, frozen=True, kw_only=True):
    """One model that answered: its columns start with ``who``; ``classes`` name its columns of probabilities."""

    who: str
    classes: tuple[str | int | bool, ...] | None = None


def answer_columns(witness: Witness, answers: pl.DataFrame) -> Iterator[pl.Series]:
    """Name one model's answers (``prediction``, ``probability_<i>``) as evidence names them."""
    yield answers["prediction"].alias(f"{witness.who}.prediction")
    for place in range(len(witness.classes or ())):
        if f"probability_{place}" in answers.columns:
            yield answers[f"probability_{place}"].cast(pl.Float64).alias(f"{witness.who}.probability_{place}")


def shuffled_answers(frame: pl.DataFrame, candidate: Witness, seed: int) -> tuple[pl.DataFrame, Witness]:
    """Add the candidate's answers in a seeded random order to the evidence, as a witness of its own.

    A constant baseline is no match for guessing under every metric: labels scattered by their shares have a macro F1 of
    one in the number of classes, the constant answer less; the mean is not the best constant for an absolute error.
    Answers that know nothing of the rows are worth the same in any order (exchangeable with the shuffled ones), so
    whoever beats its own shuffled answers beyond doubt knows something (Good, Permutation Tests, 2000, ch. 3). One
    order is kept as evidence; the comparison draws many more.
    """
    order = generator(seed, _SHUFFLE_STREAM).permutation(frame.height)
    start = f"{candidate.who}."
    own = frame.select(pl.col(f"^{start}.*$")).rename(lambda name: f"{SHUFFLED}.{name.removeprefix(start)}")
    return frame.hstack(own[order]), Witness(who=SHUFFLED, classes=candidate.classes)


class Header(Record, frozen=True, kw_only=True):
    """What the scoring needs besides rows. ``models``: candidate first. ``scale``: see ``neg_mase``.

    ``also`` names the metrics to show, ``own`` holds what the user's own metrics gave.
    """

    format: int = FORMAT
    task: str
    models: tuple[Witness, ...]
    scale: float | None = None
    also: tuple[str, ...] = ()
    own: dict[str, Measured] = {}  # noqa: RUF012 - msgspec copies it


class Terms(Record, frozen=True, kw_only=True):
    """How to score. ``alpha`` is the level of every comparison, ``confidence`` that of intervals and slices.

    ``edition``: by the rules of which day, see :class:`~interlock.records.Evaluation`.
    """

    metric: str
    greater_is_better: bool
    confidence: float
    alpha: float
    min_slice_rows: int
    seed: int
    resamples: int
    edition: int = EDITION


class Assessment(Record, frozen=True, kw_only=True):
    """The part of an evaluation that follows from the evidence and the terms alone."""

    scores: dict[str, Score]
    extra: dict[str, dict[str, float]]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScore, ...]
    units: int | None


# ---- evidence as bytes -------------------------------------------------------------------------------------------


def write_evidence(frame: pl.DataFrame, header: Header) -> bytes:
    """Encode evidence."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata={_HEADER: canonical(header).decode()})
    return buffer.getvalue()


def read_evidence(content: bytes) -> tuple[pl.DataFrame, Header]:
    """Decode evidence; raises :class:`StoreFault` when the bytes are something else."""
    try:
        text = pl.read_parquet_metadata(io.BytesIO(content))[_HEADER]
        return pl.read_parquet(io.BytesIO(content)), msgspec.json.decode(text, type=Header)
    except (KeyError, msgspec.DecodeError, pl.exceptions.PolarsError) as problem:
        raise StoreFault(f"The evidence cannot be read: {type(problem).__name__}.") from problem


# ---- evidence as arrays ------------------------------------------------------------------------------------------


def problem_of(frame: pl.DataFrame, header: Header, truth: Truth) -> Problem:
    """Turn evidence into arrays; raises :class:`SettingsError` when it is not of the kind that is asked for."""
    if truth == "labels":
        return _labelled(frame, header.models)
    if truth == "ranking":
        return _ranked(frame, header.models)
    if truth == "text":
        return _worded(frame, header.models)
    return Problem(
        answers=tuple(Answers(numbers=_numbers(frame, f"{model.who}.prediction")) for model in header.models),
        numbers=_numbers(frame, "truth"),
        scale=header.scale,
    )


def _numbers(frame: pl.DataFrame, column: str) -> Floats:
    series = frame[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise SettingsError(
            f"A metric of numbers cannot score {column} of type {series.dtype}.",
            next_step="Set gate.metric to a metric of labels such as 'f1_macro', or to a function of your own.",
        )
    return series.cast(pl.Float64).to_numpy()


def _labelled(frame: pl.DataFrame, models: Sequence[Witness]) -> Problem:
    columns = ["truth", *(f"{model.who}.prediction" for model in models)]
    known = [pl.Series(model.classes) for model in models if model.classes]
    series = _alike([*(frame[column] for column in columns), *known])
    together = pl.concat(series)
    classes = tuple(together.unique().sort())
    codes = (together.rank("dense").cast(pl.Int64) - 1).to_numpy()
    ends = np.cumsum([len(one) for one in series])[:-1]
    parts = np.split(codes, ends)
    known_codes = iter(parts[len(columns) :])
    answers = []
    for place, model in enumerate(models):
        of_model = next(known_codes) if model.classes else None
        answers.append(
            Answers(labels=parts[1 + place], probabilities=_probabilities(frame, model.who, of_model, len(classes)))
        )
    return Problem(answers=tuple(answers), classes=classes, codes=parts[0])


def _ranked(frame: pl.DataFrame, models: Sequence[Witness]) -> Problem:
    """Codes of what was found, of one width for all models."""
    answers = [_of_type(frame, f"{model.who}.prediction", pl.List) for model in models]
    values = pl.concat([frame["truth"].cast(pl.String), *(one.explode().cast(pl.String) for one in answers)])
    codes = (values.rank("dense").cast(pl.Int64) - 1).to_numpy()
    lengths = [one.list.len().to_numpy() for one in answers]
    width = max((int(one.max(initial=0)) for one in lengths), default=0)
    start, found = frame.height, []
    for one in lengths:
        ranking = np.full((frame.height, width), -1, dtype=np.int64)
        ranking[np.arange(width)[None, :] < one[:, None]] = codes[start : start + int(one.sum())]
        start += int(one.sum())
        found.append(Answers(ranking=ranking))
    return Problem(answers=tuple(found), codes=codes[: frame.height])


def _worded(frame: pl.DataFrame, models: Sequence[Witness]) -> Problem:
    columns = ["truth", *(f"{model.who}.prediction" for model in models)]
    (codes, tokens), *answers = text_codes([_of_type(frame, name, pl.String).to_list() for name in columns])
    found = tuple(Answers(labels=whole, tokens=words) for whole, words in answers)
    return Problem(answers=found, codes=codes, tokens=tokens)


def _of_type(frame: pl.DataFrame, column: str, kind: type[pl.DataType]) -> pl.Series:
    series = frame[column]
    if series.dtype != kind:
        raise SettingsError(
            f"The metric cannot score {column} of type {series.dtype}.",
            next_step="Set gate.metric to one that fits model.task, or to a function of your own.",
        )
    return series


def _alike(series: Sequence[pl.Series]) -> list[pl.Series]:
    """Cast labels to one type: numbers to the wider one, anything mixed with text to text."""
    types = {one.dtype for one in series}
    if len(types) > 1 and pl.String in types:
        return [one.cast(pl.String).rename("label") for one in series]
    wide = pl.Float64 if pl.Float64 in types or pl.Float32 in types else pl.Int64
    numeric = all(kind.is_numeric() or kind == pl.Boolean for kind in types)
    return [(one.cast(wide) if numeric else one).rename("label") for one in series]


def _probabilities(frame: pl.DataFrame, who: str, codes: Integers | None, classes: int) -> Floats | None:
    """float64 [rows, classes]: a class that the model does not know has probability 0."""
    if codes is None or f"{who}.probability_0" not in frame.columns:
        return None
    chances = np.zeros((frame.height, classes))
    for place, code in enumerate(codes):
        chances[:, code] = frame[f"{who}.probability_{place}"].to_numpy()
    return chances


# ---- scores ------------------------------------------------------------------------------------------------------


def assess(frame: pl.DataFrame, header: Header, terms: Terms) -> Assessment:
    """Score every model, compare the candidate with the others, and look at slices.

    Raises :class:`Undefined` when the deciding metric has no value on these rows, :class:`SettingsError` when it does
    not fit the answers.
    """
    scorer = _Scorer(frame, header, terms)
    whole = scorer.joint()
    who = [model.who for model in header.models]
    scores = {}
    for place, name in enumerate(who):
        low, high = interval(whole, place, confidence=terms.confidence)
        scores[name] = Score(metric=terms.metric, value=float(whole.estimates[place]), low=low, high=high)
    comparisons = [scorer.comparison(whole, place) for place, name in enumerate(who) if place and name != SHUFFLED]
    if SHUFFLED in who:
        comparison, scores[SHUFFLED] = scorer.guessing(whole, who.index(SHUFFLED), scores[SHUFFLED])
        comparisons.append(comparison)
    return Assessment(
        scores=scores,
        extra=_extra(header, scorer),
        comparisons=tuple(comparisons),
        slices=tuple(scorer.slices()),
        units=None if terms.edition == 1 else group_count(scorer.groups, frame.height),
    )


class _Scorer:
    """One metric over one body of evidence."""

    def __init__(self, frame: pl.DataFrame, header: Header, terms: Terms) -> None:
        self.frame, self.header, self.terms = frame, header, terms
        self.own = header.own.get(terms.metric)
        self.metric = None if is_own(terms.metric) else named_metric(terms.metric, header.task)
        self.groups = None if terms.edition == 1 else groups_of(frame["row"])
        self.truth = self.metric.truth if self.metric is not None else truth_of(header.task)
        self.problem: Problem | None = None
        if self.truth is not None:
            steps = frame[STEP].cast(pl.Int64).to_numpy() if STEP in frame.columns else None
            self.problem = with_changes(problem_of(frame, header, self.truth), groups=self.groups, steps=steps)

    def joint(self, rows: NDArray[np.bool_] | None = None, name: str = "", stream: int = 0) -> Joint:
        """Score all models on all rows, or on those of the slice ``name``; raises :class:`Undefined`."""
        if self.metric is None:
            given = self._given(name, self.frame.height if rows is None else int(rows.sum()))
            if self.problem is None:
                return given
            return (self.problem if rows is None else self.problem.where(rows)).in_time(given)
        assert self.problem is not None
        problem = self.problem if rows is None else self.problem.where(rows)
        found = self.metric.joint(problem, generator(self.terms.seed, stream), self.terms.resamples)
        return with_changes(found, influence=None) if self.terms.edition == 1 else found

    def _given(self, name: str, rows: int) -> Joint:
        """Take what the user's own metric gave."""
        sample: Sample | None = None
        if self.own is not None:
            sample = self.own.slices.get(name) if name else self.own.whole
        if sample is None:
            raise Undefined(f"{self.terms.metric} has no value on these {rows} rows.")
        draws = np.array([[math.nan if v is None else v for v in one] for one in sample.draws], dtype=np.float64)
        method = f"bootstrap, {draws.shape[1]} resamples through the user's function"
        return from_draws(np.array(sample.estimates), draws, rows, method)

    def differing(self, other: int, rows: NDArray[np.bool_] | None = None) -> int:
        """Count the rows on which the candidate and another model answer differently."""
        if self.metric is not None and self.problem is not None:
            return self.metric.differing(self.problem if rows is None else self.problem.where(rows), 0, other)
        names = [f"{self.header.models[place].who}.prediction" for place in (0, other)]
        mine, theirs = (self.frame[name] for name in names)
        unequal = mine.ne_missing(theirs).to_numpy()
        return int((unequal if rows is None else unequal[rows]).sum())

    def comparison(self, joint: Joint, other: int) -> Comparison:
        """Compare the candidate with another model, at the level of the terms."""
        differing = self.differing(other)
        first, second = (0, other) if self.terms.greater_is_better else (other, 0)
        found = paired_gain(joint, first, second, alpha=self.terms.alpha, differing=differing)
        return Comparison(
            against=_AGAINST[self.header.models[other].who],
            gain=found.gain,
            low=found.low,
            high=found.high,
            standard_error=found.standard_error,
            alpha=self.terms.alpha,
            differing=differing,
            method=joint.method + _worth(found.memory),
        )

    def guessing(self, joint: Joint, other: int, single: Score) -> tuple[Comparison, Score]:
        """Compare the candidate with its own answers in many orders: a permutation test, and what guessing is worth.

        The bound lies below the candidate's score by the more cautious of the percentile of the shuffled scores and
        their mean plus Student's t times their spread (combinatorial central limit theorem: Hoeffding, Annals of
        Mathematical Statistics 22, 1951). A metric of the user's own, which cannot be called here, is compared with
        the one order of the evidence.
        """
        if self.metric is None or self.problem is None:
            return self.comparison(joint, other), single
        rng = generator(self.terms.seed, _SHUFFLE_STREAM + 1)
        problem = self.problem.only(0)
        count = max(_FEWEST_ORDERS, min(_MOST_ORDERS, _ORDERS_BUDGET // problem.rows))
        values = np.array(
            [self.metric.values(problem.reordered(rng.permutation(problem.rows)))[0] for _ in range(count)]
        )
        mean, spread, own = float(values.mean()), float(values.std(ddof=1)), float(joint.estimates[0])
        reach = student(self.terms.alpha, count - 1) * spread * math.sqrt(1.0 + 1.0 / count)
        below, above = percentiles(values, self.terms.alpha)
        low = own - max(mean + reach, above)
        if self.groups is not None or joint.steps is not None:  # shuffled row by row: what belongs together is added
            low = min(low, interval(joint, 0, confidence=1.0 - 2.0 * self.terms.alpha)[0] - mean)
        comparison = Comparison(
            against=SHUFFLED,
            gain=own - mean,
            low=low,
            high=own - min(mean - reach, below),
            standard_error=spread,
            alpha=self.terms.alpha,
            differing=self.differing(other),
            method=f"permutation test, {count} orders",
        )
        low, high = percentiles(values, (1.0 - self.terms.confidence) / 2.0)
        return comparison, Score(metric=self.terms.metric, value=mean, low=low, high=high)

    def slices(self) -> Iterator[SliceScore]:
        """Compare the candidate with the champion, or the baseline before there is one, on each slice.

        The upper bounds hold together with the stated confidence: Bonferroni over the slices that are judged.
        """
        found = list(_slice_rows(self.frame))
        judged = sum(int(rows.sum()) >= self.terms.min_slice_rows for _, _, rows in found)
        alpha = (1.0 - self.terms.confidence) / max(judged, 1)
        first, second = (0, 1) if self.terms.greater_is_better else (1, 0)
        for number, (column, value, rows) in enumerate(found):
            try:
                joint = self.joint(rows, f"{column}={value}", stream=number + 1)
            except Undefined:
                continue
            gain = paired_gain(joint, first, second, alpha=alpha, differing=self.differing(1, rows))
            yield SliceScore(
                column=column,
                value=value,
                rows=int(rows.sum()),
                candidate=float(joint.estimates[0]),
                champion=float(joint.estimates[1]),
                gain=gain.gain,
                high=gain.high,
            )


def _worth(found: Memory | None) -> str:
    if found is None:
        return ""
    return f"; {found.steps} moments in time, worth {max(1, int(found.worth))}, {found.freedom} degrees of freedom"


def groups_of(names: pl.Series) -> Groups:
    """Number the groups of rows that share a name (their key); None where no two do."""
    if names.n_unique() == len(names):
        return None
    return (names.rank("dense").cast(pl.Int64) - 1).to_numpy()


def _slice_rows(frame: pl.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    for column in frame.columns:
        if column.startswith("slice."):
            for value in frame[column].unique().sort():
                yield column.removeprefix("slice."), value, (frame[column] == value).to_numpy()


def _extra(header: Header, scorer: _Scorer) -> dict[str, dict[str, float]]:
    """Values of the metrics to show, by who and metric; what a model cannot be scored by is left out."""
    shown: dict[str, dict[str, float]] = {model.who: {} for model in header.models}
    for name in header.also:
        own = header.own.get(name)
        for place, model in enumerate(header.models):
            if own is not None:
                shown[model.who][name] = own.whole.estimates[place]
            elif name in METRICS and scorer.problem is not None:
                value = _single(name, scorer, scorer.problem, place)
                if value is not None:
                    shown[model.who][name] = value
    return shown


def _single(name: str, scorer: _Scorer, problem: Problem, place: int) -> float | None:
    metric = METRICS[name]
    if metric.truth != scorer.truth:
        return None
    try:
        return metric.values(problem.only(place))[0]
    except (Undefined, SettingsError):
        return None
