"""The judge: candidate, champion and baseline answer the same held-out rows, by the packed bytes, and are scored.

It happens in two steps, so that a judgement can be replayed. First everybody answers, and truth and answers become the
*evidence*: one immutable blob, named by its digest. Then :mod:`interlock.release.assess` turns evidence into scores.
"""

import contextlib
import hashlib
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.data.snapshot import key_names, snapshot_frame
from interlock.errors import BundleCorrupt, DataRefused, NotFound, SettingsError, UserCodeFailed
from interlock.model.bundle import open_bundle
from interlock.model.predictor import Predictor, open_predictor
from interlock.model.runner import Runner
from interlock.ports import Blobs, Ledger, Parts, Turn
from interlock.records import Bundle, Consistency, Evaluation, Failure, Policy, Receipt, Record, Snapshot
from interlock.release import consistency, own_metric
from interlock.release.assess import (
    EDITION,
    STEP,
    Header,
    Terms,
    Witness,
    answer_columns,
    assess,
    read_evidence,
    shuffled_answers,
    write_evidence,
)
from interlock.release.gate import level, policy_of
from interlock.release.metrics import is_own, named_metric, shown_metrics
from interlock.release.resample import RESAMPLES
from interlock.release.slices import slice_columns
from interlock.settings import Settings
from interlock.units import seconds

_CHUNK_ROWS = 65_536
_WARM_UP_CALLS = 2
_LATENCY_CALLS = 11
_FEWEST_LATENCY_CALLS = 5
_LATENCY_BUDGET_S = 0.5


class Judged(Record, frozen=True, kw_only=True):
    """Where the receipt of a judgement is: the sequence of its event."""

    receipt: int


class Ask(Record, frozen=True, kw_only=True):
    """One question put to a holdout; the rows that it saw are named in the evidence."""

    candidate: str
    champion: str | None
    evidence_key: str
    receipt: int


def evaluation_key(candidate: str, champion: str | None, holdout_digest: str) -> str:
    """Make the document key of a judgement."""
    return f"{candidate}/{champion or 'none'}/{holdout_digest}"


def ask_key(holdout_digest: str, number: int) -> str:
    """Make the document key of the ``number``-th question put to a holdout."""
    return f"{holdout_digest}/{number:06d}"


# ---- the judgement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Heard:
    """What one model had to say: its answers as a frame, or why there are none, and what was measured."""

    witness: Witness
    answers: pl.DataFrame | None = None
    failure: Failure | None = None
    latency_ms: float | None = None
    consistency: Consistency | None = None


def judge(
    parts: Parts,
    turn: Turn,
    *,
    candidate: Bundle,
    champion: Bundle | None,
    baseline: Bundle,
    snapshot: Snapshot,
    runner: Runner,
) -> Evaluation:
    """Let three models answer the held-out rows, keep the evidence, and score it.

    What was recorded for the same models, rows and rules is returned as it is. Raises :class:`DataRefused` when there
    is nothing to judge on, :class:`SettingsError` when the metric does not fit, :class:`UserCodeFailed` when the
    candidate cannot answer, and :class:`BundleCorrupt`. A champion that cannot answer becomes a failure in the
    evaluation.
    """
    settings = parts.settings
    policy = policy_of(settings)
    for name in settings.gate.also:
        _ = own_metric.entry_of(name) if is_own(name) else named_metric(name, settings.model.task)
    holdout = _holdout(parts, snapshot)
    known = _recorded(parts.ledger, candidate.digest, champion.digest if champion else None, snapshot, policy)
    if known is not None:
        turn.say("judged before on the same rows")
        return known
    heard = []
    for who, bundle in (("candidate", candidate), ("champion", champion), ("baseline", baseline)):
        if bundle is not None:
            turn.say(f"{who} answers {holdout.height:,} held-out rows")
            heard.append(_hear(parts, who, bundle, holdout, runner))
    evidence, header = _evidence(parts, turn, heard, holdout, snapshot, runner)
    content = write_evidence(evidence, header)
    digest = hashlib.sha256(content).hexdigest()
    parts.blobs.put(f"evidence/{digest}.parquet", content)
    turn.say("comparing")
    asks = _asks(parts.ledger, parts.blobs, snapshot.holdout_digest, evidence["row"].to_numpy())
    facts = Evaluation(
        candidate=candidate.digest,
        champion=champion.digest if champion else None,
        baseline=baseline.digest,
        snapshot=snapshot.digest,
        holdout_digest=snapshot.holdout_digest,
        metric=policy.metric,
        greater_is_better=not is_own(policy.metric) or settings.gate.greater_is_better is not False,
        rows=evidence.height,
        seed=settings.model.seed,
        resamples=RESAMPLES,
        asks=asks,
        scores={},
        comparisons=(),
        latency_ms=heard[0].latency_ms,
        size_bytes=candidate.size_bytes,
        evidence_key=f"evidence/{digest}.parquet",
        evidence_digest=digest,
        failures={one.witness.who: one.failure for one in heard if one.failure is not None},
        edition=EDITION,
        consistency=heard[0].consistency,
    )
    return _assessed(facts, policy, evidence, header)


