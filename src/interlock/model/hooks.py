"""Answer by SageMaker's inference functions, as its containers would: body in, body out, defaults where one is missing.

A copy of this file travels as ``code/interlock_hooks.py`` in every bundle that needs it, and imports nothing of
Interlock. Source of the defaults: the handlers of aws/sagemaker-inference-toolkit, -scikit-learn-container,
-xgboost-container and -pytorch-inference-toolkit; where they have none for the model, the one file that was saved is
opened by its ending. It unpickles, so the bundle must have been verified before.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

CSV, JSON, NPY, LIBSVM = "text/csv", "application/json", "application/x-npy", "text/libsvm"
CONTENT_TYPES = (CSV, JSON, NPY, LIBSVM)
"""What ``input_fn`` is offered, in this order, until it takes one: it raises nothing and gives something."""
ACCEPTED = (JSON, CSV, NPY)
"""What ``output_fn`` is asked for, in this order."""
_PICKLES = (".pkl", ".pickle", ".joblib", ".sav")
_TORCH = (".pt", ".pth")


class Hooks:
    """A model with SageMaker's functions around it. ``model`` is the one that training returned, if it did."""

    def __init__(self, spec: Mapping[str, Any], model_dir: Path, model: Any = None) -> None:
        self.spec = spec
        self.folder = str(model_dir)
        self.functions: dict[str, Callable[..., Any]] = {}
        self._taken = str(spec["content_type"])
        self._given = str(spec["accept"])
        if spec["found"]:
            with _container(self.folder):
                module = importlib.import_module(spec["module"])
            self.functions = {name: getattr(module, name) for name in spec["found"]}
        self.model = self._load(model)

    def _load(self, returned: Any) -> Any:
        if "model_fn" in self.functions:
            module = sys.modules[self.spec["module"]]
            with _container(self.folder), _classes_of(module):
                return _call(self.functions["model_fn"], self.folder)
        if returned is not None:
            return returned
        module = sys.modules.get(self.spec["module"]) or sys.modules["__main__"]
        with _classes_of(module):
            return open_model(Path(self.folder))

    def answer(self, frame: Any) -> Any:
        """One answer for each row of a pandas frame, as the functions give it."""
        size = int(self.spec["rows_per_call"])
        if not size or len(frame) <= size:
            return self._answer(frame)
        found: list[Any] = []
        for start in range(0, len(frame), size):
            found += _listed(self._answer(frame.iloc[start : start + size]))
        return plain(found)

    def _answer(self, frame: Any) -> Any:
        functions = self.functions
        if "transform_fn" in functions:
            return self._offer(frame, self._transform)
        if "input_fn" in functions:
            data = self._offer(frame, lambda body, kind: _call(functions["input_fn"], body, kind))
        else:
            data = self._data(frame)
        if "predict_fn" in functions:
            prediction = _call(functions["predict_fn"], data, self.model)
        else:
            prediction = predict(data, self.model)
        if "output_fn" in functions:
            return self._ask(lambda kind: _call(functions["output_fn"], prediction, kind), len(frame))
        return plain(prediction)

    def _transform(self, body: Any, kind: str) -> Any:
        return self._ask(lambda accept: _call(self.functions["transform_fn"], self.model, body, kind, accept), 0)

    def _offer(self, frame: Any, take: Callable[[Any, str], Any]) -> Any:
        """Hand the rows over in the first content type that is taken, and in that one from then on."""
        refused: Exception | None = None
        for kind in (self._taken,) if self._taken else CONTENT_TYPES:
            try:
                data = take(encode(frame, kind, header=bool(self.spec["header"])), kind)
            except Exception as error:
                if self._taken:
                    raise
                refused = refused or error
                continue
            if data is not None:
                self._taken = kind
                return data
        tried = self._taken or ", ".join(CONTENT_TYPES)
        raise ValueError(f"the rows were taken in none of the content types {tried}{_words(refused)}") from refused

    def _ask(self, give: Callable[[str], Any], rows: int) -> Any:
        """Ask for the answers in the first type that is given, and in that one from then on."""
        refused: Exception | None = None
        for kind in (self._given,) if self._given else ACCEPTED:
            try:
                body = give(kind)
            except Exception as error:
                if self._given:
                    raise
                refused = refused or error
                continue
            if body is not None:
                self._given = kind
                return decode(*_typed(body, kind), rows)
        tried = self._given or ", ".join(ACCEPTED)
        raise ValueError(f"answers were given in none of the content types {tried}{_words(refused)}") from refused

    def _data(self, frame: Any) -> Any:
        """What the containers hand to ``predict_fn`` without an ``input_fn``: by the model, or by the annotation."""
        model = self.model
        if _is(model, "xgboost", "Booster"):
            return importlib.import_module("xgboost").DMatrix(numbers(frame))
        if _is(model, "torch", "Module"):
            return importlib.import_module("torch").from_numpy(numbers(frame).astype(np.float32))
        note = _first_annotation(self.functions.get("predict_fn"))
        names = list(self.spec["names"])
        if "ndarray" not in note and ("DataFrame" in note or isinstance(names[0], str) or not _numeric(frame)):
            return frame.set_axis(names, axis=1)
        return numbers(frame) if _numeric(frame) else frame.to_numpy()

    def probabilities(self, frame: Any) -> tuple[Any, list[Any]] | None:
        """Probabilities of the classes where nothing stands between the rows and a model that has them."""
        proba, classes = getattr(self.model, "predict_proba", None), getattr(self.model, "classes_", None)
        if set(self.functions) - {"model_fn"} or not callable(proba) or classes is None:
            return None
        return proba(self._data(frame)), [value.item() if hasattr(value, "item") else value for value in classes]


