"""Training code that does what it should not: told in one sentence, and the champion and the rows stay as they were."""

from pathlib import Path

import psutil
import pytest

from bad_input.kit import MARKER, ROWS, accepted, check_ledger, recorded, run, unharmed
from interlock.model.confine import landlock_version
from interlock.model.memory import can_watch

HEAD = "import os, signal, subprocess, sys, threading, time\nimport numpy as np\n"
CONSTANT = "class Constant:\n    def predict(self, X):\n        return ['yes'] * len(X)\n"
AGAIN = "Mend it, and run again."
CONFINED = (
    "model.confined keeps your code from inboxes and from writing into the project: use the rows that are handed over, "
    "write into model_dir or a temporary folder, or take model.confined out."
)
TRAININGS: dict[str, tuple[str, list[str], str, str, int]] = {
    "returns nothing": (
        "def train(X, y):\n    pass\n",
        [],
        "train in train.py returned nothing, and saved nothing into model_dir.",
        "Return the model, or take a parameter model_dir and save into it.",
        3,
    ),
    "leaves": (
        "def train(X, y):\n    sys.exit(3)\n",
        [],
        "train in train.py called sys.exit(3).",
        "Return the result instead of leaving the process.",
        3,
    ),
    "leaves at once": (
        "def train(X, y):\n    os._exit(0)\n",
        [],
        "train in train.py ended its process with exit status 0 before it answered.",
        "Return the result instead of calling os._exit or exit.",
        3,
    ),
    "breaks the standard library": (
        (
            "def train(X, y):\n    import json\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    os.chdir('/')\n"
            "    [os.close(number) for number in range(3)]\n    json.dumps = None\n"
        ),
        [],
        "train in train.py changed its process so that its answer could not be sent (exit status 70).",
        "Leave modules of the standard library and file descriptors as they are.",
        3,
    ),
    "never ends": (
        "def train(X, y):\n    while True: pass\n",
        ["model.deadline=1s"],
        "train in train.py was stopped after its deadline of 1 s.",
        "Make it faster, or raise model.deadline (training) or model.predict_deadline (inference).",
        3,
    ),
    "returns three things": (
        "def train(X, y):\n    return 1, 2, 3\n",
        [],
        "train in train.py returned builtins.tuple, which has no .predict, and the project names no inference file.",
        "Give an object with .predict, or set model.predict in interlock.toml.",
        2,
    ),
    "returns what cannot be saved": (
        (
            "class Model:\n    def __init__(self): self.lock = threading.Lock()\n    def predict(self, X): return X\n"
            "def train(X, y):\n    return Model()\n"
        ),
        [],
        "The model that train in train.py returned (train.Model) cannot be saved: cannot pickle '_thread.lock' object.",
        "Keep open files, locks and connections out of it, or save it into model_dir yourself.",
        3,
    ),
    "changes its own copy": (
        f"{CONSTANT}def train(X, y):\n    open(__file__, 'a').write('# more')\n    return Constant()\n",
        [],
        "train in train.py changed its own files while it ran, so the model cannot be packed with them.",
        "Let it write into model_dir or a temporary folder only.",
        3,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_that_fails_is_told(project: Path, kind: str) -> None:
    code, overrides, message, next_step, exit_code = TRAININGS[kind]
    (project / "train.py").write_text(HEAD + code)
    seen = run(project, *overrides).result
    assert seen.sentence == f"The turn could not do 'train'. {message}"
    assert (seen.next_step, seen.exit_code, seen.outcome) == (next_step, exit_code, "failed")
    unharmed(project)


@pytest.mark.slow
def test_the_words_of_an_exception_are_told_and_not_recorded(project: Path) -> None:
    rows = (project / "inbox" / "a.csv").read_text().splitlines()
    (project / "inbox" / "b.csv").write_text(f"{rows[0]}\n400,0.5,0.5,{MARKER}\n")
    code = "def train(X, y):\n    raise ValueError(f'no use for {sorted(set(y))[0]}')\n"
    (project / "train.py").write_text(HEAD + code)
    seen = run(project, "data.holdout={fraction=0.01}")
    told = f"train in train.py raised ValueError: no use for {MARKER} (train.py, line 4)."
    assert seen.result.sentence == f"The turn could not do 'train'. {told}"
    assert seen.result.next_step == AGAIN
    held = recorded(project)
    assert f"no use for {MARKER}" not in held
    assert "train in train.py raised ValueError (train.py, line 4)." in held
    assert "in train\\\\n" in held or "in train\\n" in held, "the frames are kept"
    assert accepted(project) == list(range(ROWS + 1))
    check_ledger(project)


@pytest.mark.slow
@pytest.mark.skipif(not can_watch(), reason="the memory of a process is watched on Linux only")
def test_a_training_that_eats_memory_is_stopped_at_the_limit(project: Path) -> None:
    code = "def train(X, y):\n    kept = []\n    while True: kept.append(np.ones(5_000_000))\n"
    (project / "train.py").write_text(HEAD + code)
    seen = run(project, "model.memory=600MB").result
    start, _, end = seen.sentence.partition("it had taken ")
    assert start == "The turn could not do 'train'. train in train.py was stopped: "
    assert end.endswith(" GB of memory, and model.memory allows 0.60 GB.")
    assert 0.6 <= float(end.split()[0]) < 3
    assert seen.next_step == "Use fewer rows or a smaller model, or raise model.memory."
    assert seen.exit_code == 3
    unharmed(project)


@pytest.mark.slow
def test_without_a_limit_the_kill_of_the_system_is_explained(project: Path) -> None:
    (project / "train.py").write_text(f"{HEAD}def train(X, y):\n    os.kill(os.getpid(), 9)\n")
    seen = run(project).result
    start = (
        "The turn could not do 'train'. train in train.py was killed by SIGKILL, which is what the system does when "
        "memory runs out. It had taken "
    )
    assert seen.sentence.startswith(start)
    assert seen.next_step == (
        "Use fewer rows or a smaller model, or give the machine more memory; model.memory sets a limit."
    )
    unharmed(project)


@pytest.mark.slow
def test_what_a_training_leaves_running_is_ended_and_what_it_touched_is_told(project: Path) -> None:
    code = (
        f"{CONSTANT}def train(X, y):\n"
        "    left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        f"    open({str(project / 'left.pid')!r}, 'w').write(str(left.pid))\n"
        "    os.umask(0o777)\n"
        "    os.remove('train.py')\n    os.remove('inbox/a.csv')\n    open('interlock.toml', 'a').write('# more')\n"
        "    return Constant(), {'loss': float('nan')}\n"
    )
    (project / "train.py").write_text(HEAD + code)
    seen = run(project).result
    assert seen.outcome == "kept", seen.sentence
    assert seen.notes == (
        (
            "while train in train.py ran, files of the project changed: "
            "interlock.toml (changed), train.py (gone), inbox/a.csv (gone)"
        ),
    )
    assert not psutil.pid_exists(int((project / "left.pid").read_text()))
    assert "metric loss is nan and was not recorded" in recorded(project)
    unharmed(project)


@pytest.mark.slow
def test_a_training_that_prints_a_million_lines_is_heard_to_the_end_only(project: Path) -> None:
    code = (
        f"{CONSTANT}def train(X, y):\n    for number in range(1_000_000): print('line', number)\n"
        f"    print('{MARKER}'[:6], 'last'); return Constant()\n"
    )
    (project / "train.py").write_text(HEAD + code)
    seen = run(project)
    assert seen.result.outcome == "kept", seen.result.sentence
    held = recorded(project)
    assert "SECRET last" in held
    assert "line 999999" in held
    assert "line 5000\\n" not in held
    assert len(held) < 2_000_000
    unharmed(project)


@pytest.mark.slow
def test_a_training_that_forks_is_one_training(project: Path) -> None:
    """The copies come back through our own frames; each would answer, save and go on as if it were the training."""
    code = (
        f"{CONSTANT}def train(X, y):\n"
        "    children = [os.fork() for _ in range(3)]\n"
        f"    open({str(project / 'forked')!r}, 'a').write('x')\n"
        "    return Constant()\n"
    )
    (project / "train.py").write_text(HEAD + code)
    seen = run(project)
    assert seen.result.outcome == "kept", seen.result.sentence
    assert recorded(project).count("'training.done'") == 2, "the first one of this project, and this"
    assert 1 <= len((project / "forked").read_text()) <= 8
    unharmed(project)


@pytest.mark.slow
def test_a_training_that_writes_into_the_project_is_noted(project: Path) -> None:
    rows = str(project / "inbox" / "a.csv")
    code = f"{CONSTANT}def train(X, y):\n    open({rows!r}, 'a').write('x')\n    return Constant()\n"
    (project / "train.py").write_text(HEAD + code)
    seen = run(project)
    note = "while train in train.py ran, files of the project changed: inbox/a.csv (changed)"
    assert seen.result.notes == (note,)
    assert accepted(project) == list(range(ROWS)), "rows that were accepted are in the lake"


# ---- confined ----------------------------------------------------------------------------------------------------

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
REACHES = {
    "reads the inbox": "open('inbox/a.csv').read()",
    "reads it with Polars": "__import__('polars').read_csv('inbox/a.csv')",
    "reads the holdout": "open(sorted(__import__('pathlib').Path('.interlock').rglob('holdout*.parquet'))[0], 'rb')",
    "changes the state": "open('.interlock/state.db', 'r+b')",
    "deletes its own file": "os.remove('train.py')",
    "deletes rows": "os.remove('inbox/a.csv')",
    "writes into the project": "open('new.txt', 'w')",
    "goes by a link": "(os.symlink('../../inbox', '/tmp/x%d' % os.getpid()), open('inbox/../inbox/a.csv'))",
}


@pytest.mark.slow
@needs_landlock
@pytest.mark.parametrize("kind", REACHES)
def test_confined_code_reaches_nothing_that_it_was_not_given(project: Path, kind: str) -> None:
    (project / "train.py").write_text(f"{HEAD}def train(X, y):\n    {REACHES[kind]}\n")
    seen = run(project, "model.confined=true").result
    assert seen.sentence.startswith("The turn could not do 'train'. train in train.py raised PermissionError: ")
    assert seen.sentence.endswith(" (train.py, line 4).") or "line 4" in seen.sentence
    assert seen.next_step == CONFINED
    assert (project / "train.py").is_file()
    assert not (project / "new.txt").exists()
    unharmed(project)


@pytest.mark.slow
@needs_landlock
def test_confined_code_can_do_its_work(project: Path) -> None:
    old = (project / "train.py").read_text()
    new = old.replace(
        "def train(X, y):",
        "def train(X, y, model_dir, data_dir):\n    import os, tempfile\n"
        "    open(os.path.join(model_dir, 'note.txt'), 'w').write('kept')\n"
        "    with tempfile.TemporaryDirectory() as folder:\n        open(folder + '/x', 'w').write('x')\n"
        "    assert os.listdir(data_dir) and open('interlock.toml').read()",
    )
    assert new != old
    (project / "train.py").write_text(new)
    seen = run(project, "model.confined=true").result
    assert seen.outcome == "kept", seen.sentence
    assert "the same answers" in seen.sentence
    assert list((project / ".interlock" / "work").iterdir()) == []
    unharmed(project)
