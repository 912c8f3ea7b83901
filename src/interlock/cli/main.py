"""The ``interlock`` program: the verbs, one exit code for each kind of end, and one shape for errors.

Exit codes: 0 done, 1 refused by a decision, 2 misuse, 3 fault. What the verbs need is imported when they run, so that
``interlock --help`` answers at once.
"""

import gc
import itertools
import json as json_text
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interlock import __version__
from interlock.cli.context import current
from interlock.errors import Fault, InterlockError, bounded

app = typer.Typer(
    name="interlock",
    help="A closed loop around one machine-learning model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Because = Annotated[str, typer.Option("--because", help="The reason, for the ledger.")]


export_app = typer.Typer(help="Write what Interlock knows in the form of another tool.", no_args_is_help=True)
app.add_typer(export_app, name="export")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"interlock {__version__}")
        raise typer.Exit


@app.callback()
def program(
    project: Annotated[
        Path | None, typer.Option("--project", "-C", help="Project folder. Default: this folder or one above it.")
    ] = None,
    env: Annotated[str, typer.Option("--env", help="Environment: the [env.NAME] to lay over the file.")] = "",
    set: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key, as gate.at_least=0.5. Repeatable.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of every verb; they may stand before it or after it."""
    del version
    current.project, current.environment, current.overrides = project, env, list(set or ())


def show(lines: list[str], facts: Any) -> None:
    """Print the lines, or the facts as one JSON object."""
    if current.json:
        import msgspec

        typer.echo(msgspec.json.encode(facts).decode())
    else:
        typer.echo("\n".join(lines))


def _leave(code: int) -> None:
    if code:
        raise typer.Exit(code)


# ---- verbs -------------------------------------------------------------------------------------------------------


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.")] = Path(),
    data: Annotated[
        Path | None, typer.Option("--data", help="A data file to begin with. Default: made-up rows.")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="Column of the data file to predict.")] = "",
    from_notebook: Annotated[
        Path | None,
        typer.Option(
            "--from-notebook", help="A notebook to turn into a training and an inference file. It is not run."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start a project: interlock.toml, a training file and an inbox."""
    from interlock.cli.scaffold import scaffold

    current.json = json
    if from_notebook is None:
        made = scaffold(folder, data=data, target=target)
    else:
        from interlock.cli.from_notebook import scaffold_from_notebook

        made = scaffold_from_notebook(folder, from_notebook, data=data, target=target)
    show([*(f"wrote {path}" for path in made.files), *made.notes, f"Next: {made.next_step}"], made)


@app.command()
def run(
    tune: Annotated[bool, typer.Option("--tune", help="Search for better parameters now, due or not.")] = False,
    json: Json = False,
) -> None:
    """Run one turn: ingest, train, judge, release, score."""
    from interlock.cli.progress import progress_for, seconds_text
    from interlock.cli.render import turn_details
    from interlock.cli.warm import warming

    current.json = json
    with warming(current.settings()) as runner:
        from interlock.loop import run_turn

        with current.parts() as parts, progress_for(json) as progress:
            result = run_turn(parts, progress, runner, search=tune)
    lines = turn_details(result)
    lines += [f"{result.sentence}  [{seconds_text(result.seconds)}]", f"Next: {result.next_step}"]
    show(lines, result)
    _leave(result.exit_code)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="Data file to score: CSV, Parquet or JSON lines.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Parquet file to write. Default: FILE-predictions.parquet here."),
    ] = None,
    json: Json = False,
) -> None:
    """Score one file by the release in force."""
    from interlock.cli.operate import score_one
    from interlock.cli.render import batch_result

    current.json = json
    with current.parts() as parts:
        result = score_one(parts, file, output)
    show([*batch_result(result), *([f"Next: {result.next_step}"] if result.next_step else [])], result)
    _leave(0 if result.status == "published" else 1)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Default: serve.host.")] = "",
    port: Annotated[int | None, typer.Option("--port", min=0, help="Port. Default: serve.port.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No keys; on loopback only.")] = False,
) -> None:
    """Answer online by the release in force, until stopped."""
    from interlock.serve.server import Orders
    from interlock.serve.server import serve as serve_project

    overrides = [*([f"serve.host={host}"] if host else []), *([f"serve.port={port}"] if port is not None else [])]
    current.overrides += overrides
    with current.parts(late=True) as parts:
        serve_project(parts, Orders(insecure=insecure, say=lambda line: typer.echo(line, err=True)))


