"""Pack a trained model under the digest of its bytes, and open a packed one only when every byte is as packed.

A bundle is a folder (see :mod:`interlock.model.manifest`) under ``bundles/<digest>/`` of the blobs: ``model/`` (the
native model), ``fast/`` (the form that answers in our own process), ``code/``, ``signature.json``, ``profile.json``,
the environment lock, and what makes it an MLflow model folder. The manifest is stored last: without it there is none.
"""

import contextlib
import platform
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl

from interlock.data.profile import Profile, profile
from interlock.data.signature import infer
from interlock.data.snapshot import feature_names, snapshot_frame
from interlock.errors import BundleCorrupt, NotFound, SettingsError, StoreFault, UserCodeFailed
from interlock.model import hooks, loader
from interlock.model.baseline import baseline_form, time_column
from interlock.model.calls import FrameKind, frame_kind
from interlock.model.compile import COMPILE_MODEL, Compiled
from interlock.model.contract import Contract, search_folders
from interlock.model.entry import Entry
from interlock.model.fit import MODEL_FILE
from interlock.model.horizon import step_of
from interlock.model.manifest import (
    FORMAT,
    MANIFEST,
    MANIFEST_BYTES,
    PROFILE,
    SIGNATURE,
    HookFunctions,
    InputColumn,
    Manifest,
    NativeSpec,
    PredictFunction,
    corrupt,
    files_of,
    listed,
    read_manifest,
    read_signature,
    verify,
)
from interlock.model.mlmodel import HOOKS, LOADER, environment, installed, mlmodel
from interlock.model.runner import Runner
from interlock.model.train import Trained
from interlock.ports import Parts, Turn
from interlock.records import (
    Bundle,
    Column,
    Output,
    Record,
    Signature,
    Snapshot,
    Training,
    canonical,
    facts_of,
    timestamp,
)
from interlock.records import digest as digest_of
from interlock.settings import Settings
from interlock.store.places import cache_of
from interlock.units import seconds

PARITY_ROWS = 100_000
"""Holdout rows on which a form is compared and the predictions are profiled: a seeded sample when there are more."""
_SAMPLE_ROWS = 256


@dataclass(frozen=True)
class Opened:
    """A verified bundle: its record, and the local folder that holds it. Read only."""

    bundle: Bundle
    path: Path

    def reference(self) -> Profile | None:
        """The profile of the training rows and of the answers on the holdout; None where there is none."""
        path = self.path / PROFILE
        return msgspec.json.decode(path.read_bytes(), type=Profile) if path.is_file() else None


class TrainingDocument(Record, frozen=True, kw_only=True):
    """The document ``training``: a finished training and the bundle that was packed from it."""

    training: Training
    bundle: str


# ---- pack --------------------------------------------------------------------------------------------------------


def pack(
    parts: Parts, turn: Turn, *, trained: Trained, contract: Contract, snapshot: Snapshot, runner: Runner
) -> Bundle:
    """Pack a trained model: find its form, profile its data and its answers, store it, record it.

    Raises :class:`UserCodeFailed` when the model cannot be loaded in a fresh process.
    """
    settings = parts.settings
    signature = signature_of(parts, snapshot)
    scratch = _scratch(settings, turn, "bundle")
    draft = scratch / "draft"
    _write_code(draft, Path(trained.code), contract)
    shutil.copytree(trained.folder, draft / "model")
    manifest = draft_manifest(settings, snapshot, signature, kind="model", code=contract.code)
    native = native_spec(Path(trained.folder), contract, settings, signature)
    manifest = msgspec.structs.replace(manifest, native=native)
    (draft / MANIFEST).write_bytes(canonical(manifest))  # for the loader; written again when all files are there
    compiled, answers = _compile(parts, turn, draft, signature, snapshot, runner)
    features = snapshot_frame(parts, snapshot.training_key).select(signature.names).collect()
    _write_facts(draft, signature, profile(features), answers)
    for name, text in environment(installed()).items():
        (draft / name).write_text(text, "utf-8")
    identity = [snapshot.digest, contract.code, settings.params, settings.model.seed, listed(draft / "model")]
    (draft / "MLmodel").write_text(mlmodel(signature, identity), "utf-8")
    manifest = msgspec.structs.replace(manifest, form=compiled.form)
    bundle = _store(parts, draft, manifest, signature)
    bundle = msgspec.structs.replace(bundle, form_reason=compiled.reason, parity=compiled.parity)
    _record(parts, turn, bundle, trained.training)
    shutil.rmtree(scratch, ignore_errors=True)
    return bundle


