"""What a notebook does, as far as its code tells: the rows, the target, the model, and what leads from one to it."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from interlock.cli.slicing import Statement, method_of, needed_for, root_of
from interlock.errors import InterlockError
from interlock.model.names import Reading

READERS = frozenset({"read_csv", "read_table", "read_parquet", "read_json", "read_excel", "read_feather"})
_HARMLESS = frozenset({"sep", "delimiter", "encoding", "engine", "low_memory", "parse_dates", "dtype", "index_col"})
_SAVERS = frozenset({"dump", "dumps"})
_RESAMPLERS = frozenset({"fit_resample"})
_PLAIN_TARGET = frozenset({"copy", "to_numpy", "ravel", "squeeze", "reset_index"})


class NotUnderstood(InterlockError):
    """A notebook, or a cell of it, that cannot be taken apart with certainty."""

    exit_code = 2

    def __init__(self, what: str, cell: int = 0) -> None:
        where = f"Code cell {cell}: " if cell else ""
        super().__init__(f"{where}{what}.", cell=cell)


@dataclass
class RowsRead:
    """The statement that reads the rows: the variable, the file that it names, and what it says about an index."""

    variable: str
    file: str
    index: str
    call: ast.Call
    at: Statement


@dataclass
class Understood:
    """A notebook taken apart. Statements are in the order of the notebook."""

    rows: RowsRead
    model: str
    target: str
    x: str
    y: str
    imports: list[Statement]
    prepare: list[Statement]
    fit: list[Statement]
    scalers: list[str] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)

    def check(self, target: str) -> None:
        """Raise :class:`NotUnderstood` when the notebook predicts another column than the owner names."""
        if target and target != self.target:
            raise NotUnderstood(f"the notebook predicts '{self.target}', not '{target}'")


def understand(statements: Sequence[Statement]) -> Understood:
    """Take a notebook apart; raises :class:`NotUnderstood`, with the cell, for what is not certain."""
    fit = _last_fit(statements)
    until = list(statements[: statements.index(fit) + 1])
    model = _model_of(fit)
    needed = needed_for({model}, until)
    imports = [item for item in statements if item.is_import]
    body = [item for item in needed if not item.is_import]
    _refuse_unknown(body, imports)
    rows = _rows_of(body)
    split, x, y = _split_of(body, fit)
    before = body[: body.index(split)]
    prepare = [item for item in needed_for({*_names(x), *_names(y)}, before) if not item.is_import]
    if rows.at not in prepare:
        raise NotUnderstood("what is split or fitted does not come from the file that is read", split.cell)
    rest = _with_constants(prepare, [item for item in body if item not in prepare], x, y)
    used = {item.cell for item in needed}
    return Understood(
        rows=rows,
        model=model,
        target=_target(y, prepare, rows.variable),
        x=_variable(x, split),
        y=_variable(y, split),
        imports=imports,
        prepare=prepare,
        fit=rest,
        scalers=_scalers(rest, fit, split, _variable(x, split)),
        left_out=sorted({item.cell for item in statements if item.cell not in used and not item.is_import}),
    )


# ---- model -------------------------------------------------------------------------------------------------------


def _fit_call(node: ast.stmt) -> ast.Call | None:
    value = node.value if isinstance(node, ast.Expr | ast.Assign) else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "fit":
        return value if len(value.args) >= 2 or {"X", "y"} <= {word.arg for word in value.keywords} else None
    return None


def _model_of(item: Statement) -> str:
    call = _fit_call(item.node)
    assert call is not None
    if isinstance(item.node, ast.Assign) and isinstance(item.node.targets[0], ast.Name):
        return item.node.targets[0].id
    assert isinstance(call.func, ast.Attribute)
    names = root_of(call.func.value)
    if not names or not isinstance(call.func.value, ast.Name):
        raise NotUnderstood("the fitted model is not kept in a variable", item.cell)
    return names[0]


def _last_fit(statements: Sequence[Statement]) -> Statement:
    fits = [item for item in statements if _fit_call(item.node) is not None]
    if not fits:
        raise NotUnderstood("no statement of the form model.fit(X, y) was found at the top level of a cell")
    saved = {
        name.id
        for item in statements
        for call in ast.walk(item.node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in _SAVERS
        and call.args
        for name in [call.args[0]]
        if isinstance(name, ast.Name)
    }
    kept = [item for item in fits if _model_of(item) in saved]
    return (kept or fits)[-1]


def _refuse_unknown(body: Sequence[Statement], imports: Sequence[Statement]) -> None:
    """A name that no earlier cell defines: the notebook was run in another order than it is written."""
    reading = Reading().read([item.node for item in imports])
    for item in body:
        reading.read([item.node])
        if reading.free:
            raise NotUnderstood(
                f"it uses '{reading.free[0]}', which no earlier cell defines (cells run in another order?)", item.cell
            )


# ---- rows --------------------------------------------------------------------------------------------------------


def _read_calls(node: ast.AST) -> list[ast.Call]:
    return [
        call
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in READERS
    ]


def _rows_of(body: Sequence[Statement]) -> RowsRead:
    reads = [(item, call) for item in body for call in _read_calls(item.node)]
    if len(reads) != 1:
        cells = ", ".join(str(item.cell) for item, _ in reads) or "none"
        raise NotUnderstood(
            f"the model rests on {len(reads)} files that are read (code cells: {cells}); only one can become the rows"
        )
    item, call = reads[0]
    node = item.node
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
        raise NotUnderstood("the file is not read into one variable", item.cell)
    words = {word.arg: word.value for word in call.keywords}
    others = sorted(str(word) for word in words if word not in _HARMLESS)
    if others:
        raise NotUnderstood(f"the file is read with {others[0]}=, which Interlock's rows would not follow", item.cell)
    index = words.get("index_col")
    if index is not None and not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
        raise NotUnderstood("index_col does not name a column", item.cell)
    first = call.args[0] if call.args else None
    return RowsRead(
        variable=node.targets[0].id,
        file=str(first.value) if isinstance(first, ast.Constant) else "",
        index=str(index.value) if isinstance(index, ast.Constant) else "",
        call=call,
        at=item,
    )


def _split_of(body: Sequence[Statement], fit: Statement) -> tuple[Statement, ast.expr, ast.expr]:
    """The statement up to which rows are prepared, and what it takes as inputs and target."""
    for item in body:
        value = item.node.value if isinstance(item.node, ast.Assign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("train_test_split"):
            if len(value.args) != 2:
                raise NotUnderstood("train_test_split is understood as train_test_split(X, y)", item.cell)
            return item, value.args[0], value.args[1]
    call = _fit_call(fit.node)
    assert call is not None
    if len(call.args) >= 2:
        return fit, call.args[0], call.args[1]
    words = {word.arg: word.value for word in call.keywords}
    return fit, words["X"], words["y"]


def _names(node: ast.expr) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def _variable(node: ast.expr, split: Statement) -> str:
    if not isinstance(node, ast.Name):
        raise NotUnderstood(
            f"'{ast.unparse(node)}' is handed over as it is; assign inputs and target to variables first", split.cell
        )
    return node.id


def _with_constants(prepare: list[Statement], rest: list[Statement], x: ast.expr, y: ast.expr) -> list[Statement]:
    """What is left for training, with the constants and functions that it shares with the preparation."""
    have = _names(x) | _names(y)
    for item in rest:
        for name in sorted(item.uses - have):
            needed = needed_for({name}, prepare)
            if any(_read_calls(part.node) for part in needed):
                raise NotUnderstood(f"it uses '{name}' after the inputs were made from it", item.cell)
            rest = [*[part for part in needed if part not in rest], *rest]
    return rest


# ---- target ------------------------------------------------------------------------------------------------------


def _target(y: ast.expr, prepare: Sequence[Statement], rows: str) -> str:
    """The column that the target is taken from."""
    node = y
    for _ in range(20):
        column = column_of(node, rows)
        if column:
            return column
        if isinstance(node, ast.Name):
            node = _value_of(node.id, prepare)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fit_transform":
            node = node.args[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _keeps_values(node):
            node = node.func.value
        elif isinstance(node, ast.Attribute) and node.attr == "values":
            node = node.value
        else:
            break
    raise NotUnderstood(f"the column of the target cannot be told from '{ast.unparse(node)}'")


def _keeps_values(node: ast.Call) -> bool:
    """Whether a method gives the target's values as they are, or in a way that can be undone."""
    method = method_of(node)
    casts = method == "astype" and ast.unparse(node.args[0]) in ("int", "float", "str")
    return casts or method in _PLAIN_TARGET or (method == "map" and is_table(node))