@app.command()
def load(  # noqa: PLR0913 - each is an option of the verb
    *,
    url: Annotated[str, typer.Option("--url", help="A running server. Default: start one, and stop it.")] = "",
    key: Annotated[str, typer.Option("--key", help="API key. Better: INTERLOCK_KEY, which no list shows.")] = "",
    key_file: Annotated[Path | None, typer.Option("--key-file", help="File that holds the API key.")] = None,
    users: Annotated[int, typer.Option("--users", min=1, max=10_000, help="Users at once, a connection each.")] = 16,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="Requests a second, each due at its time. Default: as answers come."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows-per-request", min=1, help="Records in a request.")] = 1,
    duration: Annotated[str, typer.Option("--duration", help="How long: 30s, 10m.")] = "30s",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the made records and their order.")] = 0,
    web: Annotated[bool, typer.Option("--web", help="Show locust's page, on loopback, while it runs.")] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="As 'p99 > 50ms', 'errors > 0.1%', 'rps < 500'. Repeatable; adds to [load]."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="HTML page to write. Default: in reports/.")] = None,
    agreed: Annotated[str, typer.Option("--yes-load", help="Host of another machine that may be loaded.")] = "",
    json: Json = False,
) -> None:
    """Load a server with made records, and hold it to a service level."""
    from interlock.cli.loading import key_of, start

    current.json = json
    given = {"url": url, "key": key_of(key, key_file), "users": users, "rate": rate, "rows": rows, "seed": seed}
    result = start(current, fail_if or [], web=web, duration=duration, out=out, agreed=agreed, **given)
    show(result.lines(), result)
    _leave(0 if result.passed else 1)


