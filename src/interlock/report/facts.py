"""What the ledger and the blobs know about one release or one decision, gathered in one place.

Only recorded facts: events, documents, files of the bundle (each checked against its recorded digest before it is
shown) and the evidence of the holdout. No user code runs and no clock is read; the same records give the same story.
What should be there and is not is listed in ``missing``, never guessed.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import polars as pl

from interlock.data.profile import Profile
from interlock.errors import NotFound, NothingToServe
from interlock.model.train import notebook_key
from interlock.ports import Ledger, Parts
from interlock.records import (
    BatchResult,
    Bundle,
    Event,
    FileResult,
    Receipt,
    Record,
    Release,
    Snapshot,
    Training,
    Verification,
)
from interlock.release.canary import Ended
from interlock.settings import Settings
from interlock.tuning.standing import TrialRecord, TrialTable, Tuning

R = TypeVar("R", bound=Record)

FILE_KINDS = ("file.accepted", "file.refused", "file.unreadable", "file.repeated")
BATCH_KINDS = ("batch.published", "batch.refused", "batch.unreadable")
PROFILE_FILE = "profile.json"
_TEXT_BYTES = 2_000_000
LOCKS = frozenset({"requirements.txt", "conda.yaml", "python_env.yaml"})
"""Files of a bundle that pin its environment, by the names that MLflow gives them."""
_TEXT_ENDS = (".py", ".toml", ".sql", ".ipynb")
_TEXT_NAMES = LOCKS | {PROFILE_FILE}


@dataclass(frozen=True)
class Entry(Generic[R]):
    """A record with the event that carries it."""

    event: Event
    record: R


class BundleFile(Record, frozen=True, kw_only=True):
    """One file of a bundle as its manifest lists it; ``text`` is its content when it is text worth showing."""

    path: str
    digest: str
    size_bytes: int
    text: str | None = None


class Step(Record, frozen=True, kw_only=True):
    """One step of a turn, as the turn's last event tells it."""

    name: str
    seconds: float
    failed: bool = False


class TurnEnd(Record, frozen=True, kw_only=True):
    """What the last event of a turn says about its time."""

    steps: tuple[Step, ...] = ()
    seconds: float = 0.0


class _Served(Record, frozen=True, kw_only=True):
    sequence: int


class _Trained(Record, frozen=True, kw_only=True):
    training: Training
    bundle: str | None = None


@dataclass(frozen=True)
class Story:
    """All recorded facts about one candidate; ``release`` is None when the page is about a decision only."""

    settings: Settings
    verification: Verification
    head: Event
    candidate: str
    release: Entry[Release] | None = None
    receipt: Entry[Receipt] | None = None
    model: Entry[Bundle] | None = None
    champion: Bundle | None = None
    baseline: Bundle | None = None
    snapshot: Entry[Snapshot] | None = None
    training: Entry[Training] | None = None
    failed: tuple[Entry[Training], ...] = ()
    tuning: Entry[Tuning] | None = None
    trials: tuple[TrialRecord, ...] = ()
    files: tuple[Entry[FileResult], ...] = ()
    releases: tuple[Entry[Release], ...] = ()
    ended: tuple[Entry[Ended], ...] = ()
    decisions: tuple[Entry[Receipt], ...] = ()
    batches: tuple[Entry[BatchResult], ...] = ()
    bundle_files: tuple[BundleFile, ...] = ()
    profile: Profile | None = None
    evidence: pl.DataFrame | None = None
    turn: TurnEnd | None = None
    served: int | None = None
    notebook: bytes | None = None
    missing: tuple[str, ...] = field(default=())

    @property
    def task(self) -> str:
        """Task of the model: recorded with the bundle, else from the settings."""
        return self.model.record.task if self.model else self.settings.model.task

    @property
    def name(self) -> str:
        """Name of the model: recorded with the bundle, else from the settings."""
        return self.model.record.name if self.model else self.settings.model.name

    @property
    def target(self) -> str:
        """Column to predict, when the snapshot holds it and the model does not take it; else empty."""
        target = self.settings.model.target
        known = self.snapshot is not None and target in self.snapshot.record.columns
        return target if known and (self.model is None or target not in self.model.record.signature.names) else ""

    def text_of(self, path: str) -> str | None:
        """Content of a bundle's text file."""
        return next((file.text for file in self.bundle_files if file.path == path), None)