def is_table(node: ast.Call) -> bool:
    """Whether a ``.map`` takes a written-out dictionary of constants, each value once, so that it can be undone."""
    table = node.args[0] if node.args else None
    if not isinstance(table, ast.Dict):
        return False
    plain = all(isinstance(item, ast.Constant) for item in (*table.keys, *table.values))
    return plain and len({ast.unparse(value) for value in table.values}) == len(table.values)


def column_of(node: ast.expr, rows: str) -> str:
    """Name of the column when ``node`` is one of ``rows``: ``df["y"]``, ``df.y``, ``df.pop("y")``; else empty."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
        node = ast.Subscript(value=node.func.value, slice=node.args[0], ctx=ast.Load())
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == rows:
        key = node.slice
        if isinstance(key, ast.List) and len(key.elts) == 1:
            key = key.elts[0]
        return str(key.value) if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == rows:
        return node.attr if node.attr not in ("values", "T", "loc", "iloc", "columns") else ""
    return ""


def _value_of(name: str, statements: Sequence[Statement]) -> ast.expr:
    for item in reversed(statements):
        node = item.node
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value
    raise NotUnderstood(f"the target '{name}' is not assigned by one statement")


# ---- between split and fit ---------------------------------------------------------------------------------------


def _scalers(rest: Sequence[Statement], fit: Statement, split: Statement, x: str) -> list[str]:
    """Transformers between the inputs and the model, in order: what a new row has to go through as well."""
    if split is fit:
        return []
    call = _fit_call(fit.node)
    assert call is not None
    wanted = call.args[0] if call.args else next(word.value for word in call.keywords if word.arg == "X")
    found: list[str] = []
    for item in reversed(rest[: rest.index(fit)]):
        if not isinstance(wanted, ast.Name):
            break
        if wanted.id not in item.gives:
            continue
        if item is split:
            return found[::-1]
        value = item.node.value if isinstance(item.node, ast.Assign) else None
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.args):
            break
        if value.func.attr == "fit_transform" and isinstance(value.func.value, ast.Name):
            found.append(value.func.value.id)
        elif value.func.attr not in _RESAMPLERS:
            break
        wanted = value.args[0]
    if isinstance(wanted, ast.Name) and wanted.id == x:
        return found[::-1]
    raise NotUnderstood(
        f"what happens to '{ast.unparse(wanted)}' between the split and the fit is not certain", fit.cell
    )
