from pathlib import Path

import pytest

from interlock.errors import ContractError
from interlock.model.contract import read_contract
from interlock.model.sagemaker import channels, is_for_vertex
from interlock.settings import Model, Script, Settings

GUARD = "\nif __name__ == '__main__':\n    pass\n"


def contract(root: Path, source: str, *, inference: str | None = None, script: Script | None = None, **model: str):
    (root / "train.py").write_text(source)
    if inference is not None:
        (root / "inference.py").write_text(inference)
        model = {"predict": "inference.py"} | model
    model = {"name": "m", "task": "regression", "target": "y"} | model
    return read_contract(Settings(model=Model(**model), script=script or Script(), root=root))


@pytest.mark.parametrize(
    "source",
    [
        "import os" + GUARD,
        "def train(args): ..." + GUARD,
        "def train(): ..." + GUARD,
        "def train(args, model, device, train_loader, optimizer, epoch): ..." + GUARD,
        "class train: ..." + GUARD,
        "if '__main__' == __name__:\n    def train(data): ...\n",
        "import x\nif (__name__=='__main__') and True: ...",
        "if __name__ == '__main__':\n    print(1)\ndef model_fn(d): ...",
    ],
)
def test_a_guard_without_a_function_that_takes_rows_makes_a_program(tmp_path: Path, source: str) -> None:
    found = contract(tmp_path, source)
    assert (found.train.kind, found.train.path, found.train.label) == ("script", "train.py", "train.py")
    assert found.predict is not None
    assert (found.predict.kind, found.predict.path) == ("hooks", "train.py")


@pytest.mark.parametrize(
    "source", ["def train(data): ..." + GUARD, "from lib import train" + GUARD, "def train(X): ..."]
)
def test_a_function_that_takes_rows_stays_one(tmp_path: Path, source: str) -> None:
    found = contract(tmp_path, source)
    assert (found.train.kind, found.train.label, found.predict) == ("function", "train in train.py", None)


def test_a_misspelt_parameter_is_told_even_with_a_guard(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="asks for 'rat'"):
        contract(tmp_path, "def train(data, rat): ..." + GUARD)


def test_without_a_guard_a_program_must_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="has no function 'train'"):
        contract(tmp_path, "print(1)")
    assert contract(tmp_path, "print(1)", script=Script(when="always")).train.kind == "script"
    with pytest.raises(ContractError, match="has no function 'main'"):
        contract(tmp_path, "print(1)" + GUARD, train="train.py:main")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def model_fn(d): ...\ndef predict_fn(x, m): ...", ("model_fn", "predict_fn")),
        ("from lib import model_fn", ("model_fn",)),
        ("def predict(model, data): ...\ndef input_fn(b, c): ...", ("input_fn",)),
        ("def transform_fn(m, b, c, a): ...", ("transform_fn",)),
    ],
)
def test_inference_functions_are_found_in_their_own_file(tmp_path: Path, source: str, found: tuple[str, ...]) -> None:
    entry = contract(tmp_path, "def train(data): ...", inference=source).predict
    assert entry is not None
    assert (entry.kind, entry.parameters, entry.module) == ("hooks", found, "inference")


def test_predict_by_name_wins_over_the_functions(tmp_path: Path) -> None:
    source = "def predict(model, data): ...\ndef model_fn(d): ..."
    entry = contract(tmp_path, "def train(data): ...", inference=source, predict="inference.py:predict").predict
    assert entry is not None
    assert entry.kind == "function"


def test_a_training_function_with_model_fn_beside_it_is_answered_by_it(tmp_path: Path) -> None:
    entry = contract(tmp_path, "def train(data, model_dir): ...\ndef model_fn(d): ...").predict
    assert entry is not None
    assert (entry.kind, entry.parameters) == ("hooks", ("model_fn",))
    assert contract(tmp_path, "def train(data): ...\ndef predict_fn(x, m): ...").predict is None


def test_transform_fn_excludes_the_others(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="SageMaker refuses that as well"):
        contract(tmp_path, "print()" + GUARD, inference="def transform_fn(): ...\ndef output_fn(): ...")


def test_containers_packages_are_not_imported_ahead(tmp_path: Path) -> None:
    source = "from sagemaker_training import environment\nimport sagemaker_containers.beta\nimport joblib" + GUARD
    assert contract(tmp_path, source).preload == ("joblib", "pandas")


def test_channels_are_those_that_the_sources_read() -> None:
    sources = [b"os.environ['SM_CHANNEL_TRAIN']", b"get('SM_CHANNEL_TEST') SM_CHANNELS SM_CHANNEL_TRAIN"]
    assert channels(sources) == ("test", "train")
    assert channels([b"nothing"]) == ()
    assert is_for_vertex([b"os.environ['AIP_TRAINING_DATA_URI']"])
    assert not is_for_vertex([b"AIP_TRAINING_DATA_URI", b"SM_CHANNEL_TRAIN"])
    assert not is_for_vertex([b"AIP_MODEL_DIR"])