def story_of_release(parts: Parts, generation: int | None) -> Story:
    """Facts of a release, by default of the one in force.

    Raises :class:`NothingToServe` when nothing was released yet, and :class:`NotFound` for an unknown generation.
    """
    releases = _entries(parts.ledger, ("release.made",), Release)
    if not releases:
        raise NothingToServe("Nothing was released yet.", next_step="Run 'interlock run' first.")
    wanted = releases[-1].record.generation if generation is None else generation
    release = next((entry for entry in releases if entry.record.generation == wanted), None)
    if release is None:
        raise NotFound(
            f"There is no release {wanted}; the newest is {releases[-1].record.generation}.",
            next_step="'interlock history' lists them.",
            generation=wanted,
        )
    return _story(parts, release.record.champion, release, _receipt_of(parts.ledger, release), releases)


def story_of_decision(parts: Parts, receipt_sequence: int) -> Story:
    """Facts of a decision of the gate, released or not; raises :class:`NotFound` when that event is none."""
    entry = _receipt_at(parts.ledger, receipt_sequence)
    if entry is None:
        raise NotFound(
            f"Event {receipt_sequence} is not a decision of the gate.",
            next_step="'interlock history' lists them.",
            sequence=receipt_sequence,
        )
    releases = _entries(parts.ledger, ("release.made",), Release)
    return _story(parts, entry.record.decision.candidate, None, entry, releases)


# ---- gathering ---------------------------------------------------------------------------------------------------


def _story(
    parts: Parts,
    candidate: str,
    release: Entry[Release] | None,
    receipt: Entry[Receipt] | None,
    releases: Sequence[Entry[Release]],
) -> Story:
    ledger, missing = parts.ledger, []
    model = _latest(ledger, "bundle.packed", candidate, Bundle)
    snapshot = _latest(ledger, "snapshot.made", _snapshot_digest(model, receipt), Snapshot)
    champion = receipt.record.evaluation.champion if receipt else None
    baseline = receipt.record.evaluation.baseline if receipt else (release.record.baseline if release else None)
    files, notes = _bundle_files(parts, candidate)
    missing += notes
    evidence, notes = _evidence(parts, receipt)
    missing += notes
    profile = _profile(files)
    training = _training(ledger, model)
    tuning = _tuning(ledger, training)
    trials, notes = _trials(parts, tuning)
    missing += notes
    notebook, notes = _notebook(parts, training)
    missing += notes
    for what, there in (
        ("The decision's receipt", receipt),
        ("The bundle's record", model),
        ("The snapshot's record", snapshot),
        ("The training's record", training),
        ("The reference profile of the data", profile),
    ):
        missing += [] if there is not None else [f"{what} is not recorded."]
    last = ledger.events(newest_first=True, limit=1)[0]
    return Story(
        settings=parts.settings,
        verification=ledger.verify(),
        head=last,
        candidate=candidate,
        release=release,
        receipt=receipt,
        model=model,
        champion=_bundle(ledger, champion),
        baseline=_bundle(ledger, baseline),
        snapshot=snapshot,
        training=training,
        failed=tuple(_entries(ledger, ("training.failed",), Training)),
        tuning=tuning,
        trials=trials,
        files=_files(ledger, snapshot),
        releases=tuple(releases),
        ended=tuple(_entries(ledger, ("canary.ended",), Ended)),
        decisions=tuple(_entries(ledger, ("gate.decided",), Receipt)),
        batches=tuple(e for e in _entries(ledger, BATCH_KINDS, BatchResult) if e.record.model == candidate),
        bundle_files=files,
        profile=profile,
        evidence=evidence,
        turn=_turn(ledger, receipt.event if receipt else None),
        served=_served(ledger, release),
        notebook=notebook,
        missing=tuple(missing),
    )


