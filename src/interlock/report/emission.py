"""Send OpenLineage events, inside a worker process: the only module that imports ``openlineage``.

A run's id is made of the ledger and the entry, its times are those of the ledger, so that a repeat is the same event,
byte for byte. What an interrupted turn had written to a file is found there again and not written twice.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from interlock.errors import Misuse, bounded
from interlock.records import BatchResult, Event, FileResult, Receipt, Release, Snapshot, Training, moment, timestamp
from interlock.report.datasets import PRODUCER, Dataset, dataset
from interlock.report.following import without_secrets
from interlock.report.lineage import TURN, Beside, Places, file_name, wanted

ENDPOINT: Final = "api/v1/lineage"
_SPACE: Final = uuid.UUID("7c0a5a3e-6c0e-5d0c-9b0e-1f6f1d9f2b11")
_OPERATOR: Final = "operator"
_MESSAGE_CHARS: Final = 2_000


def open_emitter(arguments: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Import the library, and give the function that takes batches; raises :class:`Misuse` without the library."""
    try:
        import openlineage.client  # noqa: F401 - is it there?
    except ImportError as problem:
        raise Misuse(
            f"cannot be told: the OpenLineage client is not installed ({problem}).",
            next_step="pip install 'interlock[lineage]'",
        ) from problem
    to = str(arguments["to"])
    outlet = _Http(to, float(arguments["budget_s"])) if "://" in to else _File(Path(to))
    return _Emitter(arguments, outlet).take