def _scratch(settings: Settings, turn: Turn, what: str) -> Path:
    folder = settings.home / "work" / turn.id / f"{what}-{secrets.token_hex(4)}"
    (folder / "draft").mkdir(parents=True)
    return folder


def signature_of(parts: Parts, snapshot: Snapshot) -> Signature:
    """Inputs as the training rows have them, and the output as the target has it."""
    settings = parts.settings
    rows = snapshot_frame(parts, snapshot.training_key)
    types = {name: kind for source in settings.sources.values() for name, kind in source.types.items()}
    target = settings.model.target
    wanted = [*feature_names(settings, snapshot.columns), *([target] if target else [])]
    columns = {column.name: column for column in infer(rows.select(wanted), types=types)}
    output = _output(rows, columns.pop(target), settings.model.task) if target else None
    signature = Signature(inputs=tuple(columns.values()), output=output)
    return _stepping(settings, signature, rows) if settings.model.task == "forecast" else signature


def _stepping(settings: Settings, signature: Signature, rows: pl.LazyFrame) -> Signature:
    """The signature of a forecast, with the step of its time."""
    time = time_column(settings, signature)
    inputs = [
        msgspec.structs.replace(column, step=step_of(rows.select(time).collect().to_series()))
        if column.name == time
        else column
        for column in signature.inputs
    ]
    return msgspec.structs.replace(signature, inputs=tuple(inputs))


def _output(rows: pl.LazyFrame, target: Column, task: str) -> Output:
    if task == "classification":
        if target.type not in ("str", "int", "bool"):
            raise SettingsError(
                f"The target '{target.name}' is {target.type}; classes are text, whole numbers or booleans.",
                next_step=f"Set types.{target.name} = 'str' under [data], or task = 'regression'.",
                column=target.name,
            )
        labels = rows.select(pl.col(target.name).drop_nulls().unique().sort()).collect().to_series().to_list()
        return Output(kind="label", type=target.type, classes=tuple(labels))
    low, high = target.low, target.high
    if task in ("regression", "forecast"):
        return Output(
            kind="number",
            type=target.type,
            low=low if isinstance(low, int | float) else None,
            high=high if isinstance(high, int | float) else None,
        )
    if task == "text" and target.type != "str":
        raise SettingsError(
            f"The target '{target.name}' is {target.type}, and the answers are to be text.",
            next_step=f"Set types.{target.name} = 'str' under [data], or another task.",
            column=target.name,
        )
    kind: Literal["ranking", "text", "any"] = "ranking" if task == "ranking" else "text" if task == "text" else "any"
    return Output(kind=kind, type=target.type)


def _write_code(draft: Path, code: Path, contract: Contract) -> None:
    """The user's files as they were trained with, and the loader for MLflow beside them."""
    for name in contract.files:
        to = draft / "code" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code / name, to)
    (draft / "code").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(loader.__file__), draft / "code" / f"{LOADER}.py")
    add_hooks(draft / "code", contract)


def add_hooks(code: Path, contract: Contract) -> None:
    """Put what calls SageMaker's functions beside the user's files in ``code``, where they have any."""
    if contract.predict is not None and contract.predict.kind == "hooks":
        shutil.copyfile(Path(hooks.__file__), code / f"{HOOKS}.py")


