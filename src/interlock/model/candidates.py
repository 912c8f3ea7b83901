"""Which forms may answer as a native model does, by name, each made when it is asked for. Runs in a worker process."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from interlock.model.columns import Value
from interlock.model.ensembles import is_ensemble, read
from interlock.model.fold import Symbol, Unfoldable, fold, follow, transform
from interlock.model.forms import Form
from interlock.model.onnx_export import exported
from interlock.records import Signature


class Candidate(NamedTuple):
    """``make`` gives the forms to compare, likeliest first; it raises :class:`Unfoldable` with the reason in words.

    A ``spare`` one is worth its time only where no other agrees.
    """

    name: str
    make: Callable[[], Sequence[Form]]
    spare: bool = False


def candidates(model: Any, signature: Signature) -> list[Candidate]:
    """What to try for ``model``, in the order of trying."""
    model = _found(model)
    symbols, rest = follow(model, signature)
    final = rest[-1]
    classes = signature.output.classes if signature.output else None
    package = type(final).__module__.split(".")[0]
    if is_ensemble(final):
        found = [Candidate("forest", partial(_forests, rest, symbols, classes))]
    else:
        found = [Candidate("lightgbm" if package == "lightgbm" else "linear", partial(fold, model, signature))]
    if package == "sklearn":
        found += [
            Candidate(name, partial(_graphs, rest, symbols, classes, narrow=narrow), spare=True)
            for name, narrow in (("onnx float64", False), ("onnx float32", True))
        ]
    return found


def _found(model: Any) -> Any:
    """The model that a search of scikit-learn found; any other as it is."""
    searched = type(model).__module__.startswith("sklearn.model_selection") and type(model).__name__.endswith(
        "SearchCV"
    )
    return model.best_estimator_ if searched else model


def _forests(rest: Sequence[Any], symbols: list[Symbol], classes: Sequence[Value] | None) -> Sequence[Form]:
    if len(rest) > 1:
        transform(rest[0], symbols)  # says what is in the way
        raise Unfoldable(f"no rule for the step {type(rest[0]).__name__}")
    return read(rest[-1], symbols, classes)


def _graphs(
    rest: Sequence[Any], symbols: list[Symbol], classes: Sequence[Value] | None, *, narrow: bool
) -> Sequence[Form]:
    return [exported(rest, symbols, classes, narrow=narrow)]