def _entries(ledger: Ledger, kinds: Sequence[str], type_: type[R], subject: str | None = None) -> list[Entry[R]]:
    events = ledger.events(kinds=kinds, subject=subject)
    return [Entry(event, msgspec.convert(event.facts, type_)) for event in events]


def _latest(ledger: Ledger, kind: str, subject: str | None, type_: type[R]) -> Entry[R] | None:
    if subject is None:
        return None
    found = ledger.events(kinds=(kind,), subject=subject, newest_first=True, limit=1)
    return Entry(found[0], msgspec.convert(found[0].facts, type_)) if found else None


def _receipt_at(ledger: Ledger, sequence: int) -> Entry[Receipt] | None:
    found = ledger.events(kinds=("gate.decided",), after=sequence - 1, limit=1)
    if not found or found[0].sequence != sequence:
        return None
    return Entry(found[0], msgspec.convert(found[0].facts, Receipt))


def _receipt_of(ledger: Ledger, release: Entry[Release]) -> Entry[Receipt] | None:
    """The decision that a release rests on: its own, or for a roll-back the one that first let its champion through."""
    if release.record.receipt is not None:
        return _receipt_at(ledger, release.record.receipt)
    earlier = _entries(ledger, ("gate.decided",), Receipt, release.record.champion)
    return next((entry for entry in reversed(earlier) if entry.event.sequence < release.event.sequence), None)


def _snapshot_digest(model: Entry[Bundle] | None, receipt: Entry[Receipt] | None) -> str | None:
    if model is not None:
        return model.record.snapshot
    return receipt.record.evaluation.snapshot if receipt else None


def _bundle(ledger: Ledger, digest: str | None) -> Bundle | None:
    return ledger.read("bundle", digest, Bundle) if digest else None


def _training(ledger: Ledger, model: Entry[Bundle] | None) -> Entry[Training] | None:
    """The run that the bundle was packed from, by the document that joins the two."""
    if model is None:
        return None
    for key, document in ledger.scan("training", _Trained):
        if document.bundle == model.record.digest:
            return _latest(ledger, "training.done", key, Training)
    return None


def _tuning(ledger: Ledger, training: Entry[Training] | None) -> Entry[Tuning] | None:
    """The search whose parameters a training used: the last one before it, of the same code, that agrees with it."""
    if training is None:
        return None
    run = training.record
    for entry in reversed(_entries(ledger, ("tune.done",), Tuning)):
        found = entry.record
        same = found.code == run.code and found.params.items() <= run.params.items()
        if same and entry.event.sequence < training.event.sequence:
            return entry
    return None


def _trials(parts: Parts, tuning: Entry[Tuning] | None) -> tuple[tuple[TrialRecord, ...], list[str]]:
    """Every trial of a search, when the bytes of its table are those that were recorded."""
    if tuning is None:
        return (), []
    content = _blob(parts, tuning.record.trials_key)
    if content is None:
        return (), ["The table of the search's trials is recorded, but its blob is gone."]
    if hashlib.sha256(content).hexdigest() != tuning.record.trials_digest:
        return (), ["The table of the search's trials is not the one that was recorded. It is not used here."]
    return msgspec.json.decode(content, type=TrialTable).trials, []


def _files(ledger: Ledger, snapshot: Entry[Snapshot] | None) -> tuple[Entry[FileResult], ...]:
    """What became of every file that landed before the snapshot was made."""
    entries = _entries(ledger, FILE_KINDS, FileResult)
    return tuple(e for e in entries if snapshot is None or e.event.sequence < snapshot.event.sequence)


def _turn(ledger: Ledger, anchor: Event | None) -> TurnEnd | None:
    """How the turn ended in which ``anchor`` was written; None for a turn that was killed, or an act of a person."""
    if anchor is None or not anchor.turn:
        return None
    found = ledger.events(kinds=("turn.ended",), subject=anchor.turn, limit=1)
    return msgspec.convert(found[0].facts, TurnEnd) if found else None