def reassess(parts: Parts, receipt: Receipt) -> Evaluation:
    """Score recorded evidence again, on the recorded terms.

    Raises :class:`~interlock.errors.NotFound` when the evidence is gone, and :class:`BundleCorrupt` when its bytes are
    not those that were recorded.
    """
    recorded = receipt.evaluation
    content = parts.blobs.get(recorded.evidence_key)
    if hashlib.sha256(content).hexdigest() != recorded.evidence_digest:
        raise BundleCorrupt(
            f"The bytes of {recorded.evidence_key} are not those that were recorded.",
            next_step="Restore the blob from a copy.",
            key=recorded.evidence_key,
        )
    return _assessed(recorded, receipt.policy, *read_evidence(content))


def _assessed(facts: Evaluation, policy: Policy, evidence: pl.DataFrame, header: Header) -> Evaluation:
    terms = Terms(
        metric=facts.metric,
        greater_is_better=facts.greater_is_better,
        confidence=policy.confidence,
        alpha=level(policy.confidence, facts.asks),
        min_slice_rows=policy.min_slice_rows,
        seed=facts.seed,
        resamples=facts.resamples,
        edition=facts.edition,
    )
    found = assess(evidence, header, terms)
    return msgspec.structs.replace(facts, **{name: getattr(found, name) for name in found.__struct_fields__})


def _recorded(
    ledger: Ledger, candidate: str, champion: str | None, snapshot: Snapshot, policy: Policy
) -> Evaluation | None:
    """Find the judgement of the same models on the same rows, if the rules that shape the evidence are the same."""
    judged = ledger.read("evaluation", evaluation_key(candidate, champion, snapshot.holdout_digest), Judged)
    if judged is None:
        return None
    event = ledger.events(kinds=["gate.decided"], after=judged.receipt - 1, limit=1)[0]
    receipt = msgspec.convert(event.facts, Receipt)
    shaping = ("metric", "confidence", "slices", "min_slice_rows", "row_by_row")
    same = all(getattr(receipt.policy, name) == getattr(policy, name) for name in shaping)
    return receipt.evaluation if same else None


def _holdout(parts: Parts, snapshot: Snapshot) -> pl.DataFrame:
    """Held-out rows that have a truth; raises :class:`DataRefused` when there are none."""
    target = parts.settings.model.target
    if not target:
        raise SettingsError("There is no truth to judge by.", next_step="Name the column to predict in model.target.")
    frame = snapshot_frame(parts, snapshot.holdout_key).collect()
    if target not in frame.columns:
        raise SettingsError(
            f"The held-out rows have no column '{target}'.", next_step="Set model.target, or mend data.query."
        )
    known = frame.filter(pl.col(target).is_not_null())
    if known.height == 0:
        raise DataRefused(
            f"None of the {frame.height} held-out rows has a value in '{target}', so nothing can be judged.",
            next_step="Add rows, or hold out a larger share in data.holdout.",
            rows=frame.height,
        )
    return known


# ---- answers -----------------------------------------------------------------------------------------------------


