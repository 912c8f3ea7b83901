"""The preparation of a notebook, rewritten so that new rows get what the training rows taught."""

import ast
import copy
from collections.abc import Sequence

from interlock.cli.slicing import Statement, method_of, root_of
from interlock.cli.understand import NotUnderstood, Understood, column_of

_STATISTICS = frozenset(
    {"mean", "median", "mode", "std", "var", "min", "max", "quantile", "sum", "count", "nunique", "unique"}
    | {"value_counts", "idxmax", "idxmin", "skew", "kurt", "sem", "prod", "corr", "to_dict", "describe", "agg", "mad"}
    | {"average", "percentile", "nanmean", "nanmedian", "nanstd", "nanvar", "nanmin", "nanmax", "nansum"}
    | {"nanquantile", "nanpercentile", "ptp", "first", "last", "nth"}
)
_BUILTIN_STATISTICS = frozenset({"max", "min", "sum", "len", "set", "sorted"})
"""Methods and functions that sum up the rows they see: on new rows the answer of the training rows is used."""
_WHOLE_BATCH = frozenset(
    {"factorize", "transform", "rank", "cumsum", "cumcount", "shift", "rolling", "ewm", "expanding", "diff", "cat"}
    | {"pct_change", "qcut", "interpolate", "ffill", "bfill", "merge", "join", "concat", "resample", "pivot_table"}
)
"""What depends on which other rows are there, so that one row alone would get another answer."""
_FILTERS = frozenset({"dropna", "drop_duplicates", "query", "sample", "head", "tail", "nlargest", "nsmallest"})
_MASKS = frozenset({"isin", "notna", "notnull", "between"})
_BESIDE_FILTERS = frozenset({"reset_index", "copy"})


def rewritten(found: Understood) -> list[ast.stmt]:
    """The body of ``prepare(rows, learned, training)``; raises :class:`NotUnderstood` with the cell."""
    body: list[ast.stmt] = []
    only_y = _only_for_target(found)
    for item in found.prepare:
        node = copy.deepcopy(item.node)
        if item is found.rows.at:
            rest = _without_read(node, found)
            if rest is None:
                continue
            node = rest
        _refuse(item, node, found)
        if item in only_y or _filters(item, node):
            body.append(_if_training(node))
        else:
            body.append(_Learned(found, item).visit(node))
    return [ast.fix_missing_locations(node) for node in body]


def _without_read(node: ast.stmt, found: Understood) -> ast.stmt | None:
    """The statement with the rows in place of the call that reads them; None when nothing is left of it."""
    original = ast.dump(found.rows.call)

    class Replace(ast.NodeTransformer):
        def visit_Call(self, call: ast.Call) -> ast.AST:
            if ast.dump(call) == original:
                return ast.Name(id=found.rows.variable, ctx=ast.Load())
            return self.generic_visit(call)

    replaced = Replace().visit(node)
    assert isinstance(replaced, ast.Assign)
    return None if isinstance(replaced.value, ast.Name) else replaced


def _only_for_target(found: Understood) -> list[Statement]:
    """Statements that make the target and nothing else: they run in training only."""
    kept: list[Statement] = []
    for item in found.prepare:
        node = item.node
        value = node.value if isinstance(node, ast.Assign) else None
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(target, ast.Name) and target.id == found.y and value is not None:
            kept.append(item)
    return kept


def _refuse(item: Statement, node: ast.stmt, found: Understood) -> None:
    for part in ast.walk(node):
        name = part.attr if isinstance(part, ast.Attribute) else part.id if isinstance(part, ast.Name) else ""
        if name in _WHOLE_BATCH and not _is_text_join(part):
            raise NotUnderstood(
                f"'{name}' looks at other rows, so one row alone could not be answered the same", item.cell
            )
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store) and _is_target(part, found):
            raise NotUnderstood(f"the target '{found.target}' is changed in its place", item.cell)
        if method_of(part) == "dropna" and isinstance(part, ast.Call):
            if part.args or any(word.arg in ("axis", "thresh") for word in part.keywords):
                raise NotUnderstood("dropna by columns depends on which rows are there", item.cell)
        elif method_of(part) == "fit":
            raise NotUnderstood("fit and transform are understood as fit_transform here", item.cell)


def _is_target(part: ast.Subscript, found: Understood) -> bool:
    read = ast.Subscript(value=part.value, slice=part.slice, ctx=ast.Load())
    return column_of(read, found.rows.variable) == found.target


def _is_text_join(part: ast.AST) -> bool:
    return isinstance(part, ast.Attribute) and part.attr == "join" and isinstance(part.value, ast.Constant)


def _filters(item: Statement, node: ast.stmt) -> bool:
    """Whether a statement takes rows out; raises when it does more than that."""
    calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute)]
    methods = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    if methods & _FILTERS:
        if methods - _FILTERS - _BESIDE_FILTERS:
            raise NotUnderstood("it takes rows out and does more in one statement", item.cell)
        return True
    value = node.value if isinstance(node, ast.Assign | ast.Expr) else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "drop":
        columns = any(word.arg in ("columns", "axis") for word in value.keywords) or len(value.args) > 1
        return not columns
    if isinstance(value, ast.Subscript):
        return _is_mask(value.slice)
    return False


