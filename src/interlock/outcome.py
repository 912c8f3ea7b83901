"""What a turn did, as a value, and how that is told in one sentence with one next step. Pure."""

from collections.abc import Sequence
from typing import Literal

from interlock.data.opening import shown
from interlock.records import BatchResult, Decision, FileResult, Record, Release, short

Outcome = Literal["released", "canary", "kept", "held", "unchanged", "waiting", "failed"]


class Step(Record, frozen=True, kw_only=True):
    """One step of a turn as it went."""

    name: str
    note: str
    seconds: float
    failed: bool = False


class Problem(Record, frozen=True, kw_only=True):
    """An error that ended a step and not the turn. ``done``: the step did its work all the same."""

    step: str
    code: str
    message: str
    next_step: str
    exit_code: int
    done: bool = False
    traceback: str = ""
    output_tail: str = ""


class TurnResult(Record, frozen=True, kw_only=True):
    """What a turn did. ``sentence`` says what was decided and why, ``next_step`` the one thing to do now.

    outcome: ``released`` (a new champion), ``canary`` (a new challenger, tried while it serves), ``kept`` (the champion
    stays, with evidence), ``held`` (a person must look), ``unchanged`` (nothing new to learn from), ``waiting`` (not
    enough to begin with), ``failed`` (a step broke). ``release`` is the one in force at the end; ``released`` says
    whether this turn made its champion, and ``challenger`` is the model whose trial it began. ``waiting`` is the entry
    of an earlier decision that still waits for a person. ``notes`` tell what was noticed on the way.
    """

    turn: str
    outcome: Outcome = "unchanged"
    sentence: str = ""
    next_step: str = ""
    files: tuple[FileResult, ...] = ()
    snapshot: str = ""
    candidate: str = ""
    decision: Decision | None = None
    receipt: int | None = None
    released: bool = False
    challenger: str = ""
    release: Release | None = None
    batches: tuple[BatchResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    waiting: int | None = None
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    at: str = ""

    @property
    def exit_code(self) -> int:
        """0: done; 1: refused by a decision; 2 or 3: a step could not be done."""
        if self.problems:
            return max(problem.exit_code for problem in self.problems)
        refused = (
            self.outcome in ("kept", "held")
            or any(file.status in ("refused", "unreadable") for file in self.files)
            or any(batch.status != "published" for batch in self.batches)
        )
        return 1 if refused else 0


def conclude(done: TurnResult, inboxes: Sequence[str]) -> tuple[Outcome, str, str]:
    """Outcome, one sentence and one next step for a turn whose facts are all in."""
    if done.problems:
        first = done.problems[0]
        live = f" Release {done.release.generation} went live before." if done.released and done.release else ""
        note = batch_note(done.batches)
        what = f"{note[0].upper()}{note[1:]}. " if first.done else f"The turn could not do '{first.step}'. "
        return "failed", f"{what}{first.message}{live}", first.next_step
    if done.decision is not None:
        return _decided(done, done.decision)
    if not done.snapshot:
        return "waiting", *_no_rows(done.files, inboxes)
    if done.waiting is not None:
        return "held", f"Decision {done.waiting} still waits for a person.", _look_and_approve(done.waiting)
    if done.release is None:
        look = "Add data or change the code; 'interlock status' shows why it was refused."
        return "waiting", "Nothing new, and the last candidate was not released.", look
    return "unchanged", *_unchanged(done, done.release)


def _decided(done: TurnResult, decision: Decision) -> tuple[Outcome, str, str]:
    evidence = f"interlock report --decision {done.receipt}"
    if done.released and done.release is not None:
        sentence = f"Release {done.release.generation}: {short(decision.candidate)} is live. {decision.reason}"
        return "released", sentence, "See the evidence with 'interlock report'."
    if done.challenger and done.release is not None:
        sentence = f"Release {done.release.generation}: {done.release.because}"
        return "canary", sentence, "'interlock serve' gives it its share; 'interlock status' tells how it does."
    if decision.verdict == "hold":
        return "held", f"Held: {decision.reason}", _look_and_approve(done.receipt)
    stays = "nothing is live yet"
    if done.release is not None:
        stays = f"release {done.release.generation} ({short(done.release.champion)}) stays"
    return "kept", f"Not released, {stays}. {decision.reason}", f"See the evidence with '{evidence}'."


def _look_and_approve(entry: int | None) -> str:
    return f'Look at it: interlock report --decision {entry}. If it is right: interlock promote {entry} --because "…".'


def _no_rows(files: Sequence[FileResult], inboxes: Sequence[str]) -> tuple[str, str]:
    refused = next((file for file in files if file.status in ("refused", "unreadable")), None)
    if refused is not None:
        told = f"There are no accepted rows yet: {shown(refused.name)} was not taken in. {refused.reason}"
        return told, refused.next_step
    return "There are no accepted rows to learn from yet.", f"Put a data file into {', '.join(inboxes)}."


def _unchanged(done: TurnResult, release: Release) -> tuple[str, str]:
    unpublished = next((batch for batch in done.batches if batch.status != "published"), None)
    if unpublished is not None:
        return f"{shown(unpublished.name)} was not published: {unpublished.reason}", unpublished.next_step
    news = f" {batch_note(done.batches)}." if done.batches else ""
    stays = f"release {release.generation} ({short(release.champion)}) stays"
    if release.challenger is not None:
        stays += f", with challenger {short(release.challenger)}"
    turned_away = next((file for file in done.files if file.status in ("refused", "unreadable")), None)
    if turned_away is not None:
        reason = f"{shown(turned_away.name)} was not taken in: {turned_away.reason}"
        return f"{reason} {stays[0].upper()}{stays[1:]}.{news}", turned_away.next_step
    return f"Nothing new to learn from: {stays}.{news}", "Put a new file into the inbox, or change the code."


# ---- notes -------------------------------------------------------------------------------------------------------


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def files_note(files: Sequence[FileResult]) -> str:
    """What became of the new files, in one line."""
    if not files:
        return "no new file"
    accepted = [file for file in files if file.status == "accepted"]
    note = [f"{_counted(sum(file.accepted for file in accepted), 'new row')} from {_counted(len(accepted), 'file')}"]
    for label in ("duplicates", "updated", "quarantined"):
        count = sum(getattr(file, label) for file in accepted)
        if count:
            note.append(f"{count:,} {label}")
    for status in ("refused", "unreadable", "repeated"):
        names = [shown(file.name) for file in files if file.status == status]
        if names:
            note.append(f"{status}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}")
    return ", ".join(note)


def batch_note(batches: Sequence[BatchResult]) -> str:
    """What became of the files to score, in one line."""
    if not batches:
        return "nothing new to score"
    published = [batch for batch in batches if batch.status == "published"]
    rows = sum(batch.scored for batch in published)
    note = f"{_counted(rows, 'prediction')} published from {_counted(len(published), 'file')}"
    refused = [shown(batch.name) for batch in batches if batch.status != "published"]
    return f"{note}, refused: {', '.join(refused[:3])}" if refused else note