def native_spec(folder: Path, contract: Contract, settings: Settings, signature: Signature) -> NativeSpec:
    """How to load the model that training left in ``folder``."""
    entries = [contract.train, *([contract.predict] if contract.predict else [])]
    predict = contract.predict
    by_name = predict if predict is not None and predict.kind == "function" else None
    returned = contract.train.kind != "script" and (folder / MODEL_FILE).is_file()
    return NativeSpec(
        model=MODEL_FILE if returned else None,
        folders=tuple(search_folders(entries)),
        frames=_frames(contract.train),
        predict=PredictFunction(module=by_name.module, function=by_name.function) if by_name else None,
        hooks=_hooks(contract, settings, signature),
    )


def _hooks(contract: Contract, settings: Settings, signature: Signature) -> HookFunctions | None:
    """SageMaker's functions; columns have no names where a program was trained on files without a header."""
    entry, script = contract.predict, settings.script
    if entry is None or entry.kind != "hooks":
        return None
    named = contract.train.kind != "script" or script.format == "parquet" or bool(script.header)
    first = 1 if script.target_first and settings.model.target and script.format == "csv" else 0
    names: tuple[str | int, ...] = tuple(signature.names)
    return HookFunctions(
        module=entry.module,
        found=entry.parameters,
        content_type=script.content_type,
        accept=script.accept,
        rows_per_call=script.rows_per_call,
        header=bool(script.header),
        names=names if named else tuple(range(first, first + len(names))),
    )


def _frames(train: Entry) -> FrameKind:
    """The kind of frame that training took, which is what the model's own ``predict`` expects."""
    notes = [train.annotations[name] for name in ("X", "X_train", "data", "df") if name in train.annotations]
    return frame_kind(notes[0]) if notes else "pandas"


def draft_manifest(settings: Settings, snapshot: Snapshot, signature: Signature, *, kind: Any, code: str) -> Manifest:
    """Describe a model of these settings, as far as it is known before there are files."""
    return Manifest(
        format=FORMAT,
        name=settings.model.name,
        task=settings.model.task,
        kind=kind,
        form="native",
        snapshot=snapshot.digest,
        code=code,
        params=settings.params,
        seed=settings.model.seed,
        python=platform.python_version(),
        columns=tuple(InputColumn(name=c.name, type=c.type, nullable=c.nullable) for c in signature.inputs),
        native=None,
        files=(),
    )


def _compile(
    parts: Parts, turn: Turn, draft: Path, signature: Signature, snapshot: Snapshot, runner: Runner
) -> tuple[Compiled, pl.DataFrame | None]:
    """Find the form in a worker process; also gives the native model's answers on the holdout."""
    scratch = draft.parent
    holdout = snapshot_frame(parts, snapshot.holdout_key).select(signature.names).collect()
    if holdout.height > PARITY_ROWS:
        holdout = holdout.sample(PARITY_ROWS, seed=parts.settings.model.seed)
    holdout.write_ipc(scratch / "holdout.arrow")
    sample = snapshot_frame(parts, snapshot.training_key).select(signature.names).head(_SAMPLE_ROWS).collect()
    sample.write_ipc(scratch / "sample.arrow")
    outcome = runner.call(
        COMPILE_MODEL,
        {
            "bundle": str(draft),
            "signature": msgspec.to_builtins(signature),
            "holdout": str(scratch / "holdout.arrow"),
            "sample": str(scratch / "sample.arrow"),
            "output": str(draft / "fast"),
            "answers": str(scratch / "answers.arrow"),
            "writes": [str(scratch)],
            **session_arguments(draft, parts.settings.model.seed),
        },
        deadline_s=seconds(parts.settings.model.predict_deadline),
        say=turn.say,
    )
    compiled = msgspec.convert(outcome.value, Compiled)
    return compiled, pl.read_ipc(scratch / "answers.arrow") if compiled.answered else None


def _write_facts(draft: Path, signature: Signature, features: Profile, answers: pl.DataFrame | None) -> None:
    """``signature.json``, and ``profile.json`` over the training rows and the answers on the holdout."""
    (draft / SIGNATURE).write_bytes(canonical(signature))
    kind = signature.output.kind if signature.output is not None else "any"
    seen = profile(answers).columns if answers is not None and kind in ("label", "number") else ()
    (draft / PROFILE).write_bytes(canonical(Profile(rows=features.rows, columns=(*features.columns, *seen))))


