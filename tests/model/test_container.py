import json
from pathlib import Path, PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from interlock.model.container import Container


def container(params: dict[str, object] | None = None, channels: tuple[str, ...] = ("train", "code")) -> Container:
    root = PurePosixPath("/opt/ml")
    return Container(root=root, program="src/fit.py", params=params or {}, channels=channels, job="job")


def test_arguments_are_spelt_as_sagemaker_spells_them() -> None:
    params = {"flag": True, "n": 3, "rate": 0.5, "none": None, "words": "a b", "list": [1, 2], "map": {"b": 1, "a": 2}}
    assert container(params).arguments == [
        "--flag", "True", "--list", "[1, 2]", "--map", "a=2,b=1", "-n", "3", "--none", "", "--rate", "0.5",
        "--words", "a b",
    ]  # fmt: skip


def test_variables_are_spelt_as_sagemaker_spells_them() -> None:
    found = container({"flag": True, "map": {"b": 1, "a": 2}, "word": "x", "none": None}).variables()
    assert found["SM_HPS"] == '{"flag":true,"map":{"a":2,"b":1},"none":null,"word":"x"}'
    assert (found["SM_HP_FLAG"], found["SM_HP_MAP"], found["SM_HP_WORD"]) == ("true", '{"a":2,"b":1}', "x")
    assert found["SM_HP_NONE"] == ""
    assert found["SM_CHANNELS"] == '["code","train"]'
    assert found["SM_CHANNEL_TRAIN"] == "/opt/ml/input/data/train"
    assert found["SM_CHANNEL_CODE"] == found["SM_MODULE_DIR"] == "/opt/ml/code"
    assert found["SM_MODEL_DIR"] == found["AIP_MODEL_DIR"] == "/opt/ml/model"
    assert found["SM_OUTPUT_DATA_DIR"] == "/opt/ml/output/data"
    assert found["SM_OUTPUT_DIR"] == "/opt/ml/output"
    assert found["SM_INPUT_DIR"] == "/opt/ml/input"
    assert json.loads(found["SM_HOSTS"]) == [found["SM_CURRENT_HOST"]] == ["algo-1"]
    assert found["SM_NUM_GPUS"] == "0"
    assert int(found["SM_NUM_CPUS"]) >= 1
    assert found["SM_MODULE_NAME"] == "src.fit"
    assert json.loads(found["SM_RESOURCE_CONFIG"])["current_host"] == "algo-1"
    assert json.loads(found["SM_TRAINING_ENV"])["hyperparameters"]["word"] == "x"
    assert json.loads(found["SM_TRAINING_ENV"])["channel_input_dirs"]["train"] == "/opt/ml/input/data/train"


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers() | st.floats(allow_nan=False) | st.booleans()))
def test_every_parameter_is_one_name_and_one_value(params: dict[str, object]) -> None:
    arguments = container(params).arguments
    assert len(arguments) == 2 * len(params)
    assert all(name.startswith("-") for name in arguments[::2])


def test_the_configuration_files_are_those_of_the_container(tmp_path: Path) -> None:
    container({"depth": 3, "word": "x", "list": [1]}).prepare(tmp_path)
    config = tmp_path / "input" / "config"
    told = {name.stem: json.loads(name.read_text()) for name in config.iterdir()}
    assert told["hyperparameters"] == {"depth": "3", "word": "x", "list": "[1]"}
    assert told["inputdataconfig"]["train"]["TrainingInputMode"] == "File"
    assert told["resourceconfig"]["hosts"] == ["algo-1"]
    assert (tmp_path / "output" / "data").is_dir()
