import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from interlock.errors import ContractError, SettingsError, UserCodeFailed
from interlock.model import mount
from interlock.model.channels import write_channels
from interlock.model.entry import Entry
from interlock.model.fit import Task
from interlock.model.runner import Runner
from interlock.model.train import training_digest
from interlock.settings import Script
from model.workbench import ROWS, Workbench, rows

LOOK = """
from __future__ import print_function
import argparse, csv, json, os, sys

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--depth', type=int, default=1)
    parser.add_argument('--model-dir', type=str, default=os.environ['SM_MODEL_DIR'])
    parser.add_argument('--train', type=str, default=os.environ['SM_CHANNEL_TRAIN'])
    args, unknown = parser.parse_known_args()
    folders = {name: os.environ.get('SM_CHANNEL_' + name) for name in ('TRAIN', 'TEST', 'VALIDATION')}
    seen = {
        'args': vars(args), 'unknown': unknown, 'name': __name__, 'file': __file__, 'cwd': os.getcwd(),
        'argv': sys.argv[1:], 'environ': {k: v for k, v in os.environ.items() if k.startswith(('SM_', 'AIP_'))},
        'files': {name: {f: open(os.path.join(path, f), newline='').read() for f in os.listdir(path)}
                  for name, path in folders.items() if path},
        'outside': sorted(os.listdir('/opt')),
    }
    with open(os.path.join(args.model_dir, 'seen.json'), 'w') as file:
        json.dump(seen, file)
    sys.exit(0)


def model_fn(model_dir):
    return None
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    with Runner(folder, ["pandas"], folder) as runner:
        yield runner


def seen(tmp_path: Path, runner: Runner, source: str = LOOK, **given: Any) -> dict[str, Any]:
    result = Workbench(tmp_path, {"train.py": source}, **given).train(runner)
    assert result.training.rows == ROWS
    return json.loads((Path(result.folder) / "seen.json").read_text())


def failure(tmp_path: Path, runner: Runner, body: str, head: str = "import os, sys", **given: Any) -> UserCodeFailed:
    bench = Workbench(tmp_path, {"train.py": f"{head}\nif __name__ == '__main__':\n    {body}\n"}, **given)
    with pytest.raises(UserCodeFailed) as caught:
        bench.train(runner)
    assert [event.kind for event in bench.parts.ledger.events()] == ["training.failed"]
    return caught.value


# ---- what it finds -----------------------------------------------------------------------------------------------


def test_it_runs_as_a_program_in_sagemakers_surroundings(tmp_path: Path, runner: Runner) -> None:
    found = seen(tmp_path, runner, params={"depth": 7, "flag": True, "names": ["a"]})
    assert found["name"] == "__main__"
    assert Path(found["file"]) == Path(found["cwd"], "train.py")
    assert found["args"]["depth"] == 7
    assert found["argv"] == ["--depth", "7", "--flag", "True", "--names", "['a']"]
    assert found["unknown"] == ["--flag", "True", "--names", "['a']"]
    environ = found["environ"]
    assert found["args"]["model_dir"] == environ["SM_MODEL_DIR"] == environ["AIP_MODEL_DIR"]
    assert json.loads(environ["SM_HPS"])["flag"] is True
    assert json.loads(environ["SM_CHANNELS"]) == ["train"]
    assert environ["AIP_TRAINING_DATA_URI"] == environ["SM_CHANNEL_TRAIN"] + "/train.csv"
    assert found["cwd"] == environ["SM_MODULE_DIR"]
    assert "interlock" not in found["argv"]


def test_rows_have_no_header_and_the_target_first(tmp_path: Path, runner: Runner) -> None:
    text = seen(tmp_path, runner)["files"]["TRAIN"]["train.csv"]
    lines = text.splitlines()
    assert len(lines) == ROWS
    first = rows(ROWS).select("y", "a", "b").row(0)
    assert [float(cell) for cell in lines[0].split(",")] == list(first)


def test_other_channels_are_cut_out_of_the_training_rows(tmp_path: Path, runner: Runner) -> None:
    script = Script(channels=("train", "validation", "test"), header=True, target_first=False, files={"test": "t.txt"})
    files = seen(tmp_path, runner, script=script)["files"]
    assert [list(files[name]) for name in ("TRAIN", "VALIDATION", "TEST")] == [
        ["train.csv"],
        ["validation.csv"],
        ["t.txt"],
    ]
    frames = [pl.read_csv(next(iter(files[name].values())).encode()) for name in ("TRAIN", "VALIDATION", "TEST")]
    assert [frame.columns for frame in frames] == [["a", "b", "y"]] * 3
    assert [frame.height for frame in frames] == [160, 20, 20]
    together = pl.concat(frames).sort("a", "b")
    assert together.equals(rows(ROWS).select("a", "b", "y").sort("a", "b"))


def test_libsvm_and_npy_channels(tmp_path: Path, runner: Runner) -> None:
    source = """