# ---- defaults of the containers ----------------------------------------------------------------------------------


def open_model(folder: Path) -> Any:
    """Open the one model that was saved, by the ending of its name; raises :class:`FileNotFoundError` when unclear."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "code" not in path.parent.parts[-1:]]
    known = [path for path in files if path.suffix in (*_PICKLES, *_TORCH, ".json", ".ubj", ".txt")]
    if len(files) != 1 and len(known) != 1:
        names = ", ".join(path.name for path in files[:5]) or "none"
        raise FileNotFoundError(f"no model_fn(model_dir) says which file is the model; saved were: {names}")
    path = (known if len(known) == 1 else files)[0]
    if path.suffix in _TORCH:
        return importlib.import_module("torch").jit.load(str(path), map_location="cpu")
    if path.suffix == ".txt":
        return importlib.import_module("lightgbm").Booster(model_file=str(path))
    if path.suffix not in (".json", ".ubj"):
        try:
            return importlib.import_module("joblib").load(path)
        except Exception:  # an XGBoost model of no known ending, as its container saves them
            if path.suffix in _PICKLES:
                raise
    booster = importlib.import_module("xgboost").Booster()
    booster.load_model(str(path))
    return booster


def predict(data: Any, model: Any) -> Any:
    """What the containers do without a ``predict_fn``."""
    if _is(model, "torch", "Module"):
        with importlib.import_module("torch").no_grad():
            model.eval()
            return model(data)
    if _is(model, "xgboost", "Booster"):
        return model.predict(data, validate_features=False)
    return model.predict(data)


# ---- bodies ------------------------------------------------------------------------------------------------------


def encode(frame: Any, kind: str, *, header: bool) -> str | bytes:
    """Rows as the body of a request; text where the containers give text."""
    kind = kind.partition(";")[0].strip()
    if kind == CSV:
        return str(frame.to_csv(index=False, header=header))
    if kind == JSON:
        return json.dumps(frame.to_numpy().tolist(), default=str)
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, numbers(frame) if _numeric(frame) else frame.to_numpy().astype(str), allow_pickle=False)
        return file.getvalue()
    if kind in (LIBSVM, "text/x-libsvm"):
        rows = numbers(frame).tolist()
        return "".join(" ".join(f"{at}:{value:.17g}" for at, value in enumerate(row)) + "\n" for row in rows)
    raise ValueError(f"rows cannot be written as {kind}; set script.content_type to one of {', '.join(CONTENT_TYPES)}")


def decode(body: Any, kind: str, rows: int) -> Any:
    """Answers out of the body of a reply; ``rows`` is how many there should be, where that helps to read it."""
    if not isinstance(body, str | bytes | bytearray):
        return plain(body)
    kind = kind.partition(";")[0].strip()
    if kind == NPY:
        return plain(np.load(io.BytesIO(bytes(body)), allow_pickle=False))  # type: ignore[arg-type]
    text = body if isinstance(body, str) else bytes(body).decode("utf-8")
    if kind == CSV:
        lines = [line.split(",") for line in text.strip().splitlines()]
        flat = lines[0] if len(lines) == 1 and len(lines[0]) == rows else [line[0] for line in lines]
        return [_value(item) for item in flat]
    try:
        return plain(json.loads(text))
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def plain(answer: Any) -> Any:
    """Answers as a list or an array: tensors on the host, the value of a sole or well-known key, no lists of one."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, Mapping):
        for name in ("predictions", "prediction", "outputs", "output", "instances"):
            if name in answer:
                return plain(answer[name])
        return plain(next(iter(answer.values()))) if len(answer) == 1 else answer
    if isinstance(answer, list | tuple) and answer:
        if all(isinstance(item, list) and len(item) == 1 for item in answer):
            return [item[0] for item in answer]
        if all(isinstance(item, Mapping) for item in answer):
            return importlib.import_module("pandas").DataFrame(answer)
    if isinstance(answer, np.ndarray) and answer.ndim == 0:
        return answer.reshape(1)
    return answer