@app.command()
def keys(
    name: Annotated[str, typer.Argument(help="Name of the new key, for people.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="What it opens: predict, feedback, operate, read. Repeatable.")
    ] = None,
    quota: Annotated[str, typer.Option("--quota", help="How often it may ask, as '1000 per minute'.")] = "",
    json: Json = False,
) -> None:
    """Make an API key in serve.keys_file, and print it this once."""
    from interlock.cli.operate import make_key

    current.json = json
    text, path = make_key(current.settings(), name, scope or ["predict"], quota or None)
    show([text, f"added to {path}; only its digest is kept"], {"key": text, "file": str(path)})


@app.command()
def status(json: Json = False) -> None:
    """Show what is live, the last turn and the last decision."""
    from interlock.cli.operate import status_lines, status_of

    current.json = json
    with current.parts() as parts:
        found = status_of(parts)
    show(status_lines(found), found)


@app.command()
def history(
    at: Annotated[str, typer.Option("--at", help="What was live then: an ISO time; UTC where it has no zone.")] = "",
    events: Annotated[
        bool, typer.Option("--events", help="Every entry of the ledger instead of the releases.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many lines.")] = 50,
    json: Json = False,
) -> None:
    """List releases, newest first; with --at, what was live at a time and why."""
    from interlock.cli import operate, render
    from interlock.release.registry import releases

    current.json = json
    with current.parts() as parts:
        if at:
            found = operate.release_then(parts, at)
            show(operate.release_then_lines(found), found)
        elif events:
            entries = parts.ledger.events(newest_first=True, limit=limit)
            show(render.events(entries), {"events": entries})
        else:
            listed = releases(parts.ledger)[:limit]
            show(render.releases(listed) if listed else ["Nothing was released yet."], {"releases": listed})


@app.command()
def promote(
    entry: Annotated[int, typer.Argument(help="Ledger entry of the decision.")],
    because: Because,
    json: Json = False,
) -> None:
    """Approve a held decision: release its candidate. A challenger, or what was taken back, is made the champion."""
    from interlock.cli.operate import told_after
    from interlock.cli.render import release
    from interlock.release.operation import approve_held

    current.json = json
    with current.parts() as parts:
        made = approve_held(parts, entry, because)
        notes = told_after(parts)
    show([*release(made), *notes], made)


@app.command()
def rollback(
    because: Because,
    to: Annotated[int | None, typer.Option("--to", help="A generation. Default: the last that really served.")] = None,
    json: Json = False,
) -> None:
    """Drop the challenger, if there is one; else go back to the last release that really served and passed."""
    from interlock.cli.operate import told_after
    from interlock.cli.render import release
    from interlock.release.operation import go_back

    current.json = json
    with current.parts() as parts:
        made = go_back(parts, because, to)
        notes = told_after(parts)
    show([*release(made), *notes], made)


@app.command()
def trip(because: Because, json: Json = False) -> None:
    """Take the champion off duty: the last good model answers, online and in batches."""
    _by_person(because, "trip", json=json)


@app.command()
def reset(because: Because, json: Json = False) -> None:
    """Put the champion back on duty, and forget earlier trips."""
    _by_person(because, "reset", json=json)


def _by_person(because: str, act: Literal["trip", "reset"], *, json: bool) -> None:
    from interlock.cli.operate import duty_lines
    from interlock.release.operation import duty_by_person

    current.json = json
    with current.parts() as parts:
        found = duty_by_person(parts, act, because)
    show(duty_lines(found), found)


@app.command()
def sync(
    deadline: Annotated[str, typer.Option("--deadline", help="How long each may take: 90s, 10m.")] = "10m",
    again: Annotated[bool, typer.Option("--again", help="From the beginning; what is there already stays.")] = False,
    json: Json = False,
) -> None:
    """Tell the systems that follow the ledger (MLflow, OpenLineage) what is new."""
    from interlock.cli.operate import sync_followers

    current.json = json
    with current.parts() as parts:
        found = sync_followers(parts, deadline, again=again)
    show(found.lines(), found)
    _leave(0 if found.is_complete else 3)


@app.command()
def verify(json: Json = False) -> None:
    """Check the ledger's chain, the released bundles' bytes and the tables they were trained on."""
    from interlock.cli.operate import verify_project

    current.json = json
    with current.parts() as parts:
        found = verify_project(parts)
    show(found.lines(), found)
    _leave(0 if found.sound else 3)


@app.command()
def replay(
    entry: Annotated[int, typer.Argument(help="Ledger entry of a decision.")],
    json: Json = False,
) -> None:
    """Recompute a decision from its receipt, and say whether it agrees bit for bit."""
    from interlock.cli.operate import replay_lines
    from interlock.release.registry import replay as replay_entry

    current.json = json
    with current.parts() as parts:
        found = replay_entry(parts, entry)
    show(replay_lines(found), found)
    _leave(0 if found.agrees else 3)


@app.command()
def report(
    release: Annotated[int | None, typer.Option("--release", help="A generation. Default: the one in force.")] = None,
    decision: Annotated[int | None, typer.Option("--decision", help="Ledger entry of a decision instead.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. Default: reports/ of the project.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the dossier of a release, as one HTML page and as Markdown."""
    from interlock.report.dossier import write_decision_dossier, write_dossier

    current.json = json
    with current.parts() as parts:
        folder = output if output is not None else parts.settings.root / "reports"
        if decision is not None:
            paths = write_decision_dossier(parts, decision, folder)
        else:
            paths = write_dossier(parts, release, folder)
    show([f"wrote {paths.html}", f"wrote {paths.markdown}"], paths)


@app.command()
def doctor(json: Json = False) -> None:
    """Examine the project and this machine, and say what to mend."""
    from interlock.cli.examine import examine

    current.json = json
    found = examine(current)
    show(found.lines(), found)
    _leave(0 if found.healthy else 2)


@export_app.command("contract")
def export_contract(
    source: Annotated[str, typer.Option("--source", help="A source. Default: the only one.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write or replace. Default: print it.")
    ] = None,
    without_values: Annotated[
        bool, typer.Option("--without-values", help="Leave out allowed values and ranges: they come from the rows.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the signature of a source as a data contract (Open Data Contract Standard, YAML)."""
    from interlock.cli.exports import contract

    current.json = json
    with current.parts() as parts:
        made = contract(parts, source, output, with_values=not without_values)
    show([f"wrote {made.file}"] if made.file else [made.contract.rstrip("\n")], made)


# ---- the end -----------------------------------------------------------------------------------------------------


def _report(problem: InterlockError) -> None:
    from interlock.cli.render import error

    if current.json:
        facts = {name: bounded(str(value), 500) for name, value in problem.facts.items() if value is not None}
        body = {"code": problem.code, "message": problem.message, "next_step": problem.next_step, "facts": facts}
        sys.stdout.write(json_text.dumps({"error": body}) + "\n")
    else:
        sys.stderr.write("\n".join(error(problem)) + "\n")


_GENERAL = ("--project", "-C", "--env", "--set")


def in_front(words: list[str]) -> list[str]:
    """The options of every verb, with their values, put before the verb; what follows ``--`` stays as it is."""
    end = words.index("--") if "--" in words else len(words)
    general: list[str] = []
    others: list[str] = []
    given = iter(words[:end])
    for word in given:
        if word in _GENERAL:
            general += [word, *itertools.islice(given, 1)]
        elif word.startswith(tuple(f"{name}=" for name in _GENERAL if name.startswith("--"))):
            general.append(word)
        else:
            others.append(word)
    return [*general, *others, *words[end:]]


def main() -> None:
    """Run the program and leave with its exit code."""
    gc.disable()  # until the verb's imports are done: collecting among modules finds nothing and takes its time
    try:
        app(in_front(sys.argv[1:]))
    except InterlockError as problem:
        _report(problem)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. What was recorded stays; the next turn goes on from there.\n")
        sys.exit(130)
    except Exception as problem:  # noqa: BLE001 - a fault of ours must not look like a decision (exit 1)
        traceback.print_exc()
        name = type(problem).__name__
        _report(
            Fault(f"{name} inside Interlock {__version__}.", next_step="Please report it with the traceback above.")
        )
        sys.exit(3)