def _hear(parts: Parts, who: str, bundle: Bundle, holdout: pl.DataFrame, runner: Runner) -> _Heard:
    """Let one model answer. Only the champion may fail: it was good once, and the world may have moved on."""
    witness = Witness(who=who)
    missing = [name for name in bundle.signature.names if name not in holdout.columns]
    if missing and who == "champion":
        reason = f"it takes {', '.join(map(repr, missing[:5]))}, which the data no longer has."
        return _Heard(witness, failure=Failure(kind="inputs-gone", reason=reason))
    output = bundle.signature.output
    witness = Witness(who=who, classes=output.classes if output else None)
    rows = holdout.select(bundle.signature.names)
    try:
        opened = open_bundle(parts, bundle.digest)
        with contextlib.closing(open_predictor(opened, runner, parts.settings)) as predictor:
            answers = _answers(who, predictor, rows, parts.settings)
            latency, again = _measured(parts, predictor, rows, answers) if who == "candidate" else (None, None)
    except (UserCodeFailed, DataRefused, BundleCorrupt, NotFound) as problem:
        if who != "champion":
            raise
        return _Heard(witness, failure=Failure(kind="failed", reason=problem.recorded))
    return _Heard(witness, answers=answers, latency_ms=latency, consistency=again)


def _measured(
    parts: Parts, predictor: Predictor, rows: pl.DataFrame, answers: pl.DataFrame
) -> tuple[float, Consistency | None]:
    """How long one row takes, and whether rows get the same answers again."""
    latency = _latency_ms(parts, predictor, rows)
    if not parts.settings.gate.row_by_row:
        return latency, None
    return latency, consistency.measure(predictor.predict, rows, answers, parts.settings.model.seed, parts.clock)