def _listed(answer: Any) -> list[Any]:
    """Answers as a list; one that is no list is the only one."""
    if hasattr(answer, "columns"):
        return list(answer.to_dict("records"))
    values = answer.tolist() if hasattr(answer, "tolist") else answer
    return list(values) if isinstance(values, list | tuple) else [values]


def numbers(frame: Any) -> Any:
    """A frame as float64 of shape (rows, columns), missing values as NaN."""
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _numeric(frame: Any) -> bool:
    return all(getattr(kind, "kind", "O") in "biuf" for kind in frame.dtypes)


def _value(text: str) -> Any:
    text = text.strip().strip('"')
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _typed(body: Any, kind: str) -> tuple[Any, str]:
    """The body and its type: ``output_fn`` may give both, or a response object that has them."""
    if isinstance(body, tuple) and len(body) == 2 and isinstance(body[1], str):
        return body[0], body[1]
    if hasattr(body, "get_data") and hasattr(body, "mimetype"):
        return body.get_data(), body.mimetype or kind
    return body, kind


# ---- around the functions ----------------------------------------------------------------------------------------


def _call(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function, with None for the context when it takes one more argument."""
    with contextlib.suppress(TypeError, ValueError):
        parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if len([p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) == len(given) + 1:
            given = (*given, None)
    return function(*given)


def _words(error: Exception | None) -> str:
    return f"; the first was refused with {type(error).__name__}: {str(error)[:200]}" if error is not None else ""


def _first_annotation(function: Callable[..., Any] | None) -> str:
    parameters = list(inspect.signature(function).parameters.values()) if function is not None else []
    return str(parameters[0].annotation) if parameters else ""


def _is(model: Any, package: str, name: str) -> bool:
    """Whether an object is of a class of that package and name, without importing it."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(model).__mro__)


@contextlib.contextmanager
def _container(folder: str) -> Iterator[None]:
    """Name the folders in the environment, as serving containers do, while the user's code is loaded.

    The base folder is one to throw away: AWS's own packages write into it as soon as they are imported.
    """
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        given = {"SM_MODEL_DIR": folder, "SAGEMAKER_BASE_DIR": scratch}
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def _classes_of(module: Any) -> Iterator[None]:
    """Let ``__main__`` have the module's classes while a model is loaded: a program pickles its own under that name."""
    main = sys.modules["__main__"]
    lent = [name for name, value in vars(module).items() if isinstance(value, type) and not hasattr(main, name)]
    for name in lent:
        setattr(main, name, getattr(module, name))
    try:
        yield
    finally:
        for name in lent:
            delattr(main, name)
