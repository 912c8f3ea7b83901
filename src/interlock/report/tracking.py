"""Follow the ledger into an MLflow server: what is sent, and where it comes from. ``mirroring`` meets MLflow.

Each training becomes a run of the experiment that is called as the model. Its bundle becomes the run's ``model``
folder and a version of the registered model; a decision adds scores, a release its dossier. The aliases ``champion``
and ``challenger`` are set to what the ledger says now, never to what it said earlier.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from interlock.errors import InterlockError
from interlock.model.bundle import open_bundle
from interlock.ports import Ledger, Parts
from interlock.records import Event, Receipt, Record, short
from interlock.release.standing import current, taken_back
from interlock.report.following import Follower, ledger_id, without_secrets
from interlock.units import seconds

KINDS = ("training.done", "training.failed", "bundle.packed", "gate.decided", "release.made")


class Link(Record, frozen=True, kw_only=True):
    """The part of the ``training`` document that is read here: the bundle that came of it."""

    bundle: str


class Extra(Record, frozen=True, kw_only=True):
    """What an event needs beyond its facts.

    ``entry`` is that of the training whose run it belongs to; ``folder`` the verified bundle, ``dossier`` the page of
    the release; ``missing`` says why one of them is not there.
    """

    entry: int | None = None
    bundle: str = ""
    folder: str = ""
    dossier: str = ""
    missing: str = ""


def mlflow_follower(parts: Parts) -> Follower:
    """The follower of ``store.tracking``."""
    settings = parts.settings
    uri = settings.tracking_uri
    return Follower(
        name="mlflow",
        label=f"MLflow at {without_secrets(uri)}",
        destination=uri,
        kinds=KINDS,
        function="interlock.report.mirroring:open_mirror",
        arguments={"uri": uri, "model": settings.model.name, "task": settings.model.task, "ledger": ledger_id(parts)},
        deadline_s=seconds(settings.store.tracking_deadline),
        prepare=_prepare,
    )


def _prepare(parts: Parts, events: Sequence[Event]) -> Mapping[str, Any]:
    links = {name: link.bundle for name, link in parts.ledger.scan("training", Link)}
    extras = {str(event.sequence): msgspec.to_builtins(_extra(parts, event, links)) for event in events}
    return {"extras": extras, "aliases": aliases(parts.ledger), "project": str(parts.settings.root)}


def aliases(ledger: Ledger) -> dict[str, str]:
    """The bundle that each alias names now; an alias without a bundle is left out.

    The challenger is the one that is tried, else the candidate that was judged last, unless it is the champion or was
    taken back.
    """
    release = current(ledger)
    found = {"champion": release.champion} if release else {}
    if release is not None and release.challenger is not None:
        return {**found, "challenger": release.challenger}
    judged = ledger.events(kinds=["gate.decided"], newest_first=True, limit=1)
    if judged and judged[0].subject not in {found.get("champion"), *taken_back(ledger)}:
        found["challenger"] = judged[0].subject
    return found


def _extra(parts: Parts, event: Event, links: Mapping[str, str]) -> Extra:
    if event.kind.startswith("training."):
        return Extra(entry=event.sequence, bundle=links.get(event.subject, "") if event.kind == "training.done" else "")
    if event.kind == "release.made":
        bundle = str(event.facts["champion"])
        dossier, missing = _dossier(parts, int(event.facts["generation"]))
        return Extra(
            entry=_training_entry(parts, bundle, event, links), bundle=bundle, dossier=dossier, missing=missing
        )
    bundle = event.subject
    extra = Extra(entry=_training_entry(parts, bundle, event, links), bundle=bundle)
    if event.kind != "bundle.packed" or extra.entry is None:
        return extra
    try:
        return msgspec.structs.replace(extra, folder=str(open_bundle(parts, bundle).path))
    except InterlockError as problem:
        return msgspec.structs.replace(extra, missing=f"bundle {short(bundle)}: {problem.message}")


def _training_entry(parts: Parts, bundle: str, event: Event, links: Mapping[str, str]) -> int | None:
    """Entry of the newest training before ``event`` that gave ``bundle``; None for a baseline."""
    entries = [
        training.sequence
        for name, made in links.items()
        if made == bundle
        for training in parts.ledger.events(kinds=["training.done"], subject=name)
        if training.sequence < event.sequence
    ]
    return max(entries, default=None)


def _dossier(parts: Parts, generation: int) -> tuple[str, str]:
    """The release's page in the cache, drawn once; or why it cannot be drawn."""
    from interlock.report.dossier import write_dossier  # draws pictures: only when there is a release to tell

    folder = parts.settings.home / "cache" / "dossiers"
    page = folder / f"release-{generation:04d}.html"
    if not page.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            page = Path(write_dossier(parts, generation, folder).html)
        except InterlockError as problem:
            return "", f"dossier: {problem.message}"
    return str(page), ""


def receipt_of(facts: Mapping[str, Any]) -> Receipt:
    """The receipt that a ``gate.decided`` event carries."""
    return msgspec.convert(facts, Receipt)
