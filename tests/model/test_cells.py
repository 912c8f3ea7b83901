import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ContractError
from interlock.model.cells import fingerprint, notebook_tree, python_of, read_notebook, stripped


def document(*cells: tuple[str, str], **more: object) -> bytes:
    made = []
    for tag, source in cells:
        kind = tag if tag in ("markdown", "raw") else "code"
        cell: dict[str, object] = {"cell_type": kind, "source": source}
        cell["metadata"] = {"tags": [tag]} if kind == "code" and tag else {}
        if kind == "code":
            cell |= {"outputs": [], "execution_count": None}
        made.append(cell)
    whole = {"cells": made, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(whole | more).encode()


def test_what_runs_is_read_and_numbered() -> None:
    notebook = read_notebook(
        document(
            ("markdown", "# Title"), ("parameters", "a = 1"), ("injected-parameters", "a = 2"), ("", ""), ("", "b = a")
        ),
        "n.ipynb",
    )
    assert [(cell.number, cell.source) for cell in notebook.code] == [(1, "a = 1"), (3, "b = a")]
    assert notebook.parameters == notebook.code[0]


def test_opening_and_running_it_does_not_change_its_fingerprint() -> None:
    one = document(("", "x = 1"), ("markdown", "old"))
    two = json.loads(one)
    two["cells"][0] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]}
    two["cells"][0]["metadata"] = {"collapsed": True, "tags": ["mine"]}
    two["cells"][0]["source"] = ["x = ", "1"]
    two["cells"][1]["source"] = "new"
    two["metadata"]["language_info"]["version"] = "3.13.1"
    two["metadata"]["kernelspec"] = {"name": "other", "display_name": "Other", "language": "python"}
    assert fingerprint(json.dumps(two).encode(), "n") == fingerprint(one, "n")
    assert fingerprint(stripped(json.dumps(two).encode(), "n"), "n") == fingerprint(one, "n")


@pytest.mark.parametrize("other", [[("", "x = 2")], [("parameters", "x = 1")], [("", "x = 1"), ("", "y = 1")]])
def test_what_runs_changes_its_fingerprint(other: list[tuple[str, str]]) -> None:
    assert fingerprint(document(*other), "n") != fingerprint(document(("", "x = 1")), "n")


def test_stripping_leaves_no_output() -> None:
    whole = json.loads(document(("", "df.head()")))
    whole["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "name of a person"}]
    assert b"person" not in stripped(json.dumps(whole).encode(), "n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("!pip install a \\\n  b\nx = 1", "pass\n\nx = 1"),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("%%bash\nls | wc", ""),
        ("\n%%html\n<b>", ""),
        ("if a:\n    !ls\n    b = 1", "if a:\n    pass\n    b = 1"),
        ("files = !ls\nx = %timeit -o f()", "files = None\nx = None"),
        ("df?\n?df.head\n%time x", "pass\npass\npass"),
        ("a = (5\n % 3)\n!ls", "a = (5\n % 3)\npass"),
        ("s = '''\n%not a magic\n'''\n!ls", "s = '''\n%not a magic\n'''\npass"),
        ("await f()", "await f()"),
        ("a = 5 \\\n % 3", "a = 5 \\\n % 3"),
    ],
)
def test_magics_do_not_break_the_reading(source: str, expected: str) -> None:
    assert python_of(source) == expected
    ast.parse(expected)


@given(st.lists(st.sampled_from(["x = 1", "if x:\n    y = 2", "f(\n1)", "s = '''\n%a\n'''", "# %b"]), max_size=6))
def test_plain_python_is_left_alone(parts: list[str]) -> None:
    source = "\n".join(parts)
    assert python_of(source) == source


def test_a_syntax_error_names_the_cell_and_the_line() -> None:
    with pytest.raises(ContractError, match=r"n\.ipynb, code cell 2, line 2: .*: x = = 2"):
        notebook_tree(document(("", "a = 1"), ("markdown", "-"), ("", "b = 1\nx = = 2")), "n.ipynb")


def test_skipped_cells_are_not_read() -> None:
    assert notebook_tree(document(("skip-execution", "not python at all")), "n").body == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "is not a notebook"),
        (b"not json", "is not a notebook"),
        (b"[]", "is not a notebook"),
        (b'{"nbformat": 4, "cells": [1]}', "is not a notebook"),
        (b'{"nbformat": 4, "cells": [], "metadata": []}', "."),
        (b'{"nbformat": 3, "worksheets": [], "cells": []}', "format 3"),
        (document(metadata={"language_info": {"name": "R"}}), "notebook in r,"),
    ],
)
def test_what_is_no_python_notebook_is_refused(content: bytes, said: str) -> None:
    if said == ".":
        assert read_notebook(content, "n").cells == ()
        return
    with pytest.raises(ContractError, match=said):
        read_notebook(content, "n")