import os, shutil
if __name__ == "__main__":
    shutil.copytree(os.environ["SM_CHANNEL_TRAIN"], os.environ["SM_MODEL_DIR"] + "/rows")
"""
    wanted = rows(ROWS)
    for place, kind in (("one", "libsvm"), ("two", "npy"), ("three", "parquet")):
        (tmp_path / place).mkdir()
        bench = Workbench(tmp_path / place, {"train.py": source}, script=Script(format=kind))
        folder = Path(bench.train(runner).folder) / "rows"
        if kind == "libsvm":
            line = (folder / "train.libsvm").read_text().splitlines()[0].split()
            a, b, y = wanted.select("a", "b", "y").row(0)
            assert [float(line[0]), line[1], line[2]] == [y, f"0:{a:.17g}", f"1:{b:.17g}"]
        elif kind == "npy":
            assert np.load(folder / "x_train.npy").tolist() == wanted.select("a", "b").to_numpy().tolist()
            assert np.load(folder / "y_train.npy").tolist() == wanted["y"].to_list()
        else:
            assert pl.read_parquet(folder / "train.parquet").equals(wanted.select("y", "a", "b"))
    (tmp_path / "four").mkdir()
    bench = Workbench(tmp_path / "four", {"train.py": source}, target="kind", script=Script(format="libsvm"))
    with pytest.raises(ContractError, match="'kind' is String; libsvm files hold numbers only"):
        bench.train(runner)


def test_a_source_for_reference_is_a_channel_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "documents.parquet").parent.mkdir(exist_ok=True)
    pl.DataFrame({"id": [1, 2], "text": ["a", "b"]}).write_parquet(tmp_path / "documents.parquet")
    rows(ROWS).write_parquet(tmp_path / "rows.parquet")
    task = Task(
        code="", entry=Entry(path="t.py", function="__main__", module="t", search="."),
        rows=str(tmp_path / "rows.parquet"),
        features=("a", "b"), target="y", order="", params={}, seed=0, model_dir="", data_dir="", needs_predict=False,
        references={"documents": str(tmp_path / "documents.parquet")},
    )  # fmt: skip
    folders = write_channels(task, ["train", "documents"], tmp_path / "data", header=False)
    assert (folders["documents"] / "documents.csv").read_text() == "id,text\n1,a\n2,b\n"
    assert len((folders["train"] / "train.csv").read_text().splitlines()) == ROWS


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_bytes_do_not_go_into_csv(tmp_path: Path, format: str) -> None:
    pl.DataFrame({"image": [b"\xff"], "y": ["a"]}).write_parquet(tmp_path / "training.parquet")
    task = Task(
        code="", entry=Entry(path="t.py", function="__main__", module="t", search="."),
        rows=str(tmp_path / "training.parquet"), features=("image",), target="y",
        order="", params={}, seed=0, model_dir="", data_dir="", needs_predict=False, script=Script(format=format),
    )  # fmt: skip
    if format == "csv":
        with pytest.raises(ContractError, match="'image' holds bytes"):
            write_channels(task, ["train"], tmp_path / "data", header=True)
        return
    folders = write_channels(task, ["train"], tmp_path / "data", header=True)
    assert pl.read_parquet(folders["train"] / "train.parquet")["image"].to_list() == [b"\xff"]


def test_a_program_for_vertex_gets_names_and_three_files(tmp_path: Path, runner: Runner) -> None:
    source = """
import json, os
if __name__ == "__main__":
    found = {name: open(os.environ[f"AIP_{name}_DATA_URI"]).read() for name in ("TRAINING", "VALIDATION", "TEST")}
    with open(os.path.join(os.environ["AIP_MODEL_DIR"], "seen.json"), "w") as file:
        json.dump({"files": found, "format": os.environ["AIP_DATA_FORMAT"]}, file)