class _Emitter:
    """One session with a destination."""

    def __init__(self, arguments: Mapping[str, Any], outlet: "_Http | _File") -> None:
        self.story = Story(
            namespace=str(arguments["namespace"]),
            model=str(arguments["model"]),
            ledger=str(arguments["ledger"]),
            places=msgspec.convert(arguments["places"], Places),
        )
        self.outlet = outlet

    def take(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Send a batch; stops at the first thing that does not work, and says what it was."""
        until = time.monotonic() + 0.8 * float(batch["budget_s"])
        mark, done, problem = dict(batch["mark"]), 0, ""
        self.outlet.begin(mark)
        try:
            for plain in batch["events"]:
                event = msgspec.convert(plain, Event)
                beside = msgspec.convert(batch["beside"][str(event.sequence)], Beside)
                for made in self.story.events_of(event, beside):
                    self.outlet.send(made)
                done = event.sequence
                if time.monotonic() > until:
                    problem = "had no more time"
                    break
        except Exception as error:  # noqa: BLE001 - whatever the transport raises is the other side's problem
            lines = str(error).splitlines() or [type(error).__name__]
            problem = f"refused or failed: {bounded(lines[0], 200)}"
        return {"done": done, "problem": problem, "mark": self.outlet.end()}


# ---- where they go -----------------------------------------------------------------------------------------------


class _Http:
    """A receiver of OpenLineage; a URL without a path gets the usual one."""

    def __init__(self, url: str, timeout_s: float) -> None:
        from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

        parts = urlsplit(url)
        endpoint = parts.path.lstrip("/") or ENDPOINT
        key = os.environ.get("OPENLINEAGE_API_KEY", "")
        self.transport = HttpTransport(
            HttpConfig(
                url=urlunsplit((parts.scheme, parts.netloc, "/", "", "")),
                endpoint=f"{endpoint}?{parts.query}" if parts.query else endpoint,
                timeout=timeout_s,
                auth=ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({}),
                retry={"total": 0},
            )
        )
        self.shown = without_secrets(url)

    def begin(self, mark: Mapping[str, Any]) -> None:
        """Nothing is remembered between batches."""
        del mark

    def send(self, event: Any) -> None:
        """Post one event; raises what the library raises."""
        try:
            self.transport.emit(event)
        except Exception as error:
            reply = getattr(error, "response", None)
            if reply is not None:
                raise OSError(f"answered {reply.status_code}") from error
            raise OSError(f"{type(error).__name__} at {self.shown}") from error

    def end(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}


class _File:
    """A file with one event a line, appended durably."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: set[tuple[str, str]] = set()
        self.fresh: list[bytes] = []

    def begin(self, mark: Mapping[str, Any]) -> None:
        """Read what stands behind the place that was remembered: an interrupted batch may have written it."""
        self.known, self.fresh = set(), []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            size, offset = self.path.stat().st_size, int(mark.get("bytes", 0))
            with self.path.open("rb") as file:
                file.seek(offset if offset <= size else 0)
                tail = file.read()
            self.known = {_identity(line) for line in tail.splitlines()}
            if tail and not tail.endswith(b"\n"):
                self.fresh.append(b"")  # ends the torn line, so that the next one stands alone

    def send(self, event: Any) -> None:
        """Keep one event for the end of the batch."""
        from openlineage.client.serde import Serde

        line = Serde.to_json(event).encode()
        if _identity(line) not in self.known:
            self.fresh.append(line)

    def end(self) -> dict[str, Any]:
        """Write what is new, durably, and remember the size."""
        if self.fresh:
            with self.path.open("ab") as file:
                file.write(b"\n".join([*self.fresh, b""]))
                file.flush()
                os.fsync(file.fileno())
        return {"bytes": self.path.stat().st_size} if self.path.is_file() else {}


def _identity(line: bytes) -> tuple[str, str]:
    """What makes an event the same: its run, and START, COMPLETE or FAIL. A torn line is none of them."""
    try:
        found = msgspec.json.decode(line, type=_Written)
    except msgspec.DecodeError:
        return "", ""
    return found.run.runId, found.eventType


class _WrittenRun(msgspec.Struct):
    runId: str  # noqa: N815 - as OpenLineage spells it


class _Written(msgspec.Struct):
    eventType: str  # noqa: N815 - as OpenLineage spells it
    run: _WrittenRun


# ---- what they say -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run of one stage: when it began, how it ended, what it read and wrote. ``error`` makes it a failure."""

    stage: str
    key: str
    seconds: float = 0.0
    error: str = ""
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()
    facets: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    query: str = ""


@dataclass(frozen=True)
class Story:
    """Turns entries of one ledger into OpenLineage events; pure."""

    namespace: str
    model: str
    ledger: str
    places: Places

    def run_id(self, key: str) -> str:
        """The same id for the same thing, whenever it is told."""
        return str(uuid.uuid5(_SPACE, f"{self.ledger}/{key}"))

    def events_of(self, event: Event, beside: Beside) -> Iterator[Any]:
        """START, and COMPLETE or FAIL, of the stage that an entry tells of."""
        from openlineage.client.event_v2 import Run, RunEvent, RunState

        if not wanted(event):
            return
        job = self._job(event, beside)
        ended = moment(event.at)
        facets = dict(job.facets)
        if event.kind != TURN and event.turn and _OPERATOR not in event.turn:
            facets["parent"] = self._parent(event.turn)
        for state, at in ((RunState.START, ended - timedelta(seconds=job.seconds)), (_end(job), ended)):
            run = Run(runId=self.run_id(job.key), facets=facets | _failure(job, state))
            yield RunEvent(
                eventType=state,
                eventTime=timestamp(at),
                run=run,
                job=self._described(job),
                inputs=[one.as_input() for one in job.inputs],
                outputs=[one.as_output() for one in job.outputs] if state != RunState.START else [],
                producer=PRODUCER,
            )

    def _parent(self, turn: str) -> Any:
        from openlineage.client.generated import parent_run

        return parent_run.ParentRunFacet(
            run=parent_run.Run(runId=self.run_id(f"turn/{turn}")),
            job=parent_run.Job(namespace=self.namespace, name=f"{self.model}.turn"),
            producer=PRODUCER,
        )

    def _described(self, job: Job) -> Any:
        from openlineage.client.event_v2 import Job as OpenLineageJob
        from openlineage.client.generated.base import JobFacet
        from openlineage.client.generated.job_type_job import JobTypeJobFacet
        from openlineage.client.generated.sql_job import SQLJobFacet

        kind = JobTypeJobFacet(processingType="BATCH", integration="INTERLOCK", jobType=job.stage, producer=PRODUCER)
        facets: dict[str, Any] = {"jobType": kind}
        if job.query:
            facets["sql"] = SQLJobFacet(query=job.query, producer=PRODUCER)
        if job.code:
            facets["interlock_code"] = JobFacet(producer=PRODUCER).with_additional_properties(digest=job.code)
        return OpenLineageJob(namespace=self.namespace, name=f"{self.model}.{job.stage}", facets=facets)

    def _job(self, event: Event, beside: Beside) -> Job:
        stage = event.kind.partition(".")[0]
        if stage in ("file", "training", "gate"):
            return {"file": self._ingest, "training": self._train, "gate": self._judge}[stage](event, beside)
        alone = {"snapshot": self._snapshot, "release": self._release, "batch": self._batch, "turn": self._turn}
        return alone[stage](event)

    def _ingest(self, event: Event, beside: Beside) -> Job:
        result = msgspec.convert(event.facts, FileResult)
        failed = result.status != "accepted"
        checks = [("rows fit the signature", result.quarantined == 0, f"{result.quarantined} of {result.rows} do not")]
        source = dataset(
            self.places.inboxes.get(result.source, result.source), file_name(event), version=result.digest
        ).read(result.rows, result.size_bytes, [] if failed else checks)
        table = dataset(self.places.lake, f"tables/sources/{result.source}", version=str(result.table_version))
        table = table.columns(beside.columns).change("CREATE" if result.table_version == 0 else "ALTER")
        return Job(
            stage=f"ingest.{result.source}",
            key=f"entry/{event.sequence}",
            seconds=result.seconds,
            error=f"{result.reason} {result.next_step}" if failed else "",
            inputs=[source],
            outputs=[] if failed or result.table_version is None else [table.written(result.accepted)],
        )

    def _snapshot(self, event: Event) -> Job:
        made = msgspec.convert(event.facts, Snapshot)
        sources = [
            dataset(self.places.lake, f"tables/sources/{one.source}", version=str(one.version)).read(one.rows)
            for one in made.sources
        ]
        parts = [(made.training_key, made.training_digest, made.training_rows)]
        parts += [(made.holdout_key, made.holdout_digest, made.holdout_rows)]
        outputs = [dataset(self.places.lake, key, version=digest).written(rows) for key, digest, rows in parts]
        return Job(stage="snapshot", key=f"entry/{event.sequence}", inputs=sources, outputs=outputs, query=made.query)

    def _train(self, event: Event, beside: Beside) -> Job:
        training = msgspec.convert(event.facts, Training)
        used = beside.snapshot
        rows = (
            [dataset(self.places.lake, used.training_key, version=used.training_digest).read(training.rows)]
            if used
            else []
        )
        failed = training.status == "failed"
        return Job(
            stage="train",
            key=f"entry/{event.sequence}",
            seconds=training.seconds,
            error=(training.error or "training failed") if failed else "",
            inputs=rows,
            outputs=[self._bundle(beside.bundle).change("CREATE")] if beside.bundle and not failed else [],
            code=training.code,
        )

    def _bundle(self, digest: str) -> Dataset:
        return dataset(self.places.lake, f"bundles/{digest}", version=digest)

    def _judge(self, event: Event, beside: Beside) -> Job:
        receipt = msgspec.convert(event.facts, Receipt)
        seen, used = receipt.evaluation, beside.snapshot
        checks = [(check.name, check.passed, check.reason) for check in receipt.decision.checks]
        inputs = [self._bundle(seen.candidate).checked(checks), self._bundle(seen.baseline)]
        inputs += [self._bundle(seen.champion)] if seen.champion else []
        inputs += (
            [dataset(self.places.lake, used.holdout_key, version=used.holdout_digest).read(seen.rows)] if used else []
        )
        evidence = dataset(self.places.lake, seen.evidence_key, version=seen.evidence_digest)
        return Job(
            stage="judge",
            key=f"entry/{event.sequence}",
            inputs=inputs,
            outputs=[evidence.written(seen.rows)] if seen.evidence_key else [],
        )

    def _release(self, event: Event) -> Job:
        made = msgspec.convert(event.facts, Release)
        live = dataset(self.places.lake, f"release/{self.model}", version=str(made.generation))
        return Job(
            stage="release",
            key=f"entry/{event.sequence}",
            inputs=[self._bundle(made.champion)],
            outputs=[live.change("CREATE" if made.generation == 1 else "OVERWRITE")],
        )

    def _batch(self, event: Event) -> Job:
        result = msgspec.convert(event.facts, BatchResult)
        failed = result.status != "published"
        checks = [(audit.name, audit.passed, audit.reason) for audit in result.audits]
        rows = dataset(self.places.to_score, file_name(event), version=result.digest).read(result.rows, None, checks)
        place = "" if "://" in result.output or Path(result.output).is_absolute() else self.places.root
        output = [dataset(place, result.output).written(result.scored).change("CREATE")] if result.output else []
        return Job(
            stage="batch",
            key=f"entry/{event.sequence}",
            seconds=result.seconds,
            error=f"{result.reason} {result.next_step}" if failed else "",
            inputs=[rows, *([self._bundle(result.model)] if result.model else [])],
            outputs=[] if failed else output,
        )

    def _turn(self, event: Event) -> Job:
        facts = event.facts
        error = str(facts.get("sentence", "")) if facts.get("outcome") == "failed" else ""
        return Job(stage="turn", key=f"turn/{event.subject}", seconds=float(facts.get("seconds", 0.0)), error=error)


def _end(job: Job) -> Any:
    from openlineage.client.event_v2 import RunState

    return RunState.FAIL if job.error else RunState.COMPLETE


def _failure(job: Job, state: Any) -> dict[str, Any]:
    from openlineage.client.event_v2 import RunState
    from openlineage.client.generated.error_message_run import ErrorMessageRunFacet

    if state != RunState.FAIL:
        return {}
    message = bounded(job.error, _MESSAGE_CHARS)
    return {"errorMessage": ErrorMessageRunFacet(message=message, programmingLanguage="python", producer=PRODUCER)}
