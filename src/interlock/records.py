"""Frozen nouns that the stages exchange, and the one way to turn them into bytes and digests.

Every record is a plain value: no clock, no disk, no behaviour beyond small derived properties. Digests are lower-case
hexadecimal SHA-256 of the canonical JSON (sorted keys, no white space, UTF-8, no NaN or infinity); those of data files
are BLAKE3 of their bytes.
Times are UTC, ISO 8601 with microseconds and a trailing ``Z``.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from interlock.errors import StoreFault

ColumnType = Literal["bool", "int", "float", "str", "date", "datetime", "bytes"]
"""Logical type of a column: int is 64-bit signed, float is binary64, datetime has microseconds and no zone (UTC).

bytes are kept as they are and never looked into: an image, a recording.
"""

Verdict = Literal["promote", "keep", "hold"]
"""promote: release it. keep: the champion stays. hold: a person must look."""

Who = Literal["candidate", "champion", "baseline"]

Tier = Literal["champion", "challenger", "last-good", "baseline", "abstain"]
"""Who answers: the champion, who is tried beside it, or who stands in for it while it cannot."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False, omit_defaults=False):
    """Base of all records: frozen, by keyword, unknown fields of newer versions ignored when read."""


# ---- bytes and digests -------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder(order="sorted")


def canonical(value: object) -> bytes:
    """Encode ``value`` as canonical JSON.

    Raises :class:`StoreFault` when it holds a NaN or an infinity (JSON has none, and ``null`` would be a lie), or text
    that is no Unicode (half a surrogate pair).
    """
    builtins = msgspec.to_builtins(value)
    _refuse_non_finite(builtins)
    try:
        return _encoder.encode(builtins)
    except UnicodeEncodeError as error:
        raise StoreFault(f"A record holds text that is no Unicode ({error.reason}).") from error


def _refuse_non_finite(value: object) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreFault(f"A record holds {value}, which JSON cannot carry.")
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_non_finite(item)


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of ``value``, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def short(full: str) -> str:
    """First 12 digits of a digest, for people."""
    return full[:12]


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds, e.g. ``2026-11-21T02:30:52.000000Z``: sorts as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str) -> datetime:
    """Inverse of :func:`timestamp`."""
    return datetime.fromisoformat(text)


# ---- data --------------------------------------------------------------------------------------------------------


class Column(Record, frozen=True, kw_only=True):
    """One column of a signature.

    ``categories`` holds the sorted distinct values of a string or bool column when there are at most
    ``settings.CATEGORY_CAP`` of them, else None. ``low`` and ``high`` are the observed range of a number (float),
    or of a date or datetime (ISO text); ``step`` is that of a forecast's time (:mod:`interlock.model.horizon`).
    """

    name: str
    type: ColumnType
    nullable: bool
    categories: tuple[str, ...] | None = None
    low: float | str | None = None
    high: float | str | None = None
    step: str | None = None


class Output(Record, frozen=True, kw_only=True):
    """Shape of the answer.

    kind: a ``label`` out of ``classes``, a ``number`` (training saw low to high), a ``ranking`` (a list of values of
    ``type``, best first), a ``text``, or ``any``.
    """

    kind: Literal["label", "number", "ranking", "text", "any"]
    type: ColumnType
    classes: tuple[str | int | bool, ...] | None = None
    low: float | None = None
    high: float | None = None


