import pytest

from interlock.errors import StoreFault
from interlock.report.mirroring import _flat, _name, _reach, _said, _text


def test_names_are_those_that_mlflow_takes() -> None:
    assert _name("f1@macro/µ") == "f1_macro/µ"
    assert _name("/a//../b") == "_/a/_/_/b"
    assert len(_name("x" * 999)) == 250


def test_params_are_flat_and_bounded_text() -> None:
    params = {"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": None}
    assert _flat(params) == [("a.b.c", 1), ("a.d", []), ("e", {}), ("f", None)]
    assert [_text(value, 500) for _, value in _flat(params)] == ["1", "[]", "{}", "null"]
    assert len(_text("x" * 1000, 500)) == 500


def test_what_the_client_says_is_one_line_without_secrets() -> None:
    assert _said(ValueError("cannot reach http://me:secret@host:1/x\nand more")) == "cannot reach http://host:1/x"
    assert _said(ValueError()) == "ValueError"


def test_nobody_there_is_found_before_anything_is_imported() -> None:
    from infra.mlflow import free_port

    with pytest.raises(StoreFault, match="did not answer"):
        _reach(f"http://127.0.0.1:{free_port()}")
    _reach("databricks")
