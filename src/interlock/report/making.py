"""The chapters about the making: problem, model, training, packaging, and what it all took."""

from typing import Any

from interlock.model.train import notebook_place
from interlock.records import Policy
from interlock.report.facts import LOCKS, Story
from interlock.report.notebook import notebook_view
from interlock.report.page import Block, Facts, Listing, Section, Table, Text, lost
from interlock.report.tuning import tuning
from interlock.report.words import count, duration, exact, listed, maybe, metric, number, percent, size, when

_EXECUTED = (
    "The executed notebook, as its cells printed it. It may show rows of the training data; the cell with a bar at its "
    "side is the one that Interlock put in."
)
_MOST_FAILED = 20
_CODE = (".py", ".toml", ".sql", ".ipynb")
_OURS = frozenset({"code/interlock_loader.py"})
"""What the packer adds to the user's files, so that MLflow can load the folder."""


# ---- problem ---------------------------------------------------------------------------------------------------------


def problem(story: Story) -> Section:
    """Task, target, metric and the owner's rules."""
    output = story.model.record.signature.output if story.model else None
    rows = [("Task", story.task), ("Target column", story.target or "not recorded")]
    if output is not None and output.classes:
        rows.append(("Answer", f"one of {count(len(output.classes), 'class', 'classes')}: {listed(output.classes)}"))
    elif output is not None and output.low is not None and output.high is not None:
        rows.append(("Answer", f"a number; {number(output.low)} to {number(output.high)} in training"))
    elif output is not None:
        rows.append(("Answer", f"{output.kind} of type {output.type}"))
    if story.receipt is not None:
        seen = story.receipt.record.evaluation
        rows.append(
            ("Metric that decides", f"{metric(seen.metric)} ({'more' if seen.greater_is_better else 'less'} is better)")
        )
    blocks: list[Block] = [Facts(rows=tuple((name, value, "text") for name, value in rows))]
    if story.receipt is not None:
        blocks.append(_policy_table(story.receipt.record.policy))
    return Section(name="problem", title="Problem", blocks=tuple(blocks))


def _policy_table(policy: Policy) -> Table:
    rules = (
        ("Score of the candidate at least", "" if policy.at_least is None else exact(policy.at_least)),
        ("Gain over champion and baseline more than", exact(policy.min_gain)),
        ("Confidence of every comparison", percent(policy.confidence)),
        ("Columns judged slice by slice", ", ".join(policy.slices)),
        ("Rows that a slice needs to be judged", number(policy.min_slice_rows)),
        ("Too good to be true: share of error gone at once", percent(policy.too_good)),
        ("Times that one holdout may be asked", number(policy.max_asks)),
        ("Median time to answer one row, ms, at most", maybe(policy.max_latency_ms)),
        ("Size of the bundle, MB, at most", maybe(policy.max_size_mb)),
        ("A person must approve", "yes" if policy.approval else "no"),
    )
    return Table(
        title="Rules of the gate",
        columns=(("Rule", "text"), ("Asked", "number")),
        rows=tuple((rule, asked or "not asked") for rule, asked in rules),
    )


# ---- model and training ----------------------------------------------------------------------------------------------


def model(story: Story) -> Section:
    """Form, parameters and the user's files."""
    if story.model is None:
        return Section(name="model", title="Model", blocks=lost("The bundle"))
    bundle, event = story.model.record, story.model.event
    facts = Facts(
        rows=(
            ("Bundle", bundle.digest, "code"),
            ("Packed", f"{when(event.at)}, ledger entry {event.sequence}", "text"),
            ("Form that answers", bundle.form, "text"),
            ("Why this form", bundle.form_reason, "text"),
            ("Digest of the code", bundle.code, "code"),
            ("Seed", str(bundle.seed), "text"),
        )
    )
    compared = {name: value for name, value in bundle.parity.items() if name != "forms"}
    parity = _pairs("Parity: what was compared to keep that form", _measured(compared), "Nothing was compared.")
    params = _pairs("Parameters", bundle.params, "None: [params] is empty.")
    sources = [
        file
        for file in story.bundle_files
        if file.text is not None and file.path.endswith(_CODE) and file.path not in _OURS
    ]
    listings = tuple(
        Listing(
            title=file.path,
            about=f"{size(file.size_bytes)}, {file.digest}",
            text=file.text or "",
            language=_language(file.path),
        )
        for file in sources
    )
    said = (
        "The user's files as they were packed; their bytes agree with the digests beside them."
        if listings
        else ("The user's files are not at hand.")
    )
    return Section(
        name="model", title="Model", blocks=(facts, params, *_tried(bundle.parity), parity, Text(text=said), *listings)
    )


def _tried(parity: dict[str, Any]) -> tuple[Block, ...]:
    """The forms that were tried when the model was packed, with their verdicts and times."""
    forms = parity.get("forms")
    if not isinstance(forms, dict):
        return ()
    rows = tuple(
        (
            name,
            str(tried.get("verdict", "")),
            _milliseconds(tried.get("one_row_ms")),
            _milliseconds(tried.get("holdout_ms")),
            str(tried.get("reason", "")),
        )
        for name, tried in forms.items()
    )
    table = Table(
        title="Forms that were tried",
        columns=(
            ("Form", "code"),
            ("Verdict", "word"),
            ("One row, ms", "number"),
            ("Compared holdout rows, ms", "number"),
            ("Reason", "text"),
        ),
        rows=rows,
        note="Timed once where the model was packed. Of the forms that agree, the one with the least product of both "
        "times is kept.",
    )
    return (table,)