class Signature(Record, frozen=True, kw_only=True):
    """What a model takes (``inputs``, in the order of the training frame) and what it gives (``output``)."""

    inputs: tuple[Column, ...]
    output: Output | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input columns, in order."""
        return tuple(column.name for column in self.inputs)


class FileResult(Record, frozen=True, kw_only=True):
    """What became of one file of an inbox.

    status: ``accepted`` (its good rows are in the table), ``refused`` (whole, for ``reason``), ``unreadable``
    (quarantined whole), ``repeated`` (its bytes were ingested before, under ``first_name``).
    digest: BLAKE3 of the bytes; of a group of images, the digest of their names and their BLAKE3 digests.
    """

    source: str
    name: str
    digest: str
    size_bytes: int
    status: Literal["accepted", "refused", "unreadable", "repeated"]
    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    updated: int = 0
    quarantined: int = 0
    sequence: int = 0
    table_version: int | None = None
    reason: str = ""
    next_step: str = ""
    first_name: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    at: str = ""


class SourceVersion(Record, frozen=True, kw_only=True):
    """One source as a snapshot saw it: table ``version``, current rows, digest of its accepted files in order."""

    source: str
    version: int
    rows: int
    files: int
    digest: str


class ReferenceRows(Record, frozen=True, kw_only=True):
    """The rows of a source for reference, as a snapshot pinned them: ``key`` of the blob, ``digest`` of the content."""

    source: str
    key: str
    digest: str
    rows: int


class Snapshot(Record, frozen=True, kw_only=True):
    """One immutable version of the accepted rows, split. ``digest`` is of what it was made from, not of a path.

    ``training_key`` and ``holdout_key`` are the blob keys of the Parquet files; ``holdout_digest`` names the exact
    holdout rows (used to count how often they were asked). ``join_notes`` tell what a join dropped or multiplied.
    ``contracts`` are the digests of the data contracts that sources were held against when it was made.
    """

    digest: str
    sources: tuple[SourceVersion, ...]
    query: str
    columns: tuple[str, ...]
    rows: int
    training_rows: int
    holdout_rows: int
    training_key: str
    holdout_key: str
    training_digest: str
    holdout_digest: str
    split: str
    references: tuple[ReferenceRows, ...] = ()
    join_notes: tuple[str, ...] = ()
    contracts: dict[str, str] = {}
    at: str = ""


# ---- model -------------------------------------------------------------------------------------------------------


class Training(Record, frozen=True, kw_only=True):
    """One run of the user's training function, script or notebook.

    ``notebook`` is the SHA-256 of the executed notebook, which is the blob ``notebooks/<sha256>.ipynb``.
    """

    digest: str
    snapshot: str
    code: str
    params: dict[str, Any]
    seed: int
    status: Literal["done", "failed"]
    seconds: float
    peak_memory_bytes: int
    rows: int
    metrics: dict[str, float] = {}
    output_tail: str = ""
    error: str = ""
    notebook: str = ""
    at: str = ""


class Bundle(Record, frozen=True, kw_only=True):
    """A packed model. ``digest`` is the SHA-256 of its manifest, which lists every file with its own digest.

    ``form`` names the compiled form that answers in process (``linear``, ``forest``, ``onnx``, …), or ``native``
    when only the user's own code can answer. ``parity`` tells what was compared to keep that form, and under
    ``forms`` the verdict and times of each that was tried.
    """

    digest: str
    name: str
    task: str
    kind: Literal["model", "baseline"]
    form: str
    form_reason: str = ""
    parity: dict[str, Any] = {}
    size_bytes: int
    snapshot: str
    code: str
    params: dict[str, Any] = {}
    seed: int = 0
    signature: Signature
    at: str = ""


# ---- release -----------------------------------------------------------------------------------------------------


class Score(Record, frozen=True, kw_only=True):
    """One metric of one model on the holdout, with a two-sided bootstrap interval at the gate's confidence."""

    metric: str
    value: float
    low: float
    high: float


class Comparison(Record, frozen=True, kw_only=True):
    """Paired gain of the candidate over another model, oriented so that more is better.

    ``low`` is the one-sided lower bound at level ``alpha`` (after the holdout budget); ``differing`` counts the rows
    on which the two answers differ. ``method`` names how the bound was found. ``shuffled`` is the candidate itself with
    its answers in another order: what the same answers are worth when they know nothing of the rows.
    """

    against: Literal["champion", "baseline", "shuffled"]
    gain: float
    low: float
    high: float
    standard_error: float
    alpha: float
    differing: int
    method: str


class SliceScore(Record, frozen=True, kw_only=True):
    """Candidate and champion on the rows where ``column`` is ``value``; ``high`` bounds the gain from above."""

    column: str
    value: str
    rows: int
    candidate: float
    champion: float
    gain: float
    high: float


class Failure(Record, frozen=True, kw_only=True):
    """Why a model could not be scored: ``inputs-gone`` (the rows lack a column that it takes), or ``failed``."""

    kind: Literal["inputs-gone", "failed"]
    reason: str


class Consistency(Record, frozen=True, kw_only=True):
    """Does a row get the same answer again? Of ``asked`` answers, how many came out different, and by how much.

    ``of``: what was asked again: ``order`` (the same rows, shuffled) and ``alone`` (single rows and small chunks), each
    with its number of answers and of different ones. ``largest``: largest difference of a number or a probability,
    relative to the size of the answers; None where only labels were compared. ``tolerance``: what was let pass.
    """

    asked: dict[str, int]
    different: dict[str, int]
    largest: float | None = None
    tolerance: float


