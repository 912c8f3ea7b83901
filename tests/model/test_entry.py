"""A function of the user, found without running its file, and the words for what does not fit."""

from pathlib import Path

import pytest

from interlock.errors import ContractError
from interlock.model.entry import Entry, function_entry, misfit, offered
from interlock.model.source import Project


def entry(folder: Path, source: str, text: str = "train.py") -> Entry:
    (folder / "train.py").write_text(source)
    return function_entry(Project(folder), text, "train")


def test_its_signature_is_read_from_the_syntax_tree(tmp_path: Path) -> None:
    found = entry(tmp_path, "raise SystemExit\n\ndef train(X, /, y: 'pl.Series', *, depth=3, **rest): ...\n")
    assert (found.parameters, found.required) == (("X", "y", "depth"), ("X", "y"))
    assert (found.annotations, found.any_keyword, found.known) == ({"y": "'pl.Series'"}, True, True)
    assert found.signature == "train(X, /, y: 'pl.Series', *, depth=3, **rest)"
    assert found.label == "train in train.py"


@pytest.mark.parametrize(
    "source", ["from elsewhere import train", "train = make()", "@wrap\ndef train(X): ...", "import x as train"]
)
def test_what_only_running_the_file_can_tell_is_left_open(tmp_path: Path, source: str) -> None:
    assert not entry(tmp_path, source).known


def test_the_last_definition_counts_and_those_for_a_script_do_not(tmp_path: Path) -> None:
    source = "def train(a): ...\ndef train(b): ...\nif __name__ == '__main__':\n    def train(c): ...\n"
    assert entry(tmp_path, source).parameters == ("b",)
    assert entry(tmp_path, "train = lambda X, y: 1").parameters == ("X", "y")


def test_another_name_may_be_given(tmp_path: Path) -> None:
    assert entry(tmp_path, "def fit(X): ...", "train.py:fit").label == "fit in train.py"


WRONG = {
    "def fit(X): ...\ndef trian(X): ...": (
        "train.py has no function 'train'. Functions found: fit, trian. Did you mean 'trian'?",
        "Name it 'train', or write train.py:function in interlock.toml.",
    ),
    "class train: ...": ("train in train.py is a class, not a function.", "Write def train(…) that uses it."),
    "async def train(): ...": (
        "train in train.py is an async function.",
        "Write a plain def train(…); asyncio.run may be used in it.",
    ),
    "def train():\n    yield 1": (
        "train in train.py is a generator (it has a yield).",
        "Return the answer instead of yielding it.",
    ),
    "train = 7": ("train in train.py is a value, not a function.", "Write def train(…)."),
    "class A:\n    def train(self): ...": (
        "train in train.py is defined inside A.",
        "Move it to the top level of the file.",
    ),
}


@pytest.mark.parametrize("source", WRONG)
def test_what_is_no_function_is_said(tmp_path: Path, source: str) -> None:
    with pytest.raises(ContractError) as caught:
        entry(tmp_path, source)
    assert (caught.value.message, caught.value.next_step) == WRONG[source]


def test_a_yield_of_an_inner_function_is_its_own(tmp_path: Path) -> None:
    assert entry(tmp_path, "def train(X):\n    def inner():\n        yield 1\n    return inner").known


def test_what_is_no_file_of_python_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("")
    for text in ("train.txt", "train.py:not-a-name"):
        with pytest.raises(ContractError, match="which is not a Python file"):
            entry(tmp_path, "", text)


def test_a_parameter_that_nobody_offers() -> None:
    offer = offered(("X", "y"), {"depth": 1, "X": 2})
    assert offer == ("X", "y", "depth")
    told = misfit("train.py", "train(X, dept)", "dept", offer)
    assert told.message == (
        "train(X, dept) in train.py asks for 'dept', which is not on offer. Did you mean 'depth'? "
        "On offer: X, y, depth."
    )
    assert told.next_step == "Rename the parameter, give it a default, or add it to [params]."
    many = misfit("train.py", "train(q)", "q", tuple(f"name{n}" for n in range(60)))
    assert "and 20 more" in many.message
