"""``interlock init --from-notebook``: a notebook becomes a training file, an inference file and settings.

The cells are read and not run. What is not certain is refused with the number of its cell: then the notebook itself
becomes the training file, reading its rows from where Interlock puts them.
"""

import ast
import json
from collections.abc import Sequence
from pathlib import Path

from interlock.cli.rewrite import needed_values, rewritten, uses_dummies
from interlock.cli.slicing import Statement, method_of, statements_of
from interlock.cli.understand import READERS, NotUnderstood, Understood, understand
from interlock.errors import Misuse, NotFound
from interlock.model.cells import PARAMETERS, Notebook, read_notebook, stripped
from interlock.model.contract import TRAINING_NAMES
from interlock.model.names import Reading
from interlock.records import Record

_FEATURES = '''"""Made from {notebook} by 'interlock init --from-notebook'. From now on this is the code that counts."""

{imports}


def remembered(learned, key, compute):
    """What the training rows gave, also when other rows are prepared."""
    if key not in learned:
        learned[key] = compute()
    return learned[key]


def fitted(learned, key, transformer, values):
    """Fit on the training rows, and only transform afterwards."""
    if key not in learned:
        learned[key] = copy.deepcopy(transformer).fit(values)
    return learned[key].transform(values)


def prepare({rows}, learned, training):
    """Inputs of the model, and in training the target. `learned` keeps what the training rows taught."""
{body}
    return {x}, {y} if training else None
'''
_TRAIN = '''"""Made from {notebook} by 'interlock init --from-notebook'.{left_out}"""

{imports}

from features import prepare


def train(data{arguments}):
    """Fit on the training rows; the rows that judge the model are never shown here."""
    learned = {{}}
    {x}, {y} = prepare(data, learned, training=True)
{body}
    return {{"model": {model}, "learned": learned, "scalers": [{scalers}]}}
'''
_PREDICT = '''"""Made from {notebook} by 'interlock init --from-notebook': new rows go the way of the training rows."""

from features import prepare


def predict(model, data):
    """One answer for each row, in the same order."""
    inputs, _ = prepare(data, model["learned"], training=False)
    for scaler in model["scalers"]:
        inputs = scaler.transform(inputs)
    return {answer}
'''


class Converted(Record, frozen=True, kw_only=True):
    """Files to write by name, settings to make, and what is to be told; ``reads`` is the notebook's file."""

    files: dict[str, str]
    train: str
    predict: str
    target: str
    params: dict[str, object]
    seed: int | None
    reads: str
    query: str = ""
    notes: tuple[str, ...]


def convert(path: Path, target: str) -> Converted:
    """Read a notebook and write what it becomes; runs nothing of it.

    Raises :class:`NotFound` when there is no such file, :class:`~interlock.errors.ContractError` when it cannot be
    read, and :class:`Misuse` when not even the rows that it learns from can be told.
    """
    if not path.is_file():
        raise NotFound(f"There is no notebook {path}.", next_step="Name an .ipynb file.")
    content = path.read_bytes()
    notebook = read_notebook(content, path.name)
    statements = statements_of(notebook, path.name)
    try:
        found = understand(statements)
        found.check(target)
        return _taken_apart(notebook, path.name, found)
    except NotUnderstood as error:
        return _kept(content, notebook, path.name, target, error)


# ---- taken apart -------------------------------------------------------------------------------------------------


def _taken_apart(notebook: Notebook, name: str, found: Understood) -> Converted:
    body = rewritten(found)
    query = _query(needed_values(found))
    if uses_dummies(body):
        x = found.x
        line = f"{x} = {x}.reindex(columns=remembered(learned, 'columns', lambda: list({x}.columns)), fill_value=0)"
        if any("fitted(" in ast.unparse(node) for node in body):
            raise NotUnderstood("get_dummies and fit_transform follow each other; use one ColumnTransformer")
        body += ast.parse(line).body
    first = f"{found.rows.variable} = {found.rows.variable}.copy()"
    if found.rows.index:
        first = f"{found.rows.variable} = {found.rows.variable}.drop(columns=[{found.rows.index!r}], errors='ignore')"
    body = [*ast.parse(first).body, *body]
    params, seed, rest = _parameters(notebook, found)
    arguments = "".join(f", {item}" for item in [*params, *(["seed"] if seed is not None else [])])
    after = [item.node for item in rest]
    left = ", ".join(map(str, found.left_out))
    files = {
        "features.py": _FEATURES.format(
            notebook=name,
            imports=_imports(found.imports, body, ("import copy",)),
            rows=found.rows.variable,
            body=_indented(body),
            x=found.x,
            y=found.y,
        ),
        "train.py": _TRAIN.format(
            notebook=name,
            left_out=f" Left out, as the model does not rest on them: code cells {left}." if left else "",
            imports=_imports(found.imports, after, ()),
            arguments=arguments,
            x=found.x,
            y=found.y,
            body=_indented(after),
            model=found.model,
            scalers=", ".join(found.scalers),
        ),
        "predict.py": _PREDICT.format(notebook=name, answer=_answer(found)),
    }
    notes = [f"{name} was taken apart: {found.model} learns '{found.target}'."]
    if left:
        notes.append(f"Left out, as the model does not rest on them: code cells {left}.")
    if query:
        notes.append("Rows without a value that the model needs are left out by data.query; it cannot answer them.")
    return Converted(
        files=files,
        train="train.py",
        predict="predict.py",
        target=found.target,
        params=params,
        seed=seed,
        reads=found.rows.file,
        query=query,
        notes=tuple(notes),
    )