class Evaluation(Record, frozen=True, kw_only=True):
    """All that the gate may look at. ``evidence_key`` is the blob with truth and predictions, row by row.

    ``scores`` is by who (candidate, champion, baseline), ``extra`` by who and then by metric. ``asks`` numbers this
    comparison among those made on the same holdout rows. A champion in ``failures`` has no score and no comparison.
    ``edition`` names the rules of the judge, so that an old judgement is replayed by the rules of its day: 2 takes
    the skewness out of bounds and counts rows of one key as one; 3 tells no gain that the metric cannot have.
    ``units`` are the keys among the ``rows``.
    """

    candidate: str
    champion: str | None
    baseline: str
    snapshot: str
    holdout_digest: str
    metric: str
    greater_is_better: bool
    rows: int
    seed: int
    resamples: int
    asks: float
    scores: dict[str, Score]
    extra: dict[str, dict[str, float]] = {}
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScore, ...] = ()
    latency_ms: float | None = None
    size_bytes: int = 0
    evidence_key: str = ""
    evidence_digest: str = ""
    failures: dict[str, Failure] = {}
    edition: int = 1
    units: int | None = None
    consistency: Consistency | None = None


class Policy(Record, frozen=True, kw_only=True):
    """The owner's rules for the gate, from ``[gate]``; see ``settings.Gate`` for the meaning of each field."""

    metric: str
    at_least: float | None = None
    min_gain: float = 0.0
    confidence: float = 0.95
    slices: tuple[str, ...] = ()
    min_slice_rows: int = 30
    too_good: float = 0.9
    max_asks: int = 100
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    approval: bool = False
    row_by_row: bool = True


class Check(Record, frozen=True, kw_only=True):
    """One question of the gate: what was seen, what was asked, and the reason in words."""

    name: str
    passed: bool
    on_fail: Verdict
    observed: float | None = None
    required: float | None = None
    reason: str


class Decision(Record, frozen=True, kw_only=True):
    """The gate's answer: a pure function of an evaluation and a policy."""

    verdict: Verdict
    candidate: str
    champion: str | None
    reason: str
    checks: tuple[Check, ...]


class Receipt(Record, frozen=True, kw_only=True):
    """A decision with all that is needed to replay it."""

    evaluation: Evaluation
    policy: Policy
    decision: Decision


class Release(Record, frozen=True, kw_only=True):
    """What is live now, and why: ``cause`` in a word, ``because`` in many.

    ``route`` is who is asked first: last good, while the breaker has taken the champion off duty. ``challenger`` is
    tried beside the champion, in shadow or canary; ``receipt`` is always the champion's.
    """

    generation: int
    champion: str
    last_good: str | None
    baseline: str
    cause: Literal["gate", "approval", "rollback", "person", "breaker", "canary"]
    because: str
    receipt: int | None = None
    at: str = ""
    route: Literal["champion", "last-good"] = "champion"
    challenger: str | None = None


# ---- answers -----------------------------------------------------------------------------------------------------


class Audit(Record, frozen=True, kw_only=True):
    """One rule that a staged batch was held against."""

    name: str
    passed: bool
    reason: str


class BatchResult(Record, frozen=True, kw_only=True):
    """What became of one file to score. status: ``published``, ``refused`` (audit failed) or ``unreadable``.

    digest: BLAKE3 of the bytes. tier: as what ``model`` answered for the release ``generation``; anything but champion
    means that the champion could not. classes: what ``probability_0``, ``probability_1`` … of the answers are for, in
    order.
    """

    name: str
    digest: str
    status: Literal["published", "refused", "unreadable"]
    generation: int
    model: str
    tier: Tier = "champion"
    rows: int
    scored: int
    quarantined: int
    output: str = ""
    form: str = ""
    classes: tuple[str | int | bool, ...] = ()
    audits: tuple[Audit, ...] = ()
    reason: str = ""
    next_step: str = ""
    seconds: float = 0.0
    at: str = ""


# ---- memory ------------------------------------------------------------------------------------------------------


class Event(Record, frozen=True, kw_only=True):
    """One entry of the ledger. ``hash`` = SHA-256 of the canonical JSON of every other field, ``previous`` included."""

    sequence: int
    at: str
    kind: str
    subject: str
    turn: str
    facts: dict[str, Any]
    previous: str
    hash: str


class Fence(Record, frozen=True, kw_only=True):
    """Proof of a lease: the holder may commit while ``number`` is the highest handed out for ``name``."""

    name: str
    number: int
    holder: str


class Verification(Record, frozen=True, kw_only=True):
    """Outcome of checking the chain: events read, the head's hash, and the first break if there is one.

    ``clock_back``: the first entries that are dated before the one they follow, for the host's clock was set back. The
    order of entries is that of their sequence, whatever the clocks said.
    """

    events: int
    head: str
    broken_at: int | None = None
    reason: str = ""
    clock_back: tuple[int, ...] = ()


def facts_of(record: msgspec.Struct | Mapping[str, object]) -> dict[str, Any]:
    """Turn a record into the plain dictionary that an event carries."""
    result = msgspec.to_builtins(record)
    assert isinstance(result, dict)
    return result
