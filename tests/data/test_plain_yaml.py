import contextlib
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interlock.data.plain_yaml import MAX_BYTES, MAX_DEPTH, read_yaml, write_yaml
from interlock.errors import Misuse, SettingsError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.sampled_from(
    ["no", "NO", "y", "on", "2024-01-01", "1e5", "0o17", "0x1f", "1_000", "12:30:45", "=", "~", "", "<<", ".5"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN: Any = st.recursive(
    SCALARS | TEXT | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries((TEXT | WORDS).filter(lambda k: k != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(text: str) -> Any:
    return read_yaml(text.encode(), "c.yaml")


@given(PLAIN)
def test_what_is_written_reads_back_the_same_here_and_elsewhere(value: Any) -> None:
    text = write_yaml(value)
    assert text == write_yaml(value)
    assert read(text) == value
    assert yaml.safe_load(text) == value


def test_words_are_what_they_say() -> None:
    text = "[no, NO, yes, on, 2024-01-01, 12:30:45, true, null, 1, 1.5, 1e3, '1', .inf, 1e999]"
    expected = ["no", "NO", "yes", "on", "2024-01-01", "12:30:45", True, None, 1, 1.5, 1000.0, "1", ".inf", "1e999"]
    assert read(text) == expected
    assert read("\ufeffa: é\n") == {"a": "é"}
    assert read("") is None


def test_an_alias_is_what_it_stands_for() -> None:
    assert read("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "holds more than 100,000 values, aliases followed (line 5)"),
        ("- x\n" * 100_001, "holds more than 100,000 values"),
        ("[" * 40 + "]" * 40, f"is nested deeper than {MAX_DEPTH}"),
        ("[" * 5000, "c.yaml"),
        ("a: &a [*a]\n", "has an alias of what is not there or not complete (line 1)"),
        ("a: 1\nb: 2\na: 3\n", "has the key 'a' twice (line 3)"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "has a merge key ('<<'), which is not read (line 3)"),
        ("a: !!python/object/apply:os.system ['true']\n", "has a tag, and only plain values are read (line 1)"),
        ("1: a\n", "has a key that is not text"),
        ("[a]: b\n", "has a key that is not text"),
        ("a: 1\n---\nb: 1\n", "holds a second document (line 2)"),
        ("a: [1\nb: 2\n", "c.yaml is not valid YAML (line 2): "),
        ("a: \x01\n", "c.yaml is not valid YAML"),
        (f"a: {'x' * MAX_BYTES}", "more than 1,048,576"),
    ],
)
def test_hostile_texts_are_refused_in_few_words(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(text)
    assert message in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.next_step


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(SettingsError, match=r"c.yaml is not UTF-8 \(byte 3\)"):
        read_yaml(b"a: \xff", "c.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(SettingsError):
        read_yaml(data, "c.yaml")


def test_a_missing_library_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Misuse, match=r"pip install 'interlock\[contract\]'"):
        read("a: 1")
