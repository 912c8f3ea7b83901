from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ContractError
from interlock.model.contract import TRAINING_NAMES, code_digest, read_contract
from interlock.model.entry import misfit
from interlock.settings import Model, Settings


def settings(root: Path, *, params: dict[str, object] | None = None, **model: object) -> Settings:
    values = {"name": "m", "task": "regression", "target": "y"} | model
    return Settings(model=Model(**values), params=params or {}, root=root)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def refusal(root: Path, source: str, **kwargs: object) -> str:
    (root / "train.py").write_text(source)
    with pytest.raises(ContractError) as caught:
        read_contract(settings(root, **kwargs))
    return str(caught.value)


def test_default_function_is_found_and_nothing_is_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import nowhere\n1 / 0\ndef train(data, params, *rest, depth=3): ...\n")
    contract = read_contract(settings(tmp_path))
    assert contract.train.parameters == ("data", "params", "depth")
    assert contract.train.required == ("data", "params")
    assert contract.train.signature == "train(data, params, *rest, depth=3)"
    assert contract.predict is None
    assert contract.files == ("train.py",)
    assert contract.preload == ("nowhere", "pandas")


def test_other_function_and_inference_file(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("def fit(X: 'pl.DataFrame', y, /, rate): ...\ndef answer(model, X): ...\n")
    contract = read_contract(
        settings(tmp_path, train="models.py:fit", predict="models.py:answer", params={"rate": 0.1})
    )
    assert contract.train.function == "fit"
    assert contract.train.annotations == {"X": "'pl.DataFrame'"}
    assert contract.predict is not None
    assert contract.predict.parameters == ("model", "X")


@pytest.mark.parametrize("name", [name for name in TRAINING_NAMES if name not in ("data", "params")])
def test_every_training_name_is_on_offer(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.py").write_text(f"def train(data, params, {name}): ...\n")
    assert name in read_contract(settings(tmp_path)).train.required


@pytest.mark.parametrize("name", ["model", "df", "X", "params", "seed", "model_dir", "rate"])
def test_every_inference_name_is_on_offer(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.py").write_text("def train(data): ...\n")
    (tmp_path / "predict.py").write_text(f"def predict(data, {name}): ...\n")
    entry = read_contract(settings(tmp_path, predict="predict.py", params={"rate": 1})).predict
    assert entry is not None
    assert name in entry.required


def test_a_parameter_that_does_not_fit_shows_signature_offer_and_nearest(tmp_path: Path) -> None:
    text = refusal(tmp_path, "def train(data, learning_rat): ...\n", params={"learning_rate": 0.1})
    assert "train(data, learning_rat) in train.py asks for 'learning_rat'" in text
    assert "Did you mean 'learning_rate'?" in text
    assert "On offer: data, df, X, X_train, y, y_train, X_valid, y_valid, params, seed" in text
    assert text.endswith("Rename the parameter, give it a default, or add it to [params].")


def test_inference_is_not_offered_the_target(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def train(data): ...\n")
    (tmp_path / "predict.py").write_text("def predict(model, data, y): ...\n")
    with pytest.raises(ContractError, match="asks for 'y', which is not on offer"):
        read_contract(settings(tmp_path, predict="predict.py"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("async def train(data): ...", "is an async function"),
        ("class train:\n  pass", "is a class"),
        ("def outer():\n  def train(data): ...", "is defined inside outer"),
        ("class Model:\n  def train(self): ...", "is defined inside Model"),
        ("def train(data):\n  yield 1", "is a generator"),
        ("train = 3", "is a value"),
        ("def tran(data): ...\ndef other(): ...", "Functions found: tran, other. Did you mean 'tran'?"),
        ("x = 1", "Functions found: none"),
        ("if 1 == 1:\n  x = 2", "has no function 'train'"),
        ("def train(params): ...", "never sees the rows"),
        ("def train(**kwargs): ...", "never sees the rows"),
        ("def train(data)\n  pass", "train.py, line 1: expected ':': def train(data)"),
        ("a = 1\x00", "train.py"),
        ("# coding: latin-1\ndef train(data): ...\n)", "line 3"),
    ],
)
def test_what_is_no_usable_function_is_explained(tmp_path: Path, source: str, said: str) -> None:
    assert said in refusal(tmp_path, source)


@pytest.mark.parametrize(
    "source",
    [
        "from models import train",
        "from sklearn.whatever import fit as train",
        "import functools\ntrain = functools.partial(print, 1)",
        "@decorate(1)\ndef train(anything): ...",
        "train, other = make()",
        "try:\n  from fast import train\nexcept ImportError:\n  train = None",
    ],
)
def test_what_only_running_can_tell_is_left_to_run_time(tmp_path: Path, source: str) -> None:
    (tmp_path / "train.py").write_text(source)
    assert not read_contract(settings(tmp_path)).train.known


def test_lambda_and_conditional_definitions_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("train = lambda data, seed=1: data\n")
    assert read_contract(settings(tmp_path)).train.parameters == ("data", "seed")
    (tmp_path / "train.py").write_text("if 1:\n  def train(df): ...\nelse:\n  pass\n")
    assert read_contract(settings(tmp_path)).train.parameters == ("df",)


def test_a_yield_in_an_inner_function_is_no_generator(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def train(data):\n  def batches():\n    yield 1\n  return batches\n")
    assert read_contract(settings(tmp_path)).train.known


@pytest.mark.parametrize("train", ["../train.py", "/tmp/train.py", "", "a/../../train.py"])
def test_a_path_out_of_the_project_is_refused(tmp_path: Path, train: str) -> None:
    with pytest.raises(ContractError, match="not inside the project"):
        read_contract(settings(tmp_path, train=train))


def test_links_that_leave_the_project_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("def train(data): ...")
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(ContractError, match="a link that leaves the project"):
        read_contract(settings(project))
    (project / "train.py").unlink()
    (project / "train.py").write_text("import feature\ndef train(data): ...")
    (project / "feature.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(ContractError, match=r"'feature\.py' is a link that leaves"):
        read_contract(settings(project))


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text("")
    with pytest.raises(ContractError, match=r"'trainin\.py' does not exist .* Did you mean 'training\.py'"):
        read_contract(settings(tmp_path, train="trainin.py"))


def test_only_python_files_are_taken(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(ContractError, match="not a Python file"):
        read_contract(settings(tmp_path, train="train.txt"))


def test_target_and_params_clashes(tmp_path: Path) -> None:
    assert "names no target" in refusal(tmp_path, "def train(X, y): ...", target="")
    assert "'seed' is both" in refusal(tmp_path, "def train(data, seed): ...", params={"seed": 3})


def test_local_imports_are_followed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train": "import features.text\nfrom shapes import area\nimport numpy.linalg\ndef train(X):\n import lazy",
            "features/__init__": "from . import common\nfrom sklearn.linear_model import Ridge\n",
            "features/text": "from .common import x\nfrom ..outside import y\nfrom features import deep\n",
            "features/common": "",
            "features/deep": "import train\n",
            "shapes/area": "import lightgbm\n",
            "lazy": "import unseen\n",
            "unused": "",
        },
    )
    contract = read_contract(settings(tmp_path))
    assert contract.files == (
        "features/__init__.py",
        "features/common.py",
        "features/deep.py",
        "features/text.py",
        "lazy.py",
        "shapes/area.py",
        "train.py",
    )
    assert contract.preload == ("lightgbm", "numpy.linalg", "pandas", "sklearn.linear_model", "unseen")


def test_names_for_type_checkers_and_scripts_are_not_preloaded(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train": """
from __future__ import annotations
from typing import TYPE_CHECKING
import interlock
if TYPE_CHECKING:
    import torch
if __name__ == "__main__":
    import click
try:
    import fast
except ImportError:
    import slow
def train(data):
    import late
"""
        },
    )
    assert read_contract(settings(tmp_path)).preload == ("fast", "pandas", "slow")


def test_files_in_folders_import_their_neighbours_first(tmp_path: Path) -> None:
    write(tmp_path, {"src/train": "import near\ndef train(data): ...", "src/near": "", "near": "", "pkg/__init__": ""})
    write(tmp_path, {"pkg/predict": "from .near import x\ndef predict(model, data): ...", "pkg/near": ""})
    contract = read_contract(settings(tmp_path, train="src/train.py", predict="pkg/predict.py"))
    assert contract.files == ("pkg/__init__.py", "pkg/near.py", "pkg/predict.py", "src/near.py", "src/train.py")
    assert (contract.train.module, contract.train.search) == ("train", "src")
    assert contract.predict is not None
    assert (contract.predict.module, contract.predict.search) == ("pkg.predict", ".")


def test_a_package_is_packed_down_to_its_own_init(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/__init__": "", "pkg/train": "def train(data): ..."})
    assert read_contract(settings(tmp_path, train="pkg/train.py")).files == ("pkg/__init__.py", "pkg/train.py")


def test_included_files_are_packed_and_followed(tmp_path: Path) -> None:
    write(tmp_path, {"train": "def train(data): ...", "plugins/one": "import shared", "shared": ""})
    (tmp_path / "words.txt").write_text("a")
    (tmp_path / ".interlock").mkdir()
    (tmp_path / ".interlock" / "words.txt").write_text("a")
    contract = read_contract(settings(tmp_path, include=("plugins/*.py", "**/*.txt")))
    assert contract.files == ("plugins/one.py", "shared.py", "train.py", "words.txt")


@pytest.mark.parametrize("pattern", ["nothing/*.txt", "../*.py", "/etc/*"])
def test_includes_that_match_nothing_are_refused(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, {"train": "def train(data): ..."})
    with pytest.raises(ContractError, match=r"model\.include has"):
        read_contract(settings(tmp_path, include=(pattern,)))


def test_code_digest_follows_every_byte_and_name(tmp_path: Path) -> None:
    write(tmp_path, {"train": "import other\ndef train(data): ...\ndef again(data): ...", "other": "x = 1"})
    first = read_contract(settings(tmp_path))
    assert first.code == read_contract(settings(tmp_path)).code == code_digest(tmp_path, first)
    assert read_contract(settings(tmp_path, train="train.py:again")).code != first.code
    (tmp_path / "other.py").write_text("x = 2")
    assert read_contract(settings(tmp_path)).code != first.code
    assert code_digest(tmp_path, first) != first.code


@given(st.text(min_size=1, max_size=300), st.lists(st.text(min_size=1, max_size=50), max_size=100))
def test_a_misfit_stays_readable(parameter: str, params: list[str]) -> None:
    assert len(str(misfit("train.py", f"train({parameter})", parameter, [*TRAINING_NAMES, *params]))) < 2_500