def _milliseconds(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else ""


def _language(path: str) -> str:
    return {"py": "python", "toml": "toml", "sql": "sql", "ipynb": "json"}.get(path.rsplit(".", 1)[-1], "")


def _pairs(title: str, values: dict[str, object], empty: str) -> Table:
    return Table(
        title=title,
        columns=(("Name", "code"), ("Value", "text")),
        rows=tuple((name, _value(values[name])) for name in sorted(values)),
        empty=empty,
    )


def _measured(values: dict[str, object]) -> dict[str, object]:
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return exact(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return "none" if value is None else str(value)


def training(story: Story) -> Section:
    """The run of the user's training function."""
    title = "Training and tuning"
    if story.training is None:
        return Section(name="training", title=title, blocks=lost("The training"))
    run, event = story.training.record, story.training.event
    facts = Facts(
        rows=(
            ("Training", run.digest, "code"),
            ("Ended", f"{when(event.at)}, ledger entry {event.sequence}", "text"),
            ("State", run.status, "flag"),
            ("Rows", number(run.rows), "text"),
            ("Seed", str(run.seed), "text"),
            ("Time", duration(run.seconds), "text"),
            ("Peak memory", size(run.peak_memory_bytes), "text"),
        )
    )
    metrics = Table(
        title="Metrics that training reported",
        columns=(("Metric", "text"), ("Value", "number")),
        rows=tuple((name, number(run.metrics[name])) for name in sorted(run.metrics)),
        empty="Training reported none.",
        note="As told by the user's code on rows of its own choice; the gate does not use them." if run.metrics else "",
    )
    tail: tuple[Block, ...] = (Text(text="Training printed nothing."),)
    if run.output_tail.strip():
        tail = (Listing(title="Output of training", about="its end, as it was printed", text=run.output_tail),)
    executed = notebook_view(story.notebook) if story.notebook is not None else None
    if executed is not None:
        tail = (*tail, Text(text=_EXECUTED), executed)
    return Section(name="training", title=title, blocks=(facts, metrics, *tuning(story), *tail, *_failed(story)))


def _failed(story: Story) -> tuple[Block, ...]:
    """Trainings of the project that failed, the newest first, and where their executed notebooks are."""
    entries = story.failed[-_MOST_FAILED:]
    if not entries:
        return ()
    table = Table(
        title="Trainings that failed",
        columns=(
            ("Entry", "number"),
            ("Ended", "word"),
            ("Training", "digest"),
            ("Error", "text"),
            ("Executed notebook", "code"),
        ),
        rows=tuple(
            (
                number(entry.event.sequence),
                when(entry.event.at),
                entry.record.digest,
                entry.record.error.partition("\n")[0],
                notebook_place(story.settings, entry.record.notebook),
            )
            for entry in reversed(entries)
        ),
        note="" if len(entries) == len(story.failed) else f"The newest {len(entries)} of {len(story.failed):,}.",
    )
    return (table,)


# ---- packaging -------------------------------------------------------------------------------------------------------


def packaging(story: Story) -> Section:
    """Files of the bundle and the environment lock."""
    files = story.bundle_files
    if not files:
        return Section(name="packaging", title="Packaging", blocks=lost("The list of the bundle's files"))
    said = (
        f"The bundle is named by the SHA-256 of its manifest, {story.candidate}, which lists "
        f"{count(len(files), 'file')} of {size(sum(file.size_bytes for file in files))} in all, each by its digest. "
        "Every file is verified before the bundle is opened."
    )
    blocks: list[Block] = [Text(text=said)]
    blocks.append(
        Table(
            title="Files of the bundle",
            columns=(("File", "code"), ("Size", "number"), ("SHA-256", "code")),
            rows=tuple((file.path, size(file.size_bytes), file.digest) for file in files),
        )
    )
    mlflow = any(file.path == "MLmodel" for file in files)
    blocks.append(
        Text(
            text="The folder is a valid MLflow model: mlflow.pyfunc.load_model opens it as it is."
            if mlflow
            else "The folder holds no MLmodel file, so MLflow cannot open it."
        )
    )
    locks = [file for file in files if file.text is not None and file.path.rsplit("/", 1)[-1] in LOCKS]
    blocks += [
        Listing(title=file.path, about=f"{size(file.size_bytes)}, {file.digest}", text=file.text or "")
        for file in locks
    ]
    return Section(name="packaging", title="Packaging", blocks=tuple(blocks))


# ---- resources -------------------------------------------------------------------------------------------------------


def resources(story: Story) -> Section:
    """Time, memory and bytes, stage by stage."""
    rows: list[tuple[str, str, str, str]] = []
    if story.turn is not None:
        rows += [(f"Turn: {step.name}", duration(step.seconds), "", "") for step in story.turn.steps]
        rows.append(("Turn in all", duration(story.turn.seconds), "", ""))
    if story.files:
        reads = [entry.record for entry in story.files]
        rows.append(
            ("Reading all files", duration(sum(r.seconds for r in reads)), "", size(sum(r.size_bytes for r in reads)))
        )
    if story.training is not None:
        run = story.training.record
        rows.append(("The user's training", duration(run.seconds), size(run.peak_memory_bytes), ""))
    if story.model is not None:
        rows.append(("Bundle", "", "", size(story.model.record.size_bytes)))
    if story.receipt is not None and story.receipt.record.evaluation.latency_ms is not None:
        rows.append(("One row answered (median)", duration(story.receipt.record.evaluation.latency_ms / 1000), "", ""))
    if story.batches:
        rows.append(("Answering all batches", duration(sum(e.record.seconds for e in story.batches)), "", ""))
    table = Table(
        title="Time, memory and size",
        columns=(("What", "text"), ("Time", "number"), ("Peak memory", "number"), ("Size", "number")),
        rows=tuple(rows),
        empty="Nothing is recorded.",
        note="" if story.turn else "The turn of the decision did not record its end, so its steps are not timed.",
    )
    return Section(name="resources", title="Resources used", blocks=(table,))