# reads AIP_TRAINING_DATA_URI
"""
    found = seen(tmp_path, runner, source)
    assert found["format"] == "csv"
    heights = [pl.read_csv(text.encode()).select("a", "b", "y").height for text in found["files"].values()]
    assert heights == [160, 20, 20]


def test_imports_and_files_of_the_project_are_found_from_a_folder(tmp_path: Path, runner: Runner) -> None:
    files = {
        "code/fit.py": "import os, near, shared.deep\nif __name__ == '__main__':\n"
        "    open(os.environ['SM_MODEL_DIR'] + '/m', 'w').write(near.X + shared.deep.X + open('words.txt').read())\n",
        "code/near.py": "X = 'near '",
        "shared/__init__.py": "",
        "shared/deep.py": "X = 'deep '",
        "code/words.txt": "word",
    }
    bench = Workbench(tmp_path, files, train="code/fit.py", include=("code/words.txt",))
    assert (Path(bench.train(runner).folder) / "m").read_text() == "near deep word"


def test_what_it_changes_in_its_own_folder_is_not_packed(tmp_path: Path, runner: Runner) -> None:
    source = "import os\nif __name__ == '__main__':\n    open('train.py', 'a').write('#')\n"
    source += "    open(os.environ['SM_MODEL_DIR'] + '/m', 'w').write('x')\n"
    result = Workbench(tmp_path, {"train.py": source}).train(runner)
    assert (Path(result.code) / "train.py").read_text() == source


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux'")
def test_opt_ml_is_there_for_the_program_alone(tmp_path: Path, runner: Runner) -> None:
    before = sorted(path.name for path in Path("/opt").iterdir())
    probe = tmp_path / "probe"
    for name in ("code", "output/intermediate"):
        (probe / name).mkdir(parents=True)
    command = [sys.executable, "-I", mount.__file__, str(probe), "/opt/ml/code", sys.executable, "-c", "0"]
    if subprocess.run(command, check=False, capture_output=True).returncode == mount.REFUSED:
        pytest.skip("this system gives no mount namespaces to this user")
    (tmp_path / "project").mkdir()
    found = seen(tmp_path / "project", runner, script=Script(layout="opt-ml"))
    assert found["args"]["model_dir"] == "/opt/ml/model"
    assert found["cwd"] == "/opt/ml/code"
    assert found["environ"]["SM_CHANNEL_TRAIN"] == "/opt/ml/input/data/train"
    assert found["files"]["TRAIN"]
    assert set(found["outside"]) == {*before, "ml"}
    assert sorted(path.name for path in Path("/opt").iterdir()) == before


def test_a_mount_that_is_refused_is_told(tmp_path: Path, runner: Runner) -> None:
    error = failure(tmp_path, runner, f"sys.exit({mount.REFUSED})", script=Script(layout="opt-ml"))
    assert "nothing can be mounted at /opt/ml here" in error.message
    assert "script.layout = 'local'" in error.next_step


# ---- what it prints ----------------------------------------------------------------------------------------------


def test_metrics_are_read_from_what_it_prints(tmp_path: Path, runner: Runner) -> None:
    source = """
import os, sys
if __name__ == "__main__":
    for step in range(3):
        print("[%d] validation-rmse:%.2f train-rmse:%.1f" % (step, 3 - step, 9 - step), file=sys.stderr)
    sys.stdout.write("loss=nan loss=abc\\rloss=0.5")
    open(os.path.join(os.environ["SM_MODEL_DIR"], "m"), "w").write("x")
