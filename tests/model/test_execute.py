"""Notebooks executed as trainings, in real kernels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from interlock.errors import ContractError, UserCodeFailed
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.model.train import Trained, notebook_key, train
from model.test_notebook import notebook
from model.test_train import Project

pytestmark = [pytest.mark.slow]
MODEL = """
class Scaled:
    def __init__(self, factor):
        self.factor = factor
    def predict(self, X):
        return [self.factor * value for value in X["a"]]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    root = tmp_path_factory.mktemp("shared")
    with Runner(root, ["pandas", "cloudpickle"], root / "scratch") as runner:
        yield runner


def run(project: Project, runner: Runner, *cells: tuple[str, str], text: str = "model.ipynb", **kwargs: Any) -> Trained:
    project.write("model.ipynb", notebook(*cells))
    settings = project.settings(train=text, **kwargs)
    return train(project.parts(settings), project.turn(), read_contract(settings), project.snapshot, runner)


def executed(project: Project, kind: str = "training.done") -> Any:
    """The notebook that the newest such event names."""
    facts = project.ledger.events(kinds=(kind,), newest_first=True, limit=1)[0].facts
    return nbformat.reads(project.blobs.get(notebook_key(facts["notebook"])).decode(), as_version=4)


def test_a_notebook_trains_and_its_classes_load_elsewhere(project: Project, runner: Runner) -> None:
    trained = run(
        project,
        runner,
        ("parameters", "factor = 1.0\nseed = 5\nmodel_dir = 'm'"),
        ("", "import random, numpy as np\n%matplotlib inline\n" + MODEL),
        ("", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);\nprint('drawn')"),
        (
            "",
            "first = (random.random(), np.random.rand(), seed, model_dir, [str(t) for t in X.dtypes], y.name, len(df))",
        ),
        (
            "",
            "model = Scaled(factor)\nmetrics = {'first': first[1], 'n': np.int64(3), 'no': 'a', 'bad': float('nan')}",
        ),
        ("", "%%bash\necho from the shell"),
        ("", "first"),
        params={"factor": 2.5},
        seed=11,
    )
    done = trained.training
    assert set(done.metrics) == {"first", "n"}
    assert (done.rows, done.status) == (100, "done")
    assert "drawn" in done.output_tail
    assert "from the shell" in done.output_tail
    assert done.peak_memory_bytes > 50_000_000, "the kernel's, not only that of the process that waits for it"
    saved = str(Path(trained.folder) / "model.pkl")
    code = f"import pickle\nwith open({saved!r}, 'rb') as file:\n    print(pickle.load(file).predict({{'a': [2]}}))"
    outside = runner.root / "load.py"
    outside.write_text(code)
    assert _python(outside) == "[5.0]"
    kept = executed(project)
    assert kept.cells[1].metadata.tags == ["injected-parameters"]
    assert "factor = 2.5" in kept.cells[1].source
    assert "image/png" in kept.cells[3].outputs[-1].data
    told = kept.cells[7].outputs[0].data["text/plain"]
    assert "['float64','float64'],'y',100)" in told.replace("\n", "").replace(" ", "")
    again = run(
        project,
        runner,
        ("", "import random, numpy as np\n" + MODEL + "\ndf\nmodel = Scaled(1)\nmetrics = {'first': np.random.rand()}"),
        seed=11,
    )
    assert again.training.metrics["first"] == done.metrics["first"], "seeded"


def _python(path: Path) -> str:
    import subprocess
    import sys

    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True).stdout.strip()


def test_train_path_keeps_the_kind_of_file_of_its_default(project: Project, runner: Runner) -> None:
    cells = (
        ("parameters", "train_path = 'data/rows.csv'\ndata_dir = 'data'"),
        ("", "import pandas as pd, glob\nrows = pd.read_csv(train_path)\nparts = pd.read_parquet(data_dir)"),
        (
            "",
            MODEL
            + "\nclassifier = Scaled(2.0)\nmetrics = {'rows': len(rows), 'same': float(rows['a'].equals(parts['a']))}",
        ),
    )
    trained = run(project, runner, *cells, text="model.ipynb:classifier")
    assert trained.training.metrics == {"rows": 100.0, "same": 1.0}


