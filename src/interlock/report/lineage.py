"""Follow the ledger into OpenLineage: which job of which turn read and wrote what. ``emission`` makes the events.

Jobs are ``<model>.<stage>`` in the namespace of the settings; the parent of each run is its turn. Datasets are the
files of the inboxes, the tables of the sources, snapshots, bundles, evidence and published predictions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from interlock.ports import Parts
from interlock.records import Column, Event, Record, Snapshot
from interlock.report.following import Follower, ledger_id, without_secrets
from interlock.report.tracking import Link
from interlock.settings import Settings
from interlock.units import seconds

STAGES = (
    "file.accepted",
    "file.refused",
    "file.unreadable",
    "snapshot.made",
    "training.done",
    "training.failed",
    "gate.decided",
    "release.made",
    "batch.published",
    "batch.refused",
    "batch.unreadable",
)
TURN = "turn.ended"


class Places(Record, frozen=True, kw_only=True):
    """Where things are: the project, the folder of the lake, the inboxes by source, the inbox of files to score."""

    root: str
    lake: str
    inboxes: dict[str, str]
    to_score: str


class Beside(Record, frozen=True, kw_only=True):
    """What an event needs beyond its facts: the source's columns, the snapshot that was used, the bundle made."""

    columns: tuple[Column, ...] = ()
    snapshot: Snapshot | None = None
    bundle: str = ""


class _Layout(Record, frozen=True, kw_only=True):
    columns: tuple[Column, ...] = ()


def lineage_follower(parts: Parts) -> Follower:
    """The follower of ``lineage.to``."""
    settings = parts.settings
    to = settings.lineage.to
    is_url = to.startswith(("http://", "https://"))
    destination = to if is_url else str(settings.path(to))
    return Follower(
        name="openlineage",
        label=f"OpenLineage at {without_secrets(to)}" if is_url else f"OpenLineage in {to}",
        destination=destination,
        kinds=(*STAGES, TURN),
        function="interlock.report.emission:open_emitter",
        arguments={
            "to": destination,
            "namespace": settings.lineage.namespace,
            "model": settings.model.name,
            "ledger": ledger_id(parts),
            "places": msgspec.to_builtins(_places(settings)),
        },
        deadline_s=seconds(settings.lineage.deadline),
        prepare=_prepare,
        wants=wanted,
    )


def wanted(event: Event) -> bool:
    """A turn in which nothing happened is not told."""
    return event.kind != TURN or any(event.facts.get(name) for name in ("files", "batches", "decision", "problems"))


def _places(settings: Settings) -> Places:
    inboxes = {name: _absolute(settings, source.inbox) for name, source in settings.sources.items()}
    if settings.data.holdout.inbox:
        inboxes["holdout"] = _absolute(settings, settings.data.holdout.inbox)
    return Places(
        root=str(settings.root),
        lake=_absolute(settings, settings.store.lake),
        inboxes=inboxes,
        to_score=_absolute(settings, settings.batch.inbox) if settings.batch.inbox else "",
    )


def _absolute(settings: Settings, place: str) -> str:
    return place if "://" in place else str(settings.path(place))


def _prepare(parts: Parts, events: Sequence[Event]) -> Mapping[str, Any]:
    return {"beside": {str(event.sequence): msgspec.to_builtins(_beside(parts, event)) for event in events}}


def _beside(parts: Parts, event: Event) -> Beside:
    ledger, stage = parts.ledger, event.kind.partition(".")[0]
    if stage == "file":
        layout = ledger.read("columns", str(event.facts["source"]), _Layout)
        return Beside(columns=layout.columns if layout else ())
    if stage == "training":
        link = ledger.read("training", event.subject, Link)
        return Beside(snapshot=_snapshot(parts, event.facts["snapshot"]), bundle=link.bundle if link else "")
    if stage == "gate":
        return Beside(snapshot=_snapshot(parts, event.facts["evaluation"]["snapshot"]))
    return Beside()


def _snapshot(parts: Parts, digest: object) -> Snapshot | None:
    return parts.ledger.read("snapshot", str(digest), Snapshot)


def file_name(event: Event) -> str:
    """The name of the file that an event of an inbox is about."""
    return Path(str(event.facts["name"])).as_posix()