# ---- baseline ----------------------------------------------------------------------------------------------------


def pack_baseline(parts: Parts, turn: Turn, *, snapshot: Snapshot) -> Bundle:
    """Pack the trivial model that every candidate must beat: prior, mean, or seasonal naive.

    Raises :class:`SettingsError` when there is no target to take it from.
    """
    settings = parts.settings
    if not settings.model.target:
        raise SettingsError("There is no baseline without model.target.", next_step="Name the column to predict.")
    signature = signature_of(parts, snapshot)
    training = snapshot_frame(parts, snapshot.training_key)
    form = baseline_form(settings, signature, training)
    scratch = _scratch(settings, turn, "baseline")
    draft = scratch / "draft"
    (draft / "fast").mkdir()
    for name, content in form.files().items():
        (draft / "fast" / name).write_bytes(content)
    features = training.select(signature.names).collect()
    holdout = snapshot_frame(parts, snapshot.holdout_key).select(signature.names).collect()
    _write_facts(draft, signature, profile(features), form.answer(holdout))
    manifest = draft_manifest(settings, snapshot, signature, kind="baseline", code=digest_of([form.name, FORMAT]))
    bundle = _store(parts, draft, msgspec.structs.replace(manifest, form=form.name), signature)
    _record(parts, turn, bundle, None)
    shutil.rmtree(scratch, ignore_errors=True)
    return bundle


# ---- store and record --------------------------------------------------------------------------------------------


def _store(parts: Parts, draft: Path, manifest: Manifest, signature: Signature) -> Bundle:
    """Store every file, the manifest last, and give the record."""
    (draft / MANIFEST).unlink(missing_ok=True)
    for name, entry in files_of(draft):
        if entry.is_symlink():
            raise corrupt(name, "is a link; save the file itself into the model's folder")
    manifest = msgspec.structs.replace(manifest, files=listed(draft))
    content = canonical(manifest)
    digest = digest_of(manifest)
    for file in manifest.files:
        parts.blobs.put(f"bundles/{digest}/{file.path}", draft / file.path)
    parts.blobs.put(f"bundles/{digest}/{MANIFEST}", content)
    return _bundle(manifest, digest, signature, at=timestamp(parts.clock.now()))


def _bundle(manifest: Manifest, digest: str, signature: Signature, *, at: str = "") -> Bundle:
    return Bundle(
        digest=digest,
        name=manifest.name,
        task=manifest.task,
        kind=manifest.kind,
        form=manifest.form,
        size_bytes=sum(file.size_bytes for file in manifest.files),
        snapshot=manifest.snapshot,
        code=manifest.code,
        params=manifest.params,
        seed=manifest.seed,
        signature=signature,
        at=at,
    )


def _record(parts: Parts, turn: Turn, bundle: Bundle, training: Training | None) -> None:
    """Record the bundle once, and which training it came of, in one transaction."""
    with turn.transaction(parts.ledger) as transaction:
        if transaction.read("bundle", bundle.digest, Bundle) is None:
            transaction.append("bundle.packed", bundle.digest, facts_of(bundle))
            transaction.put("bundle", bundle.digest, bundle)
        if training is not None:
            transaction.put("training", training.digest, TrainingDocument(training=training, bundle=bundle.digest))


# ---- open --------------------------------------------------------------------------------------------------------


def open_bundle(parts: Parts, digest: str, *, stored: bool = False) -> Opened:
    """Verify a bundle file by file, and only then say where it is.

    Blobs that are not local files are copied to the cache first; with ``stored`` the bytes in the lake are verified
    too, whatever the cache holds. Raises :class:`NotFound` when there is no such bundle, and :class:`BundleCorrupt`
    naming the file when a byte is not as packed.
    """
    local = parts.blobs.local(f"bundles/{digest}/{MANIFEST}")
    if stored and local is None:
        _verify_stored(parts, digest)
    opened = open_folder(local.parent if local is not None else _cached(parts, digest), digest)
    return _completed(opened, parts.ledger.read("bundle", digest, Bundle))