"""
    definitions = {"validation:rmse": r"validation-rmse:([0-9.]+)", "loss": r"loss=(\w+\.?\d*)", "never": "(x+)y"}
    bench = Workbench(tmp_path, {"train.py": source}, script=Script(metric_definitions=definitions))
    training = bench.train(runner).training
    assert training.metrics == {"validation:rmse": 1.0, "loss": 0.5}
    assert "validation-rmse:2.00" in training.output_tail
    assert training.peak_memory_bytes > 5_000_000


@pytest.mark.parametrize(("expression", "said"), [("(", "no regular expression"), ("x", "has no group")])
def test_a_metric_that_cannot_be_matched_is_refused(tmp_path: Path, runner: Runner, expression: str, said: str) -> None:
    bench = Workbench(tmp_path, {"train.py": LOOK}, script=Script(metric_definitions={"m": expression}))
    with pytest.raises(SettingsError, match=said):
        bench.train(runner)


def test_the_digest_of_a_training_follows_the_settings_of_a_program_only(tmp_path: Path) -> None:
    def digest(source: str, script: Script) -> str:
        bench = Workbench(tmp_path, {"train.py": source}, script=script)
        return training_digest(bench.settings, bench.contract(), bench.snapshot)

    assert digest(LOOK, Script()) != digest(LOOK, Script(header=True))
    function = "def train(data): ..."
    assert digest(function, Script()) == digest(function, Script(header=True))


# ---- how it ends -------------------------------------------------------------------------------------------------


def test_an_exception_is_told_with_its_own_traceback(tmp_path: Path, runner: Runner) -> None:
    error = failure(tmp_path, runner, "print('so far'); dict()['absent']")
    assert error.message == "train.py ended with exit status 1: KeyError: 'absent'"
    assert error.traceback.startswith('Traceback (most recent call last):\n  File "train.py", line 3')
    assert error.facts["cause"] == "exited"
    assert "so far" in str(error.facts["output_tail"])


def test_an_argument_that_it_does_not_know_is_told(tmp_path: Path, runner: Runner) -> None:
    body = "import argparse; argparse.ArgumentParser().parse_args()"
    error = failure(tmp_path, runner, body, params={"depth": 3})
    assert "exit status 2: train.py: error: unrecognized arguments: --depth 3" in error.message


def test_the_reason_in_output_failure_is_told(tmp_path: Path, runner: Runner) -> None:
    body = "open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('the\\nreason ' + 'x' * 10_000); sys.exit(255)"
    error = failure(tmp_path, runner, body)
    assert error.message.startswith("train.py ended with exit status 255: the reason xxx")
    assert len(error.message) < 600


def test_a_signal_is_named(tmp_path: Path, runner: Runner) -> None:
    error = failure(tmp_path, runner, "os.kill(os.getpid(), 9)")
    assert error.message.startswith("train.py was ended by SIGKILL")
    assert error.facts["cause"] == "killed"


def test_a_crash_shows_where(tmp_path: Path, runner: Runner) -> None:
    error = failure(tmp_path, runner, "ctypes.string_at(0)", head=f"import {ctypes.__name__}")
    assert "SIGSEGV" in error.message
    assert 'File "' in str(error.facts["output_tail"])


def test_saving_nothing_is_told(tmp_path: Path, runner: Runner) -> None:
    error = failure(tmp_path, runner, "os.mkdir(os.environ['SM_MODEL_DIR'] + '/empty')")
    assert "saved nothing into the folder SM_MODEL_DIR" in error.message


def test_a_deadline_ends_it_and_shows_where_it_was(tmp_path: Path, runner: Runner) -> None:
    head = "import os, time\ndef slowly(pid):\n    open(pid, 'w').write(str(os.getpid()))\n    time.sleep(600)"
    pid = tmp_path / "pid"
    error = failure(tmp_path, runner, f"slowly({str(pid)!r})", head=head, deadline="2s")
    assert "was stopped after its deadline of 2 s" in error.message
    assert "in slowly" in str(error.facts["output_tail"])
    _gone(int(pid.read_text()))


def test_a_process_that_it_leaves_behind_does_not_hold_the_turn(tmp_path: Path, runner: Runner) -> None:
    pid = tmp_path / "pid"
    source = f"""
import os, subprocess, sys
if __name__ == "__main__":
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({str(pid)!r}, "w").write(str(left.pid))
    open(os.environ["SM_MODEL_DIR"] + "/m", "w").write("x")
"""
    Workbench(tmp_path, {"train.py": source}).train(runner)
    _gone(int(pid.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux'")
def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    source = f"import os, time\nif __name__ == '__main__':\n    open({str(pid)!r}, 'w').write('%d %d' % "
    source += "(os.getpid(), os.getppid()))\n    time.sleep(600)\n"
    bench = Workbench(tmp_path, {"train.py": source})
    with Runner(tmp_path, [], tmp_path / "scratch") as own:
        bench.turn = type(bench.turn)(id="t", fence=bench.turn.fence, say=lambda _: None)

        def lost() -> None:
            with pytest.raises(UserCodeFailed):
                bench.train(own)

        thread = threading.Thread(target=lost)
        thread.start()
        limit = time.monotonic() + 60
        while not (pid.exists() and len(pid.read_text().split()) == 2) and time.monotonic() < limit:
            thread.join(0.05)
        program, worker = map(int, pid.read_text().split())
        os.kill(worker, signal.SIGKILL)
        _gone(program)
        thread.join(30)


def _gone(pid: int) -> None:
    """The process ends soon (a zombie has ended)."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            if ") Z" in Path(f"/proc/{pid}/stat").read_text():
                return
        except OSError:
            return
        os.sched_yield()
    pytest.fail(f"process {pid} is still there")


def test_the_seed_reaches_it(tmp_path: Path, runner: Runner) -> None:
    source = (
        "import json, os, sys\n\nif __name__ == '__main__':\n"
        "    told = {name: os.environ[name] for name in ('INTERLOCK_SEED', 'PYTHONHASHSEED')}\n"
        "    told['order'] = list({'a', 'b', 'c', 'd', 'e'})\n"
        "    json.dump(told, open(os.path.join(os.environ['SM_MODEL_DIR'], 'seen.json'), 'w'))\n\n\n"
        "def model_fn(model_dir):\n    return None\n"
    )
    first, again = (seen(tmp_path / name, runner, source, seed=4711) for name in ("first", "again"))
    assert (first["INTERLOCK_SEED"], first["PYTHONHASHSEED"]) == ("4711", "4711")
    assert first["order"] == again["order"], "sets of text come in one order"
