"""``interlock doctor``: what would stop a turn, found before a turn does."""

import difflib
import importlib.util
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from interlock import __version__
from interlock.cli.context import Invocation
from interlock.data.agreement import agreed, contract_of, place_of
from interlock.errors import InterlockError, bounded
from interlock.model.contract import Contract, read_contract
from interlock.model.limits import limits_of
from interlock.records import Record
from interlock.settings import Settings

if TYPE_CHECKING:
    from interlock.ports import Parts
    from interlock.store.address import Address

_LOW_DISK_BYTES = 2 * 10**9
_MUCH_LEAD_S = 5.0

State = Literal["good", "note", "bad"]


class Finding(Record, frozen=True, kw_only=True):
    """One thing looked at."""

    name: str
    state: State
    fact: str
    next_step: str = ""


class Examination(Record, frozen=True, kw_only=True):
    """Everything looked at."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Nothing is bad; notes do not stop a turn."""
        return all(finding.state != "bad" for finding in self.findings)

    def lines(self) -> list[str]:
        """One line a finding, its next step below."""
        told = []
        for finding in self.findings:
            told.append(f"{finding.state:<4}  {finding.name:<12} {finding.fact}")
            if finding.next_step:
                told.append(f"{'':<6}{'':<12} Next: {finding.next_step}")
        return told


def examine(invocation: Invocation) -> Examination:
    """Look at the machine, the settings, the user's files, the inboxes and the memory. Raises nothing of ours."""
    findings = [_python(), _sqlite()]
    try:
        settings = invocation.settings()
    except InterlockError as problem:
        return Examination(findings=(*findings, _bad("settings", problem)))
    findings.append(Finding(name="settings", state="good", fact=f"{settings.root} reads well"))
    for look in (_contract, _agreements, _metric, _limits, _tuning, _inboxes, _disk, _lake, _memory):
        findings += _looked(look, settings)
    return Examination(findings=tuple(findings))


