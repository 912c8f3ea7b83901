"""Load a packed model and answer with it. A copy of this file travels in every bundle as ``code/interlock_loader.py``.

It imports nothing of Interlock, so that the bundle works wherever Python and the model's own libraries are: MLflow
calls :func:`_load_pyfunc`, and Interlock's own worker processes use :class:`Native`. It unpickles, so the bundle must
have been verified before.
"""

import importlib
import inspect
import json
import pickle
import sys
from pathlib import Path
from typing import Any


class Native:
    """A model with what answers for it: the user's predict function, or the model's own ``predict``.

    ``kind`` names the frame that :meth:`answer` takes: pandas, polars, pyarrow or numpy. ``model`` is the
    object that training gave, or the folder of the files that it saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        spec = self.manifest["native"]
        for search in reversed(spec["folders"]):
            path = str(self.folder / "code" / search)
            if path not in sys.path:
                sys.path.insert(0, path)
        self.function = None
        self.kind = str(spec["frames"])
        entry = spec["predict"]
        if entry is not None:
            module = importlib.import_module(entry["module"])
            self.function = getattr(module, entry["function"])
            self.kind = _kind(self.function)
        self.model = self._model(spec["model"])
        self.hooks = None
        if spec.get("hooks"):
            hooks = importlib.import_module("interlock_hooks")  # the second file of ours in the bundle
            self.hooks = hooks.Hooks(spec["hooks"], self.folder / "model", self.model if spec["model"] else None)
            self.function = self.hooks.answer
            self.kind = "pandas"
        if self.function is None and not callable(getattr(self.model, "predict", None)):
            raise TypeError(f"the model is a {type(self.model).__name__} without a predict method")

    def _model(self, name: str | None) -> Any:
        home = self.folder / "model"
        if name is None:
            return str(home)
        with (home / name).open("rb") as file:
            return pickle.load(file)  # noqa: S301 - the door for it: verified bytes, in a process of their own

    def answer(self, frame: Any) -> Any:
        """Give whatever the user's code answers for a frame of the kind that ``kind`` names."""
        if self.hooks is not None:
            return self.hooks.answer(frame)
        if self.function is None:
            return self.model.predict(frame)
        named, positional = self._arguments(frame)
        return self.function(*positional, **named)

    def _arguments(self, frame: Any) -> tuple[dict[str, Any], list[Any]]:
        """Bind by parameter name: model, data, df, X, params, any key of the parameters, seed, model_dir."""
        params = self.manifest["params"]
        offers = {
            **params,
            **dict.fromkeys(("data", "df", "X"), frame),
            "model": self.model,
            "params": params,
            "seed": self.manifest["seed"],
            "model_dir": str(self.folder / "model"),
        }
        named: dict[str, Any] = {}
        positional: list[Any] = []
        parameters = _parameters(self.function)
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update({key: value for key, value in params.items() if key not in parameters})
            elif parameter.kind is parameter.VAR_POSITIONAL:
                continue
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(offers.get(name, parameter.default))
            elif name in offers:
                named[name] = offers[name]
            elif parameter.default is parameter.empty:
                raise TypeError(f"nothing is on offer for the parameter '{name}'")
        return named, positional

    def probabilities(self, frame: Any) -> tuple[Any, list[Any]] | None:
        """Give the model's own class probabilities, shape (rows, classes), and the classes in that order; or None."""
        if self.hooks is not None and self.manifest["task"] == "classification":
            return self.hooks.probabilities(frame)  # type: ignore[no-any-return]
        proba = getattr(self.model, "predict_proba", None)
        if self.function is not None or self.manifest["task"] != "classification" or not callable(proba):
            return None
        classes = getattr(self.model, "classes_", None)
        if classes is None:
            return None
        return proba(frame), [_plain(value) for value in classes]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    for evaluate in (True, False):
        try:
            return dict(inspect.signature(function, eval_str=evaluate).parameters)
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue  # an annotation that exists for type checkers only
        except ValueError:
            break
    return {}


def _kind(function: Any) -> str:
    """Read the kind of frame from the annotation of ``data``, ``df`` or ``X``; pandas when it does not say."""
    parameters = _parameters(function)
    notes = [parameters[name].annotation for name in ("data", "df", "X") if name in parameters]
    if not notes:
        return "pandas"
    text = str(notes[0])
    if "polars." in text or text.startswith("pl."):
        return "polars"
    if "pyarrow." in text or text.startswith("pa."):
        return "pyarrow"
    return "numpy" if "ndarray" in text else "pandas"


class _Pyfunc:
    """What MLflow calls."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Answer a pandas frame (or what pandas makes a frame of)."""
        del params
        import pandas as pd

        frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        frame = frame[[column["name"] for column in self._native.manifest["columns"]]]
        return self._native.answer(_as(frame, self._native.kind))


def _as(frame: Any, kind: str) -> Any:
    """Turn a pandas frame into what the user's function takes."""
    if kind == "numpy":
        return frame.to_numpy()
    if kind == "pyarrow":
        import pyarrow as pa

        return pa.Table.from_pandas(frame, preserve_index=False)
    if kind == "polars":
        import polars as pl

        return pl.from_pandas(frame)
    return frame


def _load_pyfunc(path: str) -> _Pyfunc:
    """Be the loader module of MLflow's ``python_function`` flavour; ``path`` is the bundle."""
    sys.dont_write_bytecode = True
    return _Pyfunc(Native(Path(path)))
