"""``model.confined`` holds for whatever runs the user's code: notebooks, programs, trials of a search, inference."""

from pathlib import Path
from textwrap import indent

import pytest

from bad_input.kit import Seen, run, unharmed
from cli import notebooks
from interlock.model.confine import OPEN_UP, landlock_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock"),
]
REACHES = {
    "the inbox": "open('inbox/a.csv').read()",
    "the holdout": "open(sorted(__import__('pathlib').Path('.interlock').rglob('holdout*.parquet'))[0], 'rb')",
    "the state": "open('.interlock/state.db', 'r+b')",
    "the project": "open('new.txt', 'w')",
    "its rows": "__import__('os').remove('inbox/a.csv')",
    "the inbox by another program": "__import__('subprocess').run(['cat', 'inbox/a.csv'], check=True)",
}
TRY = f"""
reached = []
for name, code in {REACHES!r}.items():
    try:
        exec(code)
        reached.append(name)
    except (PermissionError, __import__('subprocess').CalledProcessError):
        pass
if reached:
    raise RuntimeError(f'reached {{reached}}')
raise PermissionError(13, 'permission denied, all of it')
"""
"""Tries everything; ends with PermissionError when nothing was reached, and with what was reached otherwise."""
MODEL = """
class Constant:
    def predict(self, X):
        return ['yes'] * len(X)
"""


def settings(project: Path, model: str, more: str = "") -> None:
    text = (project / "interlock.toml").read_text().replace("[data]", f"{model}\n\n[data]", 1)
    (project / "interlock.toml").write_text(text + more)


def confined(project: Path, *overrides: str) -> Seen:
    return run(project, "model.confined=true", *overrides)


def kept_out(project: Path, start: str) -> Seen:
    """A turn whose user code reaches nothing; it says so and what to do, and nothing was changed by it."""
    seen = confined(project)
    assert seen.result.sentence.startswith(f"The turn could not do {start}"), seen.result.sentence
    assert "PermissionError" in seen.result.sentence
    assert seen.result.next_step.startswith(OPEN_UP)
    assert seen.result.exit_code == 3
    assert (project / "inbox" / "a.csv").is_file()
    assert not (project / "new.txt").exists()
    unharmed(project)
    return seen


def works(project: Path) -> None:
    seen = confined(project)
    assert seen.result.outcome == "kept", seen.result.sentence
    unharmed(project)


def test_the_trial_of_this_page_can_fail(project: Path) -> None:
    (project / "train.py").write_text(f"def train(X, y):\n{indent(TRY, '    ')}")
    seen = run(project)
    told = "raised RuntimeError: reached ['the inbox', 'the holdout', 'the state', 'the project', 'its rows'] "
    assert told in seen.result.sentence, "without model.confined all of it is reached"
    assert not (project / "inbox" / "a.csv").exists()


# ---- notebooks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def from_notebook(project: Path) -> Path:
    pytest.importorskip("nbclient", reason="needs the extra 'notebook'")
    settings(project, 'train = "model.ipynb"')
    return project


def test_a_notebook_reaches_nothing_that_it_was_not_given(from_notebook: Path) -> None:
    (from_notebook / "model.ipynb").write_text(notebooks.notebook("df", TRY))
    seen = kept_out(from_notebook, "'train'. model.ipynb, code cell 2 (reached = []) raised PermissionError")
    assert " The notebook as far as it came: " in seen.result.next_step


def test_a_notebook_can_do_its_work(from_notebook: Path) -> None:
    cell = (
        "import tempfile, matplotlib.pyplot as plt\nplt.plot([1, 2])\n"
        "with tempfile.TemporaryDirectory() as folder:\n    open(folder + '/x', 'w').write('x')\n"
        "open(model_dir + '/note.txt', 'w').write('kept')"
    )
    cells = ("df\nmodel_dir", cell, f"{MODEL}\nmodel = Constant()")
    (from_notebook / "model.ipynb").write_text(notebooks.notebook(*cells))
    works(from_notebook)


# ---- programs ----------------------------------------------------------------------------------------------------


def program(project: Path, body: str) -> str:
    """A training program that runs ``body`` in the project's folder and saves a model, and that answers by it."""
    return f"""import os
if __name__ == '__main__':
    os.chdir({str(project)!r})
{indent(body, "    ")}
    with open(os.path.join(os.environ['SM_MODEL_DIR'], 'model.txt'), 'w') as file:
        file.write('yes')


def model_fn(model_dir):
    return open(os.path.join(model_dir, 'model.txt')).read()


def predict_fn(data, model):
    return [model] * len(data)
"""


def test_a_program_reaches_nothing_that_it_was_not_given(project: Path) -> None:
    (project / "train.py").write_text(program(project, TRY))
    kept_out(project, "'train'. train.py ended with exit status 1: PermissionError")


def test_a_program_can_do_its_work(project: Path) -> None:
    body = "import tempfile; tempfile.TemporaryFile().write(b'x'); open('interlock.toml').read()"
    (project / "train.py").write_text(program(project, body))
    works(project)


def test_a_program_in_a_mounted_folder_is_told_why_not(project: Path) -> None:
    (project / "train.py").write_text(program(project, "pass"))
    seen = confined(project, "script.layout=opt-ml")
    assert seen.result.sentence.startswith("The turn could not do 'train'. train.py was not started, because nothing")
    assert seen.result.next_step.startswith("Set script.layout = 'local'")
    unharmed(project)


# ---- trials ------------------------------------------------------------------------------------------------------

TUNE = "\n[params]\nside = 1.0\n[tune]\ntrials = 2\n[tune.space]\nside = { low = 0.0, high = 2.0 }\n"


def test_a_trial_reaches_nothing_that_it_was_not_given(project: Path) -> None:
    pytest.importorskip("optuna", reason="needs the extra 'tune'")
    settings(project, "", TUNE)
    (project / "train.py").write_text(f"def train(X, y, side):\n{indent(TRY, '    ')}")
    kept_out(project, "'tune'. All 2 trials of the search failed; the last one: trial ")


@pytest.mark.parametrize("kind", ["function", "program"])
def test_a_trial_can_do_its_work(project: Path, kind: str) -> None:
    pytest.importorskip("optuna", reason="needs the extra 'tune'")
    settings(project, "", TUNE.replace("[tune]", "[tune]\nfolds = 2"))
    writes = "    open(model_dir + '/x', 'w').write('x')\n    return Constant()\n"
    function = f"{MODEL}\n\ndef train(X, y, side, model_dir):\n{writes}"
    (project / "train.py").write_text(function if kind == "function" else program(project, "pass"))
    works(project)


# ---- inference ---------------------------------------------------------------------------------------------------


def test_inference_reaches_nothing_that_it_was_not_given(project: Path) -> None:
    (project / "predict.py").write_text(f"def predict(model, X):\n{indent(TRY, '    ')}")
    settings(project, 'predict = "predict.py"')
    kept_out(project, "'judge'. predict in predict raised PermissionError: ")