def _looked(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(look(settings))
    except InterlockError as problem:
        found.append(_bad(look.__name__.strip("_"), problem))
    return found


def _bad(name: str, problem: InterlockError) -> Finding:
    return Finding(name=name, state="bad", fact=problem.message, next_step=problem.next_step)


def _python() -> Finding:
    return Finding(name="python", state="good", fact=f"{sys.version.split()[0]}, interlock {__version__}")


def _sqlite() -> Finding:
    return Finding(
        name="sqlite",
        state="good",
        fact=f"{sqlite3.sqlite_version}, used with a rollback journal and synchronous=EXTRA",
    )


def _contract(settings: Settings) -> Iterator[Finding]:
    contract: Contract = read_contract(settings)
    yield Finding(name="contract", state="good", fact=f"packs {', '.join(contract.files)}")
    theirs = [name for name in contract.preload if not name.startswith("interlock.")]
    missing = [name for name in theirs if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding(
            name="imports",
            state="bad",
            fact=f"not installed: {', '.join(missing)}",
            next_step=f"Install them into {sys.executable}.",
        )
    else:
        yield Finding(name="imports", state="good", fact=", ".join(theirs) or "none")


def _agreements(settings: Settings) -> Iterator[Finding]:
    """Data contracts of the sources, and what in them nobody enforces."""
    for name, source in settings.sources.items():
        contract = contract_of(settings, source, name)
        if contract is not None:
            agreed(source, contract, place_of(settings, name))
            fact = f"{contract.file} fixes {len(contract.columns)} columns of '{name}'"
            yield Finding(name="agreements", state="good", fact=fact)
        for note in contract.notes if contract is not None else ():
            yield Finding(name="agreements", state="note", fact=note)


def _tuning(settings: Settings) -> Iterator[Finding]:
    if settings.tune.trials and importlib.util.find_spec("optuna") is None:
        next_step = "pip install 'interlock[tune]', or set tune.trials to 0."
        yield Finding(name="tune", state="bad", fact="[tune] needs Optuna, which is not installed", next_step=next_step)
    elif settings.tune.trials:
        fact = f"{settings.tune.trials} trials over {', '.join(settings.tune.space)}"
        yield Finding(name="tune", state="good", fact=fact)


def _limits(settings: Settings) -> Iterator[Finding]:
    """Say whether what the settings ask of this system can be kept."""
    held = limits_of(settings)
    told = [f"memory {settings.model.memory}"] if held.memory_bytes is not None else []
    told += ["confined"] if held.hidden is not None else []
    yield Finding(name="limits", state="good", fact=", ".join(["deadlines", *told]))


def _inboxes(settings: Settings) -> Iterator[Finding]:
    wanted = {f"inbox {name}": source.inbox for name, source in settings.sources.items()}
    wanted |= {"holdout": settings.data.holdout.inbox or "", "batch": settings.batch.inbox}
    for name, inbox in wanted.items():
        if not inbox:
            continue
        if "://" in inbox:
            yield Finding(name=name, state="note", fact=f"{inbox} is looked at when a turn runs")
        elif settings.path(inbox).is_dir():
            yield Finding(name=name, state="good", fact=inbox)
        else:
            yield Finding(name=name, state="bad", fact=f"{inbox} is not there", next_step=f"mkdir -p {inbox}")


def _disk(settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(settings.root).free
    low = free < _LOW_DISK_BYTES
    yield Finding(
        name="disk",
        state="note" if low else "good",
        fact=f"{free / 10**9:.1f} GB free",
        next_step="Free some: a turn keeps a copy of the training rows." if low else "",
    )
    if not os.access(settings.root, os.W_OK):
        yield Finding(name="disk", state="bad", fact=f"{settings.root} is read-only", next_step="Allow writing there.")


def _lake(settings: Settings) -> Iterator[Finding]:
    """Read, write under a condition, and list, where the lake is a bucket."""
    if "://" not in settings.store.lake:
        return
    from interlock.store.objects import ObjectBlobs
    from interlock.store.places import patience_of

    blobs = ObjectBlobs(settings.store.lake, patience_of(settings))
    listed = sum(1 for _ in blobs.list("owner.json"))
    blobs.require_conditions()
    blobs.read_probe()
    fact = f"{settings.store.lake} can be listed, written under a condition, and read"
    yield Finding(name="lake", state="good", fact=fact if listed else f"{fact}; no turn has used it yet")


def _memory(settings: Settings) -> Iterator[Finding]:
    from interlock.app import open_parts
    from interlock.store.address import state_address

    address = state_address(settings)
    if address.path is None:
        begun, findings = _server(address)
        yield from findings
        if any(finding.state == "bad" for finding in findings):
            return
    else:
        begun = address.path.exists()
    if not begun:
        yield Finding(name="ledger", state="note", fact="no turn was run yet", next_step="interlock run")
        return
    with open_parts(settings) as parts:
        chain = parts.ledger.verify()
        yield from _columns(settings, parts)
    if chain.broken_at is None:
        yield Finding(name="ledger", state="good", fact=f"{chain.events:,} entries, the chain holds")
    else:
        yield Finding(
            name="ledger",
            state="bad",
            fact=f"entry {chain.broken_at}: {chain.reason}",
            next_step="Restore the state from a backup; do not promote until then.",
        )


def _columns(settings: Settings, parts: "Parts") -> Iterator[Finding]:
    """Find names in the settings that name no column, as far as columns are known."""
    from interlock.records import Snapshot

    newest = parts.ledger.events(kinds=["snapshot.made"], newest_first=True, limit=1)
    made = parts.ledger.read("snapshot", newest[0].subject, Snapshot) if newest else None
    if made is None or made.query != settings.data.query:
        return
    asked = {"model.target": (settings.model.target,), "gate.slices": settings.gate.slices}
    asked |= {"model.features": settings.model.features, "data.holdout.time": (settings.data.holdout.time or "",)}
    for key, names in asked.items():
        for name in names:
            if name and name not in made.columns:
                near = difflib.get_close_matches(name, made.columns, n=1)
                known = ", ".join(made.columns[:20])
                step = f"Did you mean '{near[0]}'?" if near else f"The columns: {bounded(known, 300)}."
                fact = f"{key} names '{name}', which is no column of the newest snapshot"
                yield Finding(name="columns", state="bad", fact=fact, next_step=step)


def _metric(settings: Settings) -> Iterator[Finding]:
    from interlock.release.gate import policy_of

    yield Finding(name="metric", state="good", fact=policy_of(settings).metric)


def _server(address: "Address") -> tuple[bool, list[Finding]]:
    """Whether the tables are there, and what is to be said about the server that holds the state."""
    from interlock.store.survey import survey

    found = survey(address)
    fact = f"{address.name}, schema {address.schema}, Postgres {found.version}, {found.round_trip_ms:.1f} ms away"
    told = [Finding(name="state", state="good", fact=fact)]

    def tell(state: State, fact: str, next_step: str) -> None:
        told.append(Finding(name="state", state=state, fact=fact, next_step=next_step))

    if found.read_only:
        tell("bad", "the server is a replica or read-only", "Point store.state at the primary server.")
    elif not found.allowed:
        due = "create the tables" if found.revision is None else "read and write the tables"
        tell("bad", f"this role may not {due} in schema {address.schema}", "Ask the owner for the rights.")
    if found.old:
        tell("note", f"Postgres {found.version} is older than any that was tried", "Use Postgres 13 or newer.")
    if not found.fsync:
        tell("note", "the server runs with fsync off", "Switch it on: what is recorded may be lost with the power.")
    if not (found.encrypted or found.same_host):
        tell("note", "the connection is not encrypted", "Add ?sslmode=verify-full to store.state.")
    if abs(found.lead_s) > _MUCH_LEAD_S:
        tell("note", f"the clocks of server and host differ by {found.lead_s:+.0f} s", "Set them by NTP.")
    return found.revision is not None, told
