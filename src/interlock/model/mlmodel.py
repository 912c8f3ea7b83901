"""The files that make a bundle an MLflow model folder, written by hand: MLflow itself is not imported.

Source: MLflow's model format, https://mlflow.org/docs/latest/ml/model/ (flavor ``python_function``, model signature).
"""

import json
import platform
import sys
from pathlib import Path

from interlock.records import Column, ColumnType, Signature, digest

LOADER = "interlock_loader"
HOOKS = "interlock_hooks"
_TYPES: dict[ColumnType, str] = {
    "bool": "boolean",
    "int": "long",
    "float": "double",
    "str": "string",
    "date": "datetime",
    "datetime": "datetime",
    "bytes": "binary",
}


def installed(search: list[str] | None = None) -> list[str]:
    """``name==version`` of everything installed, sorted, read from the names of the metadata folders alone."""
    found: dict[str, str] = {}
    for place in reversed(sys.path if search is None else search):
        folder = Path(place)
        for entry in folder.glob("*.dist-info") if folder.is_dir() else ():
            name, _, version = entry.name.removesuffix(".dist-info").rpartition("-")
            if name:
                found[name.replace("_", "-").lower()] = version
    found.pop("interlock", None)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def environment(requirements: list[str]) -> dict[str, str]:
    """``requirements.txt``, ``python_env.yaml`` and ``conda.yaml``, by file name."""
    python = platform.python_version()
    pip = "".join(f"  - {json.dumps(line)}\n" for line in requirements)
    return {
        "requirements.txt": "".join(f"{line}\n" for line in requirements),
        "python_env.yaml": f'python: "{python}"\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n',
        "conda.yaml": f"channels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n- pip:\n{pip}",
    }


def mlmodel(signature: Signature, identity: object) -> str:
    """Text of the file ``MLmodel``; its ``model_uuid`` is made of ``identity``, so that it says the same each time."""
    inputs = [_field(column) for column in signature.inputs]
    lines = [
        "flavors:",
        "  python_function:",
        "    code: code",
        "    env:",
        "      conda: conda.yaml",
        "      virtualenv: python_env.yaml",
        f"    loader_module: {LOADER}",
        f'    python_version: "{platform.python_version()}"',
        f'model_uuid: "{digest(identity)[:32]}"',
        "signature:",
        f"  inputs: {_quoted(json.dumps(inputs, ensure_ascii=False))}",
        f"  outputs: {_quoted(json.dumps(_outputs(signature)))}",
        "  params: null",
    ]
    return "\n".join(lines) + "\n"


def _field(column: Column) -> dict[str, object]:
    """A column for MLflow, which has no missing integers: such a column is double there, as it is in pandas."""
    kind = "double" if column.type == "int" and column.nullable else _TYPES[column.type]
    return {"type": kind, "name": column.name, "required": True}


def _outputs(signature: Signature) -> list[dict[str, object]]:
    output = signature.output
    if output is None or output.kind == "any":
        return []
    if output.kind == "ranking":
        items = {"type": _TYPES[output.type]}
        return [{"type": "array", "items": items, "name": "prediction", "required": True}]
    kind = "double" if output.kind == "number" else _TYPES[output.type]
    return [{"type": kind, "name": "prediction", "required": True}]


def _quoted(text: str) -> str:
    """A YAML scalar in single quotes, in which only the quote itself needs care."""
    return "'" + text.replace("'", "''") + "'"
