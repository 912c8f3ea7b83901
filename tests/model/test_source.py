"""The files of a project that belong to the model, found without running them."""

from pathlib import Path

import pytest

from interlock.errors import ContractError
from interlock.model.source import Project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "train.py": "import numpy as np\nimport features\nfrom pack import deep\nif TYPE_CHECKING:\n    import torch\n",
        "features.py": "import json\nfrom pack.deep import thing\ndef f():\n    import scipy\n",
        "pack/__init__.py": "",
        "pack/deep.py": "from . import beside\nfrom .. import features\nimport sklearn.svm\n",
        "pack/beside.py": "",
        "lonely.py": "",
        "data/words.txt": "x",
        "data/.hidden": "x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_is_imported_is_followed(root: Path) -> None:
    project = Project(root)
    project.follow(["train.py"], ["."])
    assert sorted(project.sources) == ["features.py", "pack/__init__.py", "pack/beside.py", "pack/deep.py", "train.py"]
    assert project.third_party == {"numpy", "sklearn.svm"}, "not what is imported late, or for type checkers"


def test_a_package_is_imported_from_its_root(root: Path) -> None:
    project = Project(root)
    assert project.module_of("pack/deep.py") == ("pack.deep", ".")
    assert project.module_of("data/x.py") == ("x", "data")
    assert project.module_of("train.py") == ("train", ".")


def test_included_files(root: Path) -> None:
    assert Project(root).included(["data/*"]) == ["data/words.txt"], "hidden ones are not the model's"
    with pytest.raises(ContractError) as caught:
        Project(root).included(["weights/*"])
    assert caught.value.message == "model.include has 'weights/*', which matches no file of the project."
    with pytest.raises(ContractError, match="not inside the project"):
        Project(root).included(["../*"])


def test_a_file_outside_of_the_project_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away") / "secret.py"
    away.write_text("def train(X): ...")
    (root / "link.py").symlink_to(away)
    project = Project(root)
    for name, words in (
        ("../train.py", "is not inside the project"),
        ("/etc/passwd", "is not inside the project"),
        ("trian.py", "Did you mean 'train.py'?"),
        ("link.py", "is a link that leaves the project"),
    ):
        with pytest.raises(ContractError) as caught:
            project.locate(name, "train")
        assert words in caught.value.message
    with pytest.raises(ContractError, match="a link that leaves"):
        project.read("link.py")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"def train(:\n", "train.py, line 1: "),
        (b"\0", "train.py"),
        ("x = 'é'".encode("latin-1"), "train.py"),
    ],
)
def test_what_python_cannot_read_is_told_with_its_place(root: Path, content: bytes, words: str) -> None:
    (root / "train.py").write_bytes(content)
    with pytest.raises(ContractError) as caught:
        Project(root).tree("train.py")
    assert caught.value.message.startswith(words)
    assert caught.value.next_step