def _served(ledger: Ledger, release: Entry[Release] | None) -> int | None:
    """The event of the batch by which a release proved itself in service."""
    found = ledger.read("served", f"{release.record.generation:010d}", _Served) if release else None
    return found.sequence if found else None


# ---- blobs -------------------------------------------------------------------------------------------------------


def _evidence(parts: Parts, receipt: Entry[Receipt] | None) -> tuple[pl.DataFrame | None, list[str]]:
    """Truth and answers of the holdout, when its bytes are those that were recorded."""
    if receipt is None or not receipt.record.evaluation.evidence_key:
        return None, ["The evidence of the holdout is not recorded."]
    evaluation = receipt.record.evaluation
    content = _blob(parts, evaluation.evidence_key)
    if content is None:
        return None, ["The evidence of the holdout is recorded, but its blob is gone."]
    if evaluation.evidence_digest and hashlib.sha256(content).hexdigest() != evaluation.evidence_digest:
        return None, ["The evidence blob is not the one that was recorded: its digest differs. It is not used here."]
    return pl.read_parquet(io.BytesIO(content)), []


def _notebook(parts: Parts, training: Entry[Training] | None) -> tuple[bytes | None, list[str]]:
    """The executed notebook of the training, when its bytes are those that were recorded."""
    name = training.record.notebook if training else ""
    if not name:
        return None, []
    content = _blob(parts, notebook_key(name))
    if content is None:
        return None, ["The executed notebook is recorded, but its blob is gone."]
    if hashlib.sha256(content).hexdigest() != name:
        return None, ["The executed notebook is not the one that was recorded: its digest differs. It is not shown."]
    return content, []


class _Listed(Record, frozen=True, kw_only=True):
    path: str
    digest: str
    size_bytes: int


class _Manifest(Record, frozen=True, kw_only=True):
    files: tuple[_Listed, ...] = ()


def _bundle_files(parts: Parts, bundle: str) -> tuple[tuple[BundleFile, ...], list[str]]:
    """The manifest's files, in its order, with the text of those that are text; only bytes that verify are shown."""
    content = _blob(parts, f"bundles/{bundle}/manifest.json")
    if content is None:
        return (), ["The bundle's manifest is gone."]
    if hashlib.sha256(content).hexdigest() != bundle:
        return (), ["The bundle's manifest is not the one that was recorded: its digest differs. It is not used here."]
    files, missing = [], []
    for listed in msgspec.json.decode(content, type=_Manifest).files:
        text, note = _text(parts, bundle, listed) if _is_text(listed) else (None, "")
        missing += [note] if note else []
        files.append(BundleFile(path=listed.path, digest=listed.digest, size_bytes=listed.size_bytes, text=text))
    return tuple(files), missing


def _is_text(file: _Listed) -> bool:
    return file.size_bytes <= _TEXT_BYTES and (
        file.path.endswith(_TEXT_ENDS) or file.path.rsplit("/", 1)[-1] in _TEXT_NAMES
    )


def _text(parts: Parts, bundle: str, file: _Listed) -> tuple[str | None, str]:
    content = _blob(parts, f"bundles/{bundle}/{file.path}")
    if content is None:
        return None, f"The bundle's file {file.path} is gone."
    if hashlib.sha256(content).hexdigest() != file.digest:
        return None, f"The bundle's file {file.path} is not the one that was recorded: its digest differs."
    return content.decode("utf-8", "replace"), ""


def _blob(parts: Parts, key: str) -> bytes | None:
    try:
        return parts.blobs.get(key)
    except NotFound:
        return None


def _profile(files: Sequence[BundleFile]) -> Profile | None:
    """The reference profile that was packed with the model."""
    text = next((file.text for file in files if file.path == PROFILE_FILE), None)
    return msgspec.json.decode(text, type=Profile) if text is not None else None