def open_folder(folder: Path, digest: str, recorded: Bundle | None = None) -> Opened:
    """Verify the bundle in a local folder; ``recorded`` completes what its files do not tell.

    Raises :class:`NotFound` when there is none, and :class:`BundleCorrupt`.
    """
    if not (folder / MANIFEST).is_file():
        raise NotFound(f"There is no bundle in {folder}.", next_step="See 'interlock history'.", bundle=digest)
    manifest = _manifest_in(folder, digest)
    verify(folder, manifest, digest)
    return _completed(Opened(bundle=_bundle(manifest, digest, read_signature(folder)), path=folder), recorded)


def _completed(opened: Opened, recorded: Bundle | None) -> Opened:
    if recorded is None:
        return opened
    bundle = msgspec.structs.replace(
        opened.bundle, form_reason=recorded.form_reason, parity=recorded.parity, at=recorded.at
    )
    return Opened(bundle=bundle, path=opened.path)


def _manifest_in(folder: Path, digest: str) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink() or path.stat().st_size > MANIFEST_BYTES:
        raise corrupt(MANIFEST, "is a link, or larger than any manifest", bundle=digest)
    return read_manifest(path.read_bytes(), digest)


def _verify_stored(parts: Parts, digest: str) -> None:
    """Fetch a bundle only to look at it."""
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        folder = Path(scratch) / digest
        _fetch(parts, digest, folder)
        verify(folder, _manifest_in(folder, digest), digest)


def _cached(parts: Parts, digest: str) -> Path:
    """Copy a bundle to the local cache; a copy that does not verify is thrown away and fetched again."""
    cache = cache_of(parts.settings)
    folder = cache.path(f"bundles/{digest}")
    if folder.is_dir():
        with contextlib.suppress(BundleCorrupt, OSError):
            verify(folder, _manifest_in(folder, digest), digest)
            cache.used(f"bundles/{digest}")
            return folder
        shutil.rmtree(folder)
    fresh = folder.with_name(f"{digest}.{secrets.token_hex(4)}")
    try:
        _fetch(parts, digest, fresh)
        fresh.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise StoreFault(
                f"The bundle cannot be copied to {folder}: {error}.", next_step="Free the disk."
            ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _fetch(parts: Parts, digest: str, to: Path) -> None:
    """Copy what the manifest lists, after seeing that this is all there is."""
    prefix = f"bundles/{digest}/"
    sizes = {blob.key.removeprefix(prefix): blob.size_bytes for blob in parts.blobs.list(prefix)}
    if MANIFEST not in sizes:
        raise NotFound(f"There is no bundle {digest[:12]}.", next_step="See 'interlock history'.", bundle=digest)
    if sizes[MANIFEST] > MANIFEST_BYTES:
        raise corrupt(MANIFEST, "is larger than any manifest", bundle=digest)
    manifest = read_manifest(parts.blobs.get(prefix + MANIFEST), digest)
    wanted = {MANIFEST: sizes[MANIFEST]} | {file.path: file.size_bytes for file in manifest.files}
    for name in sorted(wanted.keys() | sizes.keys()):
        if name not in wanted:
            raise corrupt(name, "was not packed", bundle=digest)
        if name not in sizes:
            raise corrupt(name, "is missing", bundle=digest)
        if sizes[name] != wanted[name]:
            raise corrupt(name, f"has {sizes[name]} bytes instead of {wanted[name]}", bundle=digest)
    for name in wanted:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        parts.blobs.fetch(prefix + name, to / name)


def session_arguments(folder: Path, seed: int) -> Mapping[str, Any]:
    """What every worker session needs to load a verified bundle's native model from ``folder``."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    if manifest.native is None:
        raise UserCodeFailed("This bundle has no native model.", next_step="Pack again.", cause="nonsense")
    folders = [str(folder / "code" / search) for search in manifest.native.folders]
    predict = manifest.native.predict
    label = f"{predict.function} in {predict.module}" if predict else "the model's predict"
    if manifest.native.hooks is not None:
        label = f"inference by {manifest.native.hooks.module}"
    return {"folders": folders, "seed": seed, "label": label}