def _parameters(notebook: Notebook, found: Understood) -> tuple[dict[str, object], int | None, list[Statement]]:
    """Plain values of the tagged cell that training uses: they become ``[params]`` and arguments."""
    tagged = notebook.parameters
    params: dict[str, object] = {}
    seed: int | None = None
    rest: list[Statement] = []
    for item in found.fit:
        node = item.node
        names = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        value = _literal(node.value) if isinstance(node, ast.Assign) else None
        if tagged is None or item.cell != tagged.number or len(names) != 1 or value is None or item in found.prepare:
            rest.append(item)
        elif names[0] == "seed" and isinstance(value, int):
            seed = value
        elif names[0] in TRAINING_NAMES:
            rest.append(item)
        else:
            params[names[0]] = value
    return params, seed, rest


def _literal(node: ast.expr) -> object:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    plain = isinstance(value, str | int | float | bool) or (
        isinstance(value, list) and all(isinstance(item, str | int | float | bool) for item in value)
    )
    return value if plain else None


def _query(columns: list[str] | None) -> str:
    if columns is None:
        return "select * from data where columns(*) is not null"
    quoted = ['"' + name.replace('"', '""') + '"' for name in dict.fromkeys(columns)]
    conditions = " and ".join(f"{name} is not null" for name in quoted)
    return f"select * from data where {conditions}" if quoted else ""  # noqa: S608 - into the user's own settings


def _answer(found: Understood) -> str:
    """The model's answers in the target's own words, where the notebook learned codes."""
    call = "model['model'].predict(inputs)".replace("'", '"')
    for item in found.prepare:
        node = item.node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == found.y:
            for part in ast.walk(node.value):
                if method_of(part) == "fit_transform":
                    raise NotUnderstood("the target is encoded; leave it as it is (scikit-learn takes text)", item.cell)
                if method_of(part) == "map" and isinstance(part, ast.Call):
                    table = {value: key for key, value in ast.literal_eval(part.args[0]).items()}
                    return f"[{table!r}[answer] for answer in {call}]"
    return call


def _indented(body: Sequence[ast.stmt]) -> str:
    return "\n".join("    " + line for node in body for line in ast.unparse(node).splitlines())


def _imports(imports: Sequence[Statement], body: Sequence[ast.stmt], more: Sequence[str]) -> str:
    """The imports that ``body`` needs, one for each name."""
    wanted = set(Reading().read(body).free)
    lines = list(more)
    for item in imports:
        node = item.node
        assert isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names:
            if (alias.asname or alias.name).partition(".")[0] in wanted or alias.name == "*":
                one = (
                    ast.Import([alias])
                    if isinstance(node, ast.Import)
                    else ast.ImportFrom(node.module, [alias], node.level)
                )
                lines.append(ast.unparse(one))
    return "\n".join(dict.fromkeys(lines))


# ---- kept as it is -----------------------------------------------------------------------------------------------


def _kept(content: bytes, notebook: Notebook, name: str, target: str, error: NotUnderstood) -> Converted:
    """The notebook as training file, with the call that reads its rows pointed at those of Interlock."""
    reads = [
        (cell, call)
        for cell in notebook.code
        for item in statements_of(Notebook(language="python", cells=(cell,)), name)
        for call in ast.walk(item.node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in READERS
    ]
    usable = [item for item in reads if isinstance(item[1].args[0] if item[1].args else None, ast.Constant)]
    if len(reads) != 1 or len(usable) != 1 or usable[0][1].func.attr not in ("read_csv", "read_parquet"):  # type: ignore[attr-defined]
        cells = ", ".join(str(cell.number) for cell, _ in reads) or "none"
        raise Misuse(
            f"{name} cannot be converted. {error.message} Nor is there one read_csv or read_parquet of a named file "
            f"(files are read in code cells: {cells}).",
            next_step="Read the training rows with one pd.read_csv in one cell, or write train.py yourself.",
        )
    if not target:
        raise Misuse(
            f"{name} cannot be taken apart. {error.message}", next_step="Name the column to predict: --target COLUMN."
        )
    cell, call = usable[0]
    constant = call.args[0]
    assert isinstance(constant, ast.Constant)
    document = json.loads(stripped(content, name))
    changed = _replaced(cell.source, constant)
    default = f"train_path = {('data/inbox/' + Path(str(constant.value)).name)!r}"
    for item in document["cells"]:
        if item["cell_type"] == "code" and item["source"] == cell.source:
            item["source"] = changed
    tagged = [i for i in document["cells"] if PARAMETERS in i["metadata"].get("tags", ())]
    if tagged:
        tagged[0]["source"] += f"\n{default}"
    else:
        document["cells"].insert(0, _code_cell(default))
    return Converted(
        files={name: json.dumps(document, indent=1, ensure_ascii=False) + "\n"},
        train=name,
        predict="",
        target=target,
        params={},
        seed=None,
        reads=str(constant.value),
        notes=(
            f"{name} was not taken apart. {error.message}",
            "It is the training file as it is, with its rows read from train_path.",
            "It must leave its model in a variable 'model' that answers raw rows with .predict; else write predict.py.",
        ),
    )


def _code_cell(source: str) -> dict[str, object]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [PARAMETERS]},
        "outputs": [],
        "source": source,
    }


def _replaced(source: str, constant: ast.Constant) -> str:
    """The cell with ``train_path`` in place of the file's name."""
    lines = source.split("\n")
    line = lines[constant.lineno - 1].encode()
    assert constant.end_col_offset is not None
    lines[constant.lineno - 1] = (
        line[: constant.col_offset] + b"train_path" + line[constant.end_col_offset :]
    ).decode()
    return "\n".join(lines)
