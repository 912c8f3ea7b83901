import json

import yaml

from interlock.model.mlmodel import environment, installed, mlmodel
from interlock.records import Column, Output, Signature

SIGNATURE = Signature(
    inputs=(
        Column(name='it\'s: "odd" # ü', type="int", nullable=True),
        Column(name="n", type="int", nullable=False),
        Column(name="day", type="date", nullable=False),
        Column(name="image", type="bytes", nullable=False),
    ),
    output=Output(kind="label", type="str", classes=("a", "b")),
)


def test_mlmodel_is_yaml_with_a_signature():
    text = mlmodel(SIGNATURE, ["same"])
    model = yaml.safe_load(text)
    assert model["flavors"]["python_function"]["loader_module"] == "interlock_loader"
    inputs = json.loads(model["signature"]["inputs"])
    assert [(field["name"], field["type"]) for field in inputs] == [
        ('it\'s: "odd" # ü', "double"),
        ("n", "long"),
        ("day", "datetime"),
        ("image", "binary"),
    ]
    assert json.loads(model["signature"]["outputs"])[0]["type"] == "string"
    assert mlmodel(SIGNATURE, ["same"]) == text != mlmodel(SIGNATURE, ["other"])


def test_environment_files(tmp_path):
    for name in ("scikit_learn-1.9.0.dist-info", "Jinja2-3.1.6.dist-info", "interlock-0.1.dist-info"):
        (tmp_path / name).mkdir()
    lines = installed([str(tmp_path), str(tmp_path / "absent")])
    assert lines == ["jinja2==3.1.6", "scikit-learn==1.9.0"]
    files = environment(lines)
    assert files["requirements.txt"] == "jinja2==3.1.6\nscikit-learn==1.9.0\n"
    conda = yaml.safe_load(files["conda.yaml"])
    assert conda["dependencies"][-1] == {"pip": lines}
    assert yaml.safe_load(files["python_env.yaml"])["dependencies"] == ["-r requirements.txt"]


def test_what_is_installed_here_is_found():
    names = {line.partition("==")[0] for line in installed()}
    assert {"polars", "msgspec", "scikit-learn"} <= names