def test_what_is_saved_into_the_folder_is_the_model_when_no_variable_is(project: Project, runner: Runner) -> None:
    project.write("predict.py", "def predict(model, data):\n    return list(data['a'])\n")
    cells = (("parameters", "model_dir = 'out'"), ("", "df\nopen(model_dir + '/weights.txt', 'w').write('1 2')"))
    trained = run(project, runner, *cells, predict="predict.py")
    assert [path.name for path in Path(trained.folder).iterdir()] == ["weights.txt"]


@pytest.mark.parametrize(
    ("cell", "error", "said"),
    [
        ("1 / 0", UserCodeFailed, r"model\.ipynb, code cell 2 \(1 / 0\) raised ZeroDivisionError: division by zero\."),
        ("import os; os._exit(3)", UserCodeFailed, r"code cell 2 .* ended its kernel with exit status 3"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", UserCodeFailed, "lost its kernel to SIGSEGV"),
        ("result = 1", UserCodeFailed, "no variable 'model' holds a model"),
        ("model = 5", ContractError, r"model in model\.ipynb is builtins\.int, which has no \.predict"),
        ("input()", UserCodeFailed, "StdinNotImplementedError"),
        ("import sys; sys.exit(4)", UserCodeFailed, "SystemExit: 4"),
        ("get_ipython().run_line_magic('nonsense', '')", UserCodeFailed, "nonsense"),
    ],
)
def test_a_failing_cell_is_told_by_its_number(
    project: Project, runner: Runner, cell: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        run(project, runner, ("", "rows = df\nprint('reached')"), ("", cell), ("", "never = 1"))
    facts = project.ledger.events(kinds=("training.failed",))[0].facts
    assert "reached" in facts["output_tail"]
    assert "\x1b" not in facts["error"]
    kept = executed(project, "training.failed")
    assert [bool(item.get("execution_count")) for item in kept.cells[:2]] == [True, True]
    assert notebook_key(facts["notebook"]) in raised.value.next_step
    if cell == "1 / 0":
        assert raised.value.facts["cause"] == "raised"
        assert "ZeroDivisionError" in raised.value.traceback
        assert kept.cells[2].outputs[0].ename == "ZeroDivisionError"


def test_the_deadline_ends_the_kernel_and_what_it_started(project: Project, runner: Runner) -> None:
    pids = project.root / "pids"
    loop = (
        "import os, subprocess, time, json\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(json.dumps([os.getpid(), child.pid]))\nprint('looping', flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    with pytest.raises(UserCodeFailed, match=r"model\.ipynb was stopped after its deadline of 15 s") as raised:
        run(project, runner, ("", "rows = df"), ("", loop), deadline="15s")
    assert "[code cell 2 (import os" in raised.value.facts["output_tail"]
    assert "looping" in raised.value.facts["output_tail"]
    for pid in json.loads(pids.read_text()):
        _gone(pid)
    assert executed(project, "training.failed").cells[1].execution_count


def _gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        return


def test_a_flood_of_output_is_bounded(project: Project, runner: Runner) -> None:
    flood = MODEL + "\nfor _ in range(3000):\n    print('x' * 99)\nmodel = Scaled(1)"
    run(project, runner, ("", "df\n" + flood))
    text = "".join(output.text for output in executed(project).cells[1].outputs)
    assert len(text) < 110_000
    assert "the rest was not kept" in text


def test_nothing_listens_beyond_loopback(project: Project, runner: Runner) -> None:
    """The kernel's channels are sockets in a folder; ipykernel has one more, for its own subprocesses, on 127.0.0.1."""
    look = (
        "import psutil\ninet = psutil.Process().net_connections('inet')\n"
        "listening = [c.laddr.ip for c in inet if c.status == 'LISTEN']\n"
        "unix = [c.laddr for c in psutil.Process().net_connections('unix') if c.laddr.startswith('/')]\n"
        "metrics = {'outside': len(set(listening) - {'127.0.0.1'}), 'tcp': len(listening), 'unix': len(unix)}\n"
    )
    trained = run(project, runner, ("", MODEL + "\ndf\nmodel = Scaled(1)\n" + look))
    seen = trained.training.metrics
    assert seen["outside"] == 0
    assert seen["tcp"] <= 1
    assert seen["unix"] >= 5, "shell, iopub, stdin, control and heartbeat"
