import ast

import pytest

from interlock.model.names import Reading


@pytest.mark.parametrize(
    ("source", "free"),
    [
        ("a = b", ("b",)),
        ("b = 1\na = b", ()),
        ("x = x + 1", ("x",)),
        ("x += 1", ("x",)),
        ("df['a'] = 1", ("df",)),
        ("[i for i in rows]", ("rows",)),
        ("def f(a):\n    return a + b\nb = 1", ()),
        ("def f(a, c=d):\n    return a + b", ("d", "b")),
        ("for i in range(3):\n    print(i, j)", ("j",)),
        ("import os.path\nos.path", ()),
        ("from m import a as b\nb, a", ("a",)),
        ("try:\n    f()\nexcept E as e:\n    e", ("f", "E")),
        ("with open(p) as h:\n    h", ("p",)),
        ("class A(B):\n    x = y", ("B", "y")),
        ("lambda v: v + w", ("w",)),
        ("if (n := 3):\n    n", ()),
        ("a: int\na", ("a",)),
        ("print(len([]))", ()),
    ],
)
def test_names_read_before_they_are_bound(source: str, free: tuple[str, ...]) -> None:
    assert Reading().read(ast.parse(source).body).free == free