def _answers(who: str, predictor: Predictor, rows: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Answer all rows, and make sure that what came back is one usable answer a row."""
    chunks = [predictor.predict(rows.slice(start, _CHUNK_ROWS)) for start in range(0, rows.height, _CHUNK_ROWS)]
    answers = pl.concat(chunks)
    prediction = answers["prediction"]
    numbers = settings.model.task in ("regression", "forecast")
    bad = prediction.null_count()
    if prediction.dtype.is_float():
        bad = answers.height - int(prediction.is_finite().fill_null(value=False).sum())
    reason = ""
    if answers.height != rows.height:
        reason = f"gave {answers.height} answers for {rows.height} rows"
    elif numbers and not (prediction.dtype.is_numeric() or prediction.dtype == pl.Boolean):
        reason = f"answered with {prediction.dtype} where numbers are due"
    elif bad:
        reason = f"gave no answer, or not a finite one, for {bad} of {rows.height} held-out rows"
    if reason:
        raise UserCodeFailed(
            f"The {who} {reason}.", next_step="Let the inference function answer every row.", cause="nonsense"
        )
    return answers


def _latency_ms(parts: Parts, predictor: Predictor, rows: pl.DataFrame) -> float:
    """Median time to answer one row, in milliseconds, after a warm-up, over rows spread through the holdout."""
    clock = parts.clock
    calls = _WARM_UP_CALLS + _LATENCY_CALLS
    took: list[float] = []
    started = clock.monotonic()
    for call in range(calls):
        one = rows.slice(call * rows.height // calls, 1)
        before = clock.monotonic()
        predictor.predict(one)
        took.append((clock.monotonic() - before) * 1e3)
        enough = len(took) >= _WARM_UP_CALLS + _FEWEST_LATENCY_CALLS
        if enough and clock.monotonic() - started > _LATENCY_BUDGET_S:
            break
    return statistics.median(took[_WARM_UP_CALLS:])


# ---- evidence ----------------------------------------------------------------------------------------------------


def _evidence(
    parts: Parts, turn: Turn, heard: Sequence[_Heard], holdout: pl.DataFrame, snapshot: Snapshot, runner: Runner
) -> tuple[pl.DataFrame, Header]:
    settings = parts.settings
    training = snapshot_frame(parts, snapshot.training_key)
    columns = [_row_names(holdout, key_names(settings, holdout.columns)), holdout[settings.model.target].alias("truth")]
    for one in heard:
        if one.answers is not None:
            columns += list(answer_columns(one.witness, one.answers))
    columns += _moments(settings, holdout)
    columns += slice_columns(training, holdout, settings.gate.slices)
    frame, shuffled = shuffled_answers(pl.DataFrame(columns), heard[0].witness, settings.model.seed)
    metric = policy_of(settings).metric
    header = Header(
        task=settings.model.task,
        models=(*(one.witness for one in heard if one.answers is not None), shuffled),
        scale=target_scale(settings, training) if settings.model.task == "forecast" else None,
        also=shown_metrics(settings.model.task, settings.gate.also, metric),
    )
    own = [name for name in (metric, *header.also) if is_own(name)]
    return frame, _with_own(parts, turn, runner, frame, header, own) if own else header


def _moments(settings: Settings, holdout: pl.DataFrame) -> list[pl.Series]:
    """Where the rows were held out by time: the order of their moments. A row without a time is of the first."""
    spec = settings.data.holdout
    if spec.last is None or spec.time is None:
        return []
    return [(holdout[spec.time].rank("dense").fill_null(1) - 1).cast(pl.UInt32).alias(STEP)]


def _row_names(holdout: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """Name each row by 64 bits of BLAKE2b over its key (the whole row without one): the same in every snapshot."""
    cells = [
        (pl.col(name).bin.encode("hex") if holdout.schema[name] == pl.Binary else pl.col(name).cast(pl.String))
        for name in (keys or holdout.columns)
    ]
    cells = [cell.fill_null("\x00") for cell in cells]
    texts = holdout.select(pl.concat_str(cells, separator="\x1f")).to_series()
    names = (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts)
    return pl.Series("row", np.fromiter(names, dtype=np.uint64, count=holdout.height))


def target_scale(settings: Settings, training: pl.LazyFrame) -> float | None:
    """Mean absolute change of the target from one training row to the next in time, within each series."""
    time, target = settings.data.holdout.time, settings.model.target
    if time is None:
        return None
    names = training.collect_schema().names()
    series = [name for name in key_names(settings, names) if name != time]
    change = pl.col(target).cast(pl.Float64).diff().abs()
    ordered = training.sort(time).select((change.over(series) if series else change).mean())
    found = ordered.collect().item()
    return None if found is None else float(found)


def _with_own(
    parts: Parts, turn: Turn, runner: Runner, frame: pl.DataFrame, header: Header, own: Sequence[str]
) -> Header:
    """Let a worker process call the user's own metrics, and put what they gave into the header."""
    settings = parts.settings
    scratch = settings.home / "work" / turn.id
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "evidence.parquet"
    frame.write_parquet(path)
    turn.say(f"your own metric: {', '.join(own)}")
    models = [model.who for model in header.models]
    given = own_metric.arguments(settings.root, own, policy_of(settings).metric, path, models, settings.model.seed)
    outcome = runner.call(own_metric.CHILD, given, deadline_s=seconds(settings.model.predict_deadline), say=turn.say)
    measured = msgspec.convert(outcome.value, dict[str, own_metric.Measured])
    return msgspec.structs.replace(header, own=measured)


# ---- how often was it asked? -------------------------------------------------------------------------------------


def _asks(ledger: Ledger, blobs: Blobs, holdout_digest: str, rows: NDArray[np.uint64]) -> float:
    """Number this question: 1, and for each earlier one the share of today's rows that it had seen.

    An earlier question whose evidence is gone is taken to have seen them all.
    """
    earlier: dict[str, list[Ask]] = {}
    for key, ask in ledger.scan("ask", Ask):
        earlier.setdefault(key.partition("/")[0], []).append(ask)
    total = 1.0
    for digest, asks in sorted(earlier.items()):
        share = 1.0 if digest == holdout_digest else _seen(blobs, asks[0].evidence_key, rows)
        total += share * len(asks)
    return total


def _seen(blobs: Blobs, evidence_key: str, rows: NDArray[np.uint64]) -> float:
    """Share of ``rows`` that are in an earlier body of evidence."""
    if not blobs.exists(evidence_key):
        return 1.0
    source = blobs.local(evidence_key) or io.BytesIO(blobs.get(evidence_key))
    before = pl.read_parquet(source, columns=["row"])["row"].to_numpy()
    return float(np.isin(rows, before).mean())
