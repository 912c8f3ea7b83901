"""Generate the reference pages and the JSON schema from the code; ``--check`` says whether they are up to date."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect
from typer.testing import CliRunner

from interlock.cli.main import app
from interlock.configuration import json_schema
from interlock.release.metrics import METRICS
from interlock.serve.metrics import EDGES_S
from interlock.serve.metrics import METRICS as ONLINE
from interlock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
VERBS = ["init", "run", "predict", "status", "history", "promote", "rollback", "verify", "replay", "report"]
VERBS += ["serve", "load", "keys", "trip", "reset", "sync", "export contract", "doctor"]


def configuration_page() -> str:
    """Every key of interlock.toml: type, default, meaning."""
    lines = [
        "# Configuration",
        "",
        "Generated from `src/interlock/settings.py` by `make docs`.",
        "",
        "One `interlock.toml` in the project folder. Each key can be set from outside: `--set gate.at_least=0.5`,",
        "or `INTERLOCK_GATE__AT_LEAST=0.5`. `[env.NAME]` holds keys that `--env NAME` (or `INTERLOCK_ENV=NAME`) lays",
        "over the file. Later wins: file, `[env.NAME]`, variables, `--set`. An unknown key is an error that names the",
        "nearest valid one and its line. Editors can use `src/interlock/interlock.schema.json`.",
        "",
    ]
    info = inspect.type_info(Settings)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        if field.encode_name in ("root", "environment"):
            continue
        lines += _section(f"[{field.encode_name}]", field.type)
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, type_: inspect.Type) -> list[str]:
    if isinstance(type_, inspect.DictType):
        return [f"## `{title}`", "", "Free keys: they reach the training and inference functions by name.", ""]
    assert isinstance(type_, inspect.StructType)
    lines = [f"## `{title}`", "", (type_.cls.__doc__ or "").split(": ", 1)[-1].capitalize(), ""]
    lines += ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    nested: list[str] = []
    for field in type_.fields:
        shape, description = _unwrap(field.type)
        inner = _struct_of(shape)
        if inner is not None:
            name = "NAME" if isinstance(shape, inspect.DictType) else ""
            path = ".".join(filter(None, [title.strip("[]"), field.encode_name, name]))
            nested += _section(f"[{path}]", inner)
        lines.append(f"| `{field.encode_name}` | {_takes(shape)} | {_default(field)} | {description} |")
    return [*lines, "", *nested]


def _unwrap(type_: inspect.Type) -> tuple[inspect.Type, str]:
    description = ""
    while isinstance(type_, inspect.Metadata):
        description = (type_.extra_json_schema or {}).get("description", description)
        type_ = type_.type
    return type_, description


def _struct_of(type_: inspect.Type) -> inspect.StructType | None:
    if isinstance(type_, inspect.DictType):
        type_ = _unwrap(type_.value_type)[0]
    return type_ if isinstance(type_, inspect.StructType) else None


def _takes(type_: inspect.Type) -> str:
    type_ = _unwrap(type_)[0]
    match type_:
        case inspect.UnionType():
            return " or ".join(_takes(item) for item in type_.types if not isinstance(item, inspect.NoneType))
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in type_.values)
        case inspect.VarTupleType() | inspect.ListType():
            return f"list of {_takes(type_.item_type)}"
        case inspect.DictType():
            return f"table of {_takes(type_.value_type)}"
        case inspect.StructType():
            return "table"
        case inspect.StrType():
            return "duration" if type_.pattern and "ms|s|m" in type_.pattern else "text"
    return {"IntType": "integer", "FloatType": "number", "BoolType": "true or false"}.get(
        type(type_).__name__, "anything"
    )


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default
    if value is inspect.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else None
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        plain = {key: item for key, item in plain.items() if item not in (None, [], {}, ())}
    return "" if plain in (None, "", [], {}, ()) else f"`{json.dumps(plain)}`"


def cli_page() -> str:
    """The help of the program and of every verb."""
    runner = CliRunner()
    lines = ["# Command line", "", "Generated from the program's own help by `make docs`.", ""]
    lines += [
        "Exit codes: 0 done, 1 refused by a decision (a kept or held candidate, a batch that was not published),",
        "",
    ]
    lines[-1:] = [
        "2 misuse, 3 fault. `--json` prints one JSON object; an error is an object with `error`, and a mistyped option",
        "is told as text.",
        "",
    ]
    for verb in ["", *VERBS]:
        result = runner.invoke(app, [*verb.split(), "--help"], prog_name="interlock")
        assert result.exit_code == 0, result.output
        title = f"interlock {verb}".strip()
        lines += [
            f"## `{title}`",
            "",
            "```text",
            *(line.rstrip() for line in result.output.strip().splitlines()),
            "```",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


_INTERVAL = {
    "Counts": "bootstrap over joint cells",
    "Means": "bootstrap of means",
    "Area": "DeLong",
    "Weighted": "bootstrap of rows",
}


def metrics_page() -> str:
    """Every metric by name."""
    lines = [
        "# Metrics",
        "",
        "Generated from `src/interlock/release/metrics.py` by `make docs`.",
        "",
        "Definitions are scikit-learn's; those for rankings and text are told in `release/found.py`. More is always",
        "better: an error is negated and named `neg_…`. `f1`, `precision` and `recall` are about the greater of two",
        "labels. Default: `f1_macro` for classification, `r2` for regression, `neg_mean_absolute_error` for forecasts,",
        "`recall_at_10` for rankings, `token_f1` for text. A function of your own is named `file.py:function`:",
        "[judge by your own metric](../how-to/your-own-metric.md).",
        "",
        "| name | scores | best | interval by |",
        "| --- | --- | ---: | --- |",
    ]
    for name, metric in METRICS.items():
        lines.append(f"| `{name}` | {metric.reads} | {metric.best:g} | {_INTERVAL[type(metric).__name__]} |")
    return "\n".join(lines) + "\n"


def online_metrics_page() -> str:
    """Every metric of a server."""
    how = "[How to read them](../how-to/watch-a-server.md)."
    lines = [
        "# Metrics of a server",
        "",
        f"Generated from `src/interlock/serve/metrics.py` by `make docs`. {how}",
        "",
        "| name | kind | labels | what it says |",
        "| --- | --- | --- | --- |",
    ]
    for name, told in ONLINE.items():
        labels = ", ".join(f"`{label}`" for label in told.labels)
        lines.append(f"| `{name}` | {told.kind} | {labels} | {told.says} |")
    edges = ", ".join(f"{edge * 1000:g}" for edge in EDGES_S)
    lines += ["", f"Buckets of `interlock_request_seconds` end at {edges} ms.", ""]
    lines += ["Beside them the client library's `process_*`: memory, processor time, start, open files.", ""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every generated file and what should be in it."""
    return {
        ROOT / "docs" / "reference" / "configuration.md": configuration_page(),
        ROOT / "docs" / "reference" / "cli.md": cli_page(),
        ROOT / "docs" / "reference" / "metrics.md": metrics_page(),
        ROOT / "docs" / "reference" / "metrics-online.md": online_metrics_page(),
        ROOT / "src" / "interlock" / "interlock.schema.json": json.dumps(json_schema(), indent=2, sort_keys=True)
        + "\n",
    }


def main(check: bool) -> int:
    """Write the files, or tell which are out of date."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"out of date: {path.relative_to(ROOT)} (run 'make docs')")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"  # help is wrapped to the terminal's width
    sys.exit(main("--check" in sys.argv[1:]))