def needed_values(found: Understood) -> list[str] | None:
    """Columns without which the notebook leaves a row out; None for all of them. Raises :class:`NotUnderstood`.

    Such a row cannot be answered later either, so it must not be among the rows that judge the model.
    """
    columns: list[str] | None = []
    for item in found.prepare:
        drops = [c for c in ast.walk(item.node) if isinstance(c, ast.Call) and method_of(c) == "dropna"]
        earlier = found.prepare[: found.prepare.index(item)]
        if drops and any(part is not found.rows.at and not _filters(part, part.node) for part in earlier):
            raise NotUnderstood("dropna comes after columns were changed; move it behind the reading", item.cell)
        for call in drops:
            subset = next((word.value for word in call.keywords if word.arg == "subset"), None)
            if subset is None:
                columns = None
                continue
            names = [subset] if isinstance(subset, ast.Constant) else getattr(subset, "elts", [])
            if not names or not all(isinstance(name, ast.Constant) and isinstance(name.value, str) for name in names):
                raise NotUnderstood("dropna does not write its columns out", item.cell)
            columns = None if columns is None else [*columns, *(str(name.value) for name in names)]
    return columns


def _is_mask(node: ast.expr) -> bool:
    """Whether what stands in the brackets is true or false for each row."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitAnd | ast.BitOr)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Invert)
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(node, ast.Compare) or (isinstance(called, ast.Attribute) and called.attr in _MASKS)


def _if_training(node: ast.stmt) -> ast.stmt:
    return ast.If(test=ast.Name(id="training", ctx=ast.Load()), body=[node], orelse=[])


class _Learned(ast.NodeTransformer):
    """Wraps what is learned from the rows, so that it is learned in training and looked up afterwards."""

    def __init__(self, found: Understood, item: Statement) -> None:
        self.found = found
        self.item = item
        self.count = 0
        self.loops: list[str] = []
        self.functions = 0

    def _key(self) -> str:
        self.count += 1
        line = getattr(self.item.node, "lineno", 0)
        parts = [str(self.item.cell), str(line), str(self.count)]
        return f"({', '.join([*parts, *self.loops])},)"

    def visit_For(self, node: ast.For) -> ast.AST:
        names = [part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)]
        self.loops += names
        self.generic_visit(node)
        del self.loops[len(self.loops) - len(names) :]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._refuse_learning_inside(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """A written-out list of columns with the target in it: new rows have no target."""
        chosen = node.slice
        names = (
            [item.value for item in chosen.elts if isinstance(item, ast.Constant)]
            if isinstance(chosen, ast.List)
            else []
        )
        if self.found.target in names and isinstance(chosen, ast.List) and len(names) == len(chosen.elts):
            others = ast.List(
                elts=[ast.Constant(value=name) for name in names if name != self.found.target], ctx=ast.Load()
            )
            node.slice = ast.IfExp(test=ast.Name(id="training", ctx=ast.Load()), body=chosen, orelse=others)
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """What is summed up inside a lambda must be its own argument, a row or a value."""
        own = {argument.arg for argument in node.args.args}
        for part in ast.walk(node.body):
            if method_of(part) in _STATISTICS and not own & set(root_of(part.func.value)):  # type: ignore[attr-defined]
                raise NotUnderstood(f"'{method_of(part)}' of all rows is asked for row by row", self.item.cell)
        return node

    def _refuse_learning_inside(self, node: ast.FunctionDef) -> None:
        for part in ast.walk(node):
            if method_of(part) in _STATISTICS | {"fit_transform", "get_dummies"}:
                raise NotUnderstood(f"{node.name}() learns from the rows ('{method_of(part)}')", self.item.cell)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method == "fit_transform" and isinstance(node.func, ast.Attribute) and node.args:
            call = ast.parse(f"fitted(learned, {self._key()}, None, None)", mode="eval").body
            assert isinstance(call, ast.Call)
            call.args[2:] = [node.func.value, node.args[0]]
            return call
        if self._sums_up(node):
            return self._remembered(node)
        if method == "get_dummies" or (isinstance(node.func, ast.Name) and node.func.id == "get_dummies"):
            for word in node.keywords:
                if word.arg == "drop_first" and isinstance(word.value, ast.Constant) and word.value.value is True:
                    word.value = ast.Name(id="training", ctx=ast.Load())
        if method == "drop":
            self._without_target(node)
        return self.generic_visit(node)

    def _sums_up(self, node: ast.Call) -> bool:
        """Whether a call makes one value of many rows: not along a row, and not of one cell's text."""
        if isinstance(node.func, ast.Name):
            return node.func.id in _BUILTIN_STATISTICS
        along_rows = any(word.arg == "axis" and ast.unparse(word.value) in ("1", "'columns'") for word in node.keywords)
        receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
        of_text = isinstance(receiver, ast.Attribute) and receiver.attr in ("str", "dt", "list")
        return method_of(node) in _STATISTICS and not along_rows and not of_text

    def _remembered(self, node: ast.expr) -> ast.expr:
        call = ast.parse(f"remembered(learned, {self._key()}, lambda: None)", mode="eval").body
        assert isinstance(call, ast.Call)
        last = call.args[2]
        assert isinstance(last, ast.Lambda)
        last.body = node
        return call

    def _without_target(self, node: ast.Call) -> None:
        """Rows to be answered have no target to drop."""
        if f"'{self.found.target}'" in ast.unparse(node) and all(word.arg != "errors" for word in node.keywords):
            node.keywords.append(ast.keyword(arg="errors", value=ast.Constant(value="ignore")))


def uses_dummies(body: Sequence[ast.stmt]) -> bool:
    """Whether the columns depend on which values the rows have."""
    return any("get_dummies" in ast.unparse(node) for node in body)
