"""Send events to an MLflow server, inside a worker process: the only module that imports MLflow.

Every call can be made again: a run is found by a tag that names the ledger and the entry, a model version by its run, a
metric has the time of its event, a file that is there with the same size is not sent again. Retries are left to the
next batch: a client that retries by itself would make two runs of one request whose answer was lost.
"""

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from interlock.errors import Misuse, StoreFault, bounded
from interlock.records import Event, Receipt, Release, Training, canonical, moment, short
from interlock.report.tracking import Extra, receipt_of

_CONNECT_S: Final = 3.0
_PARAM_CHARS: Final = 500
_TAG_CHARS: Final = 4_000
_PARAMS_A_CALL: Final = 100
_METRICS_A_CALL: Final = 1_000
_ODD: Final = re.compile(r"[^\w./: -]")
_SECRET: Final = re.compile(r"//[^/@\s]*@")
ENTRY: Final = "interlock.entry"
_KIND: Final = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's pages show the experiment as one of trainings, not of prompts and traces."""


class _OutOfTimeError(Exception):
    """The budget of this batch is spent; what was sent stays sent."""


def open_mirror(arguments: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Connect, and give the function that takes batches.

    Raises :class:`StoreFault` when nobody listens there, and :class:`Misuse` when the client is not installed.
    """
    uri = str(arguments["uri"])
    _reach(uri)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, int(arguments["budget_s"])))
    try:
        from mlflow.tracking import MlflowClient, set_tracking_uri
    except ImportError as problem:
        raise Misuse(
            f"cannot be told: MLflow's client is not installed ({problem}).",
            next_step="pip install 'interlock[mlflow]'",
        ) from problem
    set_tracking_uri(uri)
    return _Mirror(MlflowClient(), arguments).take


def _reach(uri: str) -> None:
    """See in a moment whether anybody listens, before seconds are spent on importing the client."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
    except OSError as problem:
        raise StoreFault(f"did not answer ({problem})") from problem


class _Mirror:
    """One session with a server."""

    def __init__(self, client: Any, arguments: Mapping[str, Any]) -> None:
        self.client = client
        self.model = str(arguments["model"])
        self.task = str(arguments["task"])
        self.ledger = str(arguments["ledger"])
        self.project = ""
        self.until = 0.0
        self.runs: dict[int, str] = {}
        self.stores: dict[str, Any] = {}
        self._experiment = ""

    def take(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Send a batch; stops at the first thing that does not work, and says what it was."""
        self.until = time.monotonic() + 0.8 * float(batch["budget_s"])
        self.project = str(batch["project"])
        done, problem = 0, ""
        try:
            for plain in batch["events"]:
                event = msgspec.convert(plain, Event)
                self._send(event, msgspec.convert(batch["extras"][str(event.sequence)], Extra))
                done = event.sequence
                self._check_time()
            self._point(batch["aliases"])
        except _OutOfTimeError:
            problem = "had no more time"
        except Exception as error:  # noqa: BLE001 - whatever the client raises is the other side's problem
            problem = f"refused or failed: {_said(error)}"
        if problem and done == batch["events"][-1]["sequence"]:
            done = batch["events"][-2]["sequence"] if len(batch["events"]) > 1 else 0  # the aliases are still to be set
        return {"done": done, "problem": problem}

    def _check_time(self) -> None:
        if time.monotonic() > self.until:
            raise _OutOfTimeError

    def _send(self, event: Event, extra: Extra) -> None:
        if event.kind.startswith("training."):
            self._training(event, extra)
        elif extra.entry is not None:
            run = self._run(extra.entry)
            if run is None:
                return
            if event.kind == "bundle.packed":
                self._bundle(event, extra, run)
            elif event.kind == "gate.decided":
                self._decision(event, run)
            else:
                self._release(event, extra, run)

    # -- a training is a run

    def _training(self, event: Event, extra: Extra) -> None:
        training = msgspec.convert(event.facts, Training)
        ended = _millis(event.at)
        run = self._run(event.sequence) or self._create_run(event, training)
        params = {_name(key): _text(value, _PARAM_CHARS) for key, value in _flat(training.params)}
        self._log(run, params={"seed": str(training.seed), **params})
        metrics = {_name(key): value for key, value in training.metrics.items()}
        metrics |= {"train/seconds": training.seconds, "train/peak_memory_mb": training.peak_memory_bytes / 1e6}
        self._log(run, metrics={**metrics, "train/rows": float(training.rows)}, at=ended)
        if training.error:
            self._log(run, tags={"interlock.error": training.error, "mlflow.note.content": training.error})
        if extra.bundle:
            tags = {"interlock.bundle": extra.bundle, "mlflow.runName": short(extra.bundle)}
            self._log(run, tags=tags)
        self._put_text(run, canonical(training).decode(), "training.json")
        if training.output_tail:
            self._put_text(run, training.output_tail, "output.txt")
        self.client.set_terminated(run, "FAILED" if event.kind == "training.failed" else "FINISHED", ended)

    def _create_run(self, event: Event, training: Training) -> str:
        tags = {
            ENTRY: self._key(event.sequence),
            "interlock.training": training.digest,
            "interlock.snapshot": training.snapshot,
            "interlock.code": training.code,
            "interlock.task": self.task,
            "interlock.turn": event.turn,
            "mlflow.user": "interlock",
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": self.project,
            "mlflow.runName": f"training {short(training.digest)}",
        }
        start = _millis(event.at) - int(1000 * training.seconds)
        made = self.client.create_run(self._experiment_id(), start_time=start, tags=tags)
        self.runs[event.sequence] = made.info.run_id
        return str(made.info.run_id)

    def _key(self, entry: int) -> str:
        return f"{self.ledger}/{entry}"

    def _run(self, entry: int) -> str | None:
        """The run of a training, by its tag; one that a lost answer made twice is kept once."""
        if entry not in self.runs:
            found = self.client.search_runs(
                [self._experiment_id()],
                filter_string=f"tags.`{ENTRY}` = '{self._key(entry)}'",
            )
            if not found:
                return None
            first, *twins = sorted(str(run.info.run_id) for run in found)
            for twin in twins:
                self.client.delete_run(twin)
            self.runs[entry] = first
        return self.runs[entry]

    def _experiment_id(self) -> str:
        if not self._experiment:
            found = self.client.get_experiment_by_name(self.model)
            if found is not None and found.lifecycle_stage == "deleted":
                raise ValueError(f"the experiment '{self.model}' is deleted there; restore it")
            self._experiment = str(
                found.experiment_id if found else self.client.create_experiment(self.model, tags=_KIND)
            )
        return self._experiment

    # -- what became of it

    def _bundle(self, event: Event, extra: Extra, run: str) -> None:
        facts = event.facts
        tags = {
            "interlock.bundle": extra.bundle,
            "interlock.form": facts["form"],
            "interlock.size_bytes": facts["size_bytes"],
            "mlflow.runName": short(extra.bundle),
        }
        self._log(run, tags=tags)
        if not extra.folder:
            self._log(run, tags={"interlock.missing": extra.missing})
            return
        self._upload(run, Path(extra.folder))
        self._register(run, extra.bundle, facts)

    def _files(self, run: str) -> Any:
        """Where the files of a run live. The client's own listing asks for things that old servers do not know."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run not in self.stores:
            self.stores[run] = get_artifact_repository(self.client.get_run(run).info.artifact_uri)
        return self.stores[run]

    def _put_text(self, run: str, text: str, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text, "utf-8")
            self._files(run).log_artifact(str(path), "interlock")

    def _upload(self, run: str, folder: Path) -> None:
        """Send the files that are not there yet; ``MLmodel`` last, for without it the folder is no model."""
        there = self._listed(run, "model")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        for path in sorted(files, key=lambda path: path == folder / "MLmodel"):
            name = f"model/{path.relative_to(folder).as_posix()}"
            if there.get(name) != path.stat().st_size:
                self._check_time()
                self._files(run).log_artifact(str(path), name.rpartition("/")[0])

    def _listed(self, run: str, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in self._files(run).list_artifacts(folder):
            if item.is_dir:
                found |= self._listed(run, item.path)
            else:
                found[item.path] = item.file_size
        return found

    def _register(self, run: str, bundle: str, facts: Mapping[str, Any]) -> None:
        if self._version(run) is not None:
            return
        self._registered_model()
        source = f"{self.client.get_run(run).info.artifact_uri.rstrip('/')}/model"
        tags = {
            "interlock.bundle": bundle,
            "interlock.snapshot": str(facts["snapshot"]),
            "interlock.code": str(facts["code"]),
            "interlock.form": str(facts["form"]),
        }
        self.client.create_model_version(self.model, source, run_id=run, tags=tags, await_creation_for=0)

    def _registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model, tags={"interlock.task": self.task})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version(self, run: str) -> str | None:
        """The model version of a run; of several that a lost answer made, the first."""
        found = self.client.search_model_versions(f"name = '{self.model}' and run_id = '{run}'")
        versions = sorted(int(version.version) for version in found)
        for twin in versions[1:]:
            self.client.delete_model_version(self.model, str(twin))
        return str(versions[0]) if versions else None

    def _decision(self, event: Event, run: str) -> None:
        receipt = receipt_of(event.facts)
        decision = receipt.decision
        self._log(run, metrics=_gate_metrics(receipt), at=_millis(event.at), step=event.sequence)
        tags = {
            "interlock.verdict": decision.verdict,
            "interlock.reason": decision.reason,
            "interlock.decision": event.sequence,
            "interlock.metric": receipt.evaluation.metric,
            "interlock.champion_then": receipt.evaluation.champion or "none",
            "interlock.holdout": receipt.evaluation.holdout_digest,
            "mlflow.note.content": f"**{decision.verdict}**: {decision.reason}",
        }
        self._log(run, tags=tags)
        self._tag_version(run, {"interlock.verdict": decision.verdict}, f"{decision.verdict}: {decision.reason}")

    def _release(self, event: Event, extra: Extra, run: str) -> None:
        release = msgspec.convert(event.facts, Release)
        tags = {
            "interlock.release": release.generation,
            "interlock.release_cause": release.cause,
            "interlock.release_because": release.because,
        }
        self._log(run, tags=tags)
        self._tag_version(run, tags, f"Release {release.generation} ({release.cause}): {release.because}")
        if extra.dossier:
            self._check_time()
            self._files(run).log_artifact(extra.dossier, "dossier")
        elif extra.missing:
            self._log(run, tags={"interlock.missing": extra.missing})

    def _tag_version(self, run: str, tags: Mapping[str, Any], description: str) -> None:
        version = self._version(run)
        if version is None:
            return
        self.client.update_model_version(self.model, version, _text(description, _TAG_CHARS))
        for name, value in tags.items():
            self.client.set_model_version_tag(self.model, version, name, _text(value, _TAG_CHARS))

    # -- aliases

    def _point(self, aliases: Mapping[str, str]) -> None:
        """Let the aliases name what they name now, as far as those versions are there."""
        versions = {
            version.tags.get("interlock.bundle"): str(version.version)
            for version in sorted(
                self.client.search_model_versions(f"name = '{self.model}'"), key=lambda version: -int(version.version)
            )
        }
        if not versions:
            return
        set_now = {name: str(version) for name, version in self.client.get_registered_model(self.model).aliases.items()}
        for alias in ("champion", "challenger"):
            wanted = versions.get(aliases.get(alias, ""))
            if wanted is not None and set_now.get(alias) != wanted:
                self.client.set_registered_model_alias(self.model, alias, wanted)
            elif alias not in aliases and alias in set_now:
                self.client.delete_registered_model_alias(self.model, alias)

    # -- in calls that the server takes

    def _log(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
        at: int = 0,
        step: int = 0,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        listed = [Param(key, value) for key, value in (params or {}).items()]
        measured = [Metric(key, value, at, step) for key, value in (metrics or {}).items()]
        noted = [RunTag(key, _text(value, _TAG_CHARS)) for key, value in (tags or {}).items()]
        for start in range(0, len(listed), _PARAMS_A_CALL):
            self.client.log_batch(run, params=listed[start : start + _PARAMS_A_CALL])
        for start in range(0, len(measured), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=measured[start : start + _METRICS_A_CALL])
        if noted:
            self.client.log_batch(run, tags=noted)


# ---- values ------------------------------------------------------------------------------------------------------


def _gate_metrics(receipt: Receipt) -> dict[str, float]:
    """Scores of everybody, and the paired gains with their bounds, by names that sort together."""
    seen = receipt.evaluation
    found: dict[str, float] = {}
    for who, score in seen.scores.items():
        name = f"gate/{_name(score.metric)}/{who}"
        found |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    for who, extra in seen.extra.items():
        found |= {f"gate/{_name(metric)}/{who}": value for metric, value in extra.items()}
    for comparison in seen.comparisons:
        found[f"gate/gain_over_{comparison.against}"] = comparison.gain
        found[f"gate/gain_over_{comparison.against}_bound"] = comparison.low
    if seen.latency_ms is not None:
        found["gate/latency_ms"] = seen.latency_ms
    return found


def _flat(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _name(text: str) -> str:
    """A key that MLflow takes: no odd letters, no empty or dotted path parts."""
    parts = [part if part.strip(".") else "_" for part in _ODD.sub("_", text).split("/")]
    return "/".join(parts)[:250]


def _text(value: object, limit: int) -> str:
    text = value if isinstance(value, str) else canonical(value).decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _millis(at: str) -> int:
    return int(moment(at).timestamp() * 1000)


def _said(error: Exception) -> str:
    """The first line of what the client says, without secrets."""
    lines = str(error).strip().splitlines()
    return bounded(_SECRET.sub("//", lines[0] if lines else type(error).__name__), 200)
