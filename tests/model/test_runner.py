import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from interlock.errors import ContractError, UserCodeFailed
from interlock.model.runner import Runner

CODE = """
import ctypes, os, random, signal, subprocess, sys, threading, time
import numpy

def echo(a): return a.get("x")

def place(a):
    print("hello")
    print("error", file=sys.stderr)
    return [os.getcwd(), sys.path[0], sys.argv, sys.stdin.read(), os.environ["MPLBACKEND"], hash("a")]

def draw(a): return [random.random(), float(numpy.random.random())]

def fails(a):
    print("before")
    try:
        deep(a)
    except KeyError as error:
        raise ValueError("no such column: " + "x" * 100_000) from error

def deep(a): return a["never there"]

def mutters(a): raise ValueError("half a pair: \\ud800")

def recursive(a): return recursive(a)

def flood(a):
    for i in range(1_000_000):
        print("line", i)
    return i

def unended(a):
    sys.stdout.write("x" * 3_000_000)
    return 1

def leaves(a): sys.exit("enough")

def vanishes(a):
    print("last words")
    os._exit(0)

def crashes(a): ctypes.string_at(0)

def killed(a): os.kill(os.getpid(), signal.SIGKILL)

def loops(a):
    print("round and round")
    while True:
        pass

def sleeps_deaf(a):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)

def forks_and_hangs(a):
    open(a["note"], "w").write(str(os.fork() or "") if False else "")
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    open(a["note"], "w").write(str(pid))
    if a["wait"]:
        time.sleep(600)
    os._exit(0)

def comes_back_twice(a): return lambda b: (os.fork(), b["n"])[1]

def starts_a_program(a):
    process = subprocess.Popen(["sleep", "600"])
    return process.pid

def nonsense(a): return {1, 2}

def not_a_number(a): return float("nan")

def scribbles(a):
    for descriptor in range(3, 30):
        try:
            os.write(descriptor, b"\\xff" * 64)
        except OSError:
            pass
    time.sleep(600)

def closes_everything(a):
    os.closerange(3, 1000)
    time.sleep(600)

def own_error(a):
    from interlock.errors import ContractError
    raise ContractError("does not fit", next_step="Mend it.")

def counts(a):
    state = {"n": a.get("start", 0)}
    def count(b):
        if b.get("fail"):
            raise RuntimeError("not this one")
        if b.get("die"):
            os._exit(3)
        print("call", state["n"])
        state["n"] += 1
        return state["n"]
    return count

def progress(a):
    for step in range(3):
        sys.stdout.write(f"\\rstep {step}")
        sys.stdout.flush()
        print(f"\\rdone {step}")
        time.sleep(0.3)

def memory(a):
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])

def threads(a): return threading.active_count()
"""
LABEL = "train in train.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "code").mkdir()
    (root / "code" / "probe.py").write_text(CODE)
    (root / "code" / "broken.py").write_text("def f(:\n")
    (root / "probe.py").write_text("raise RuntimeError('the file in the project, not its frozen copy')")
    return root


@pytest.fixture(scope="module", params=["fork", "spawn"])
def runner(request: pytest.FixtureRequest, project: Path) -> Iterator[Runner]:
    with Runner(project, [], project / "scratch", fork=request.param == "fork") as runner:
        runner.start()
        yield runner


@pytest.fixture(scope="module")
def forking(project: Path) -> Iterator[Runner]:
    with Runner(project, [], project / "scratch", fork=True) as runner:
        yield runner


def arguments(project: Path, **more: object) -> dict[str, object]:
    return {"folders": [str(project / "code")], "seed": 7, "label": LABEL, **more}


def failure(runner: Runner, project: Path, function: str, *, deadline_s: float = 30, **more: object) -> UserCodeFailed:
    with pytest.raises(UserCodeFailed) as caught:
        runner.call(f"probe:{function}", arguments(project, **more), deadline_s=deadline_s)
    assert runner.call("probe:echo", arguments(project, x=1), deadline_s=30).value == 1, "usable after a failure"
    return caught.value


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Wait, without polling, until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


# ---- both ways of starting a child -------------------------------------------------------------------------------


def test_user_code_works_in_the_project_and_is_imported_from_the_copy(runner: Runner, project: Path) -> None:
    outcome = runner.call("probe:place", arguments(project), deadline_s=30)
    assert outcome.value[:5] == [str(project), str(project / "code"), ["interlock"], "", "Agg"]
    assert outcome.output_tail == "hello\nerror\n"
    assert 0 < outcome.seconds < 30
    assert outcome.peak_memory_bytes > 5_000_000
    assert not (project / "code" / "__pycache__").exists()


def test_hashes_and_randomness_repeat_and_follow_the_seed(runner: Runner, project: Path) -> None:
    def draw(seed: int | None) -> object:
        return runner.call("probe:draw", arguments(project, seed=seed), deadline_s=30).value

    assert draw(1) == draw(1) != draw(2)
    first, second = draw(None), draw(None)
    assert first[0] != second[0]
    assert first[1] != second[1]
    hashes = [runner.call("probe:place", arguments(project), deadline_s=30).value[5] for _ in range(2)]
    assert hashes[0] == hashes[1]


def test_an_exception_is_told_with_the_users_frames_only(runner: Runner, project: Path) -> None:
    error = failure(runner, project, "fails")
    assert error.facts["cause"] == "raised"
    assert error.message.startswith(f"{LABEL} raised ValueError: no such column: xxx")
    assert error.message.endswith("(probe.py, line 19).")
    assert len(str(error)) < 1_000
    assert 'File "probe.py", line 17, in fails' in error.traceback
    assert "KeyError: 'never there'" in error.traceback
    assert "worker.py" not in error.traceback
    assert len(error.traceback) < 9_000
    assert error.facts["output_tail"] == "before\n"


def test_sys_exit_is_told(runner: Runner, project: Path) -> None:
    error = failure(runner, project, "leaves")
    assert error.facts["cause"] == "exited"
    assert "sys.exit('enough')" in error.message


def test_os_exit_is_told_even_with_status_zero(runner: Runner, project: Path) -> None:
    error = failure(runner, project, "vanishes")
    assert (error.facts["cause"], error.facts["status"]) == ("exited", 0)
    assert error.facts["output_tail"] == "last words\n"


def test_a_segfault_is_told_with_the_place(runner: Runner, project: Path) -> None:
    error = failure(runner, project, "crashes")
    assert (error.facts["cause"], error.facts["signal"]) == ("killed", "SIGSEGV")
    assert "probe.py" in error.facts["output_tail"]
    assert "worker.py" not in error.facts["output_tail"]


def test_an_endless_loop_ends_at_the_deadline_and_says_where_it_was(runner: Runner, project: Path) -> None:
    started = time.monotonic()
    error = failure(runner, project, "loops", deadline_s=1)
    assert error.facts["cause"] == "deadline"
    assert time.monotonic() - started < 5
    assert "round and round" in error.facts["output_tail"]
    assert "probe.py" in error.facts["output_tail"]
    assert "in loops" in error.facts["output_tail"]


def test_grandchildren_end_with_the_session(runner: Runner, project: Path, tmp_path: Path) -> None:
    for wait in (False, True):
        note = tmp_path / f"pid-{wait}"
        error = failure(runner, project, "forks_and_hangs", deadline_s=2, note=str(note), wait=wait)
        assert error.facts["cause"] == ("deadline" if wait else "exited")
        assert gone(int(note.read_text()))
    assert gone(runner.call("probe:starts_a_program", arguments(project), deadline_s=30).value)


def test_a_session_answers_until_it_is_closed(runner: Runner, project: Path) -> None:
    with runner.session("probe:counts", arguments(project, start=4), deadline_s=30) as session:
        assert [session.call({}, deadline_s=30).value for _ in range(3)] == [5, 6, 7]
        assert session.call({}, deadline_s=30).output_tail == "call 7\n"
        with pytest.raises(UserCodeFailed, match="not this one"):
            session.call({"fail": True}, deadline_s=30)
        assert session.call({}, deadline_s=30).value == 9
    with pytest.raises(UserCodeFailed, match="was closed earlier"):
        session.call({}, deadline_s=30)


# ---- one way is enough -------------------------------------------------------------------------------------------


def test_a_million_lines_are_survived(forking: Runner, project: Path) -> None:
    before = psutil.Process().memory_info().rss
    outcome = forking.call("probe:flood", arguments(project), deadline_s=60)
    assert outcome.value == 999_999
    assert outcome.seconds < 30
    assert outcome.output_tail.endswith("line 999999\n")
    assert len(outcome.output_tail) <= 4_000
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_a_line_without_end_is_survived(forking: Runner, project: Path) -> None:
    assert forking.call("probe:unended", arguments(project), deadline_s=60).value == 1


def test_the_last_line_is_said_in_the_callers_thread(forking: Runner, project: Path) -> None:
    said: list[str] = []
    forking.call("probe:progress", arguments(project), deadline_s=30, say=said.append)
    assert said
    assert set(said) <= {"done 0", "done 1", "done 2", "step 0", "step 1", "step 2"}


def test_a_dead_session_stays_dead(forking: Runner, project: Path) -> None:
    session = forking.session("probe:counts", arguments(project), deadline_s=30)
    with pytest.raises(UserCodeFailed) as caught:
        session.call({"die": True}, deadline_s=30)
    assert caught.value.facts["status"] == 3
    with pytest.raises(UserCodeFailed, match="exit status 3"):
        session.call({}, deadline_s=30)
    session.close()


def test_a_late_session_is_dead(forking: Runner, project: Path) -> None:
    with forking.session("probe:counts", arguments(project), deadline_s=30) as session:
        with pytest.raises(UserCodeFailed) as caught:
            session.call({}, deadline_s=0)
        assert caught.value.facts["cause"] == "deadline"
        with pytest.raises(UserCodeFailed, match="ran into its deadline earlier"):
            session.call({}, deadline_s=30)


def test_sessions_do_not_share_state(forking: Runner, project: Path) -> None:
    with (
        forking.session("probe:counts", arguments(project), deadline_s=30) as one,
        forking.session("probe:counts", arguments(project), deadline_s=30) as two,
    ):
        assert one.call({}, deadline_s=30).value == one.call({}, deadline_s=30).value - 1
        assert two.call({}, deadline_s=30).value == 1


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(forking: Runner, project: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forking.call("probe:progress", arguments(project), deadline_s=30, say=interrupt)
    assert forking.call("probe:echo", arguments(project, x="own"), deadline_s=30).value == "own"


@pytest.mark.parametrize(
    ("function", "cause", "said"),
    [
        ("mutters", "raised", "half a pair: ?"),
        ("recursive", "raised", "RecursionError"),
        ("killed", "killed", "memory runs out"),
        ("nonsense", "nonsense", "not plain data"),
        ("not_a_number", "nonsense", "not plain data"),
        ("scribbles", "nonsense", "cannot be read"),
        ("closes_everything", "killed", "closed its result channel"),
        ("sleeps_deaf", "deadline", "after its deadline of 1 s"),
        ("absent", "raised", "has no attribute 'absent'"),
    ],
)
def test_whatever_it_does_is_told(forking: Runner, project: Path, function: str, cause: str, said: str) -> None:
    error = failure(forking, project, function, deadline_s=1 if cause == "deadline" else 30)
    assert error.facts["cause"] == cause
    assert said in error.message
    assert error.next_step
    assert error.facts["label"] == LABEL


def test_code_that_comes_back_twice_answers_once(forking: Runner, project: Path) -> None:
    with forking.session("probe:comes_back_twice", arguments(project), deadline_s=30) as session:
        assert [session.call({"n": n}, deadline_s=30).value for n in range(8)] == list(range(8))


def test_a_file_that_cannot_be_compiled_is_told(forking: Runner, project: Path) -> None:
    with pytest.raises(UserCodeFailed, match="raised SyntaxError: invalid syntax") as caught:
        forking.call("broken:f", arguments(project), deadline_s=30)
    assert "def f(:" in caught.value.traceback
    assert "importlib" not in caught.value.traceback
    assert 'File "broken.py", line 1' in caught.value.traceback


def test_our_own_errors_cross_the_border_as_they_are(forking: Runner, project: Path) -> None:
    with pytest.raises(ContractError, match="does not fit Mend it") as caught:
        forking.call("probe:own_error", arguments(project), deadline_s=30)
    assert "output_tail" in caught.value.facts


def test_peak_memory_is_that_of_the_child(forking: Runner, project: Path) -> None:
    small = forking.call("probe:echo", arguments(project), deadline_s=30).peak_memory_bytes
    large = forking.call("probe:memory", arguments(project), deadline_s=30).peak_memory_bytes
    assert 190_000_000 < large - small < 260_000_000


def test_nothing_is_left_open(forking: Runner, project: Path) -> None:
    forking.call("probe:echo", arguments(project), deadline_s=30)
    here = psutil.Process()
    before = here.num_fds(), here.num_threads()
    for _ in range(5):
        forking.call("probe:echo", arguments(project), deadline_s=30)
        with pytest.raises(UserCodeFailed):
            forking.call("probe:vanishes", arguments(project), deadline_s=30)
    assert (here.num_fds(), here.num_threads()) == before


# ---- the host ----------------------------------------------------------------------------------------------------


def preloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> Runner:
    library = tmp_path / "library"
    library.mkdir()
    (library / "slow_library.py").write_text(source)
    monkeypatch.syspath_prepend(str(library))
    return Runner(tmp_path, ["slow_library"], tmp_path)


PROBE = "import sys\ndef loaded(a): return 'slow_library' in sys.modules\n"


def probe(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "code").mkdir(exist_ok=True)
    (tmp_path / "code" / "probe.py").write_text(PROBE)
    return arguments(tmp_path)


def test_libraries_are_loaded_once_and_noise_or_failure_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with preloading(tmp_path, monkeypatch, "print('noise')") as runner:
        outcome = runner.call("probe:loaded", probe(tmp_path), deadline_s=30)
    assert (outcome.value, outcome.output_tail) == (True, "")


def test_a_library_that_fails_to_load_is_left_to_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with preloading(tmp_path, monkeypatch, "raise SystemExit(3)") as runner:
        assert runner.call("probe:loaded", probe(tmp_path), deadline_s=30).value is False


def test_a_library_that_crashes_the_host_is_told_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with preloading(tmp_path, monkeypatch, "import ctypes\nctypes.string_at(0)") as runner:
        for _ in range(2):
            outcome = runner.call("probe:loaded", probe(tmp_path), deadline_s=30, say=said.append)
            assert outcome.value is False
    assert len(said) == 1
    assert "SIGSEGV while importing slow_library" in said[0]


def test_a_library_that_starts_threads_is_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    with preloading(tmp_path, monkeypatch, source) as runner:
        assert runner.call("probe:loaded", probe(tmp_path), deadline_s=30).value is False


def test_a_library_that_never_loads_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with preloading(
        tmp_path, monkeypatch, f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)"
    ) as runner:
        runner.start()
        begun.read_text()
        monkeypatch.setattr("interlock.model.runner.STARTUP_ALLOWANCE_S", 0.5)
        with pytest.raises(UserCodeFailed, match="still importing slow_library"):
            runner.call("probe:loaded", probe(tmp_path), deadline_s=0.5)
        monkeypatch.setattr("interlock.model.runner.STARTUP_ALLOWANCE_S", 60.0)
        assert runner.call("probe:loaded", probe(tmp_path), deadline_s=30).value is False


def test_start_returns_at_once_and_close_does_not_wait_for_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with preloading(tmp_path, monkeypatch, "import time\ntime.sleep(600)") as runner:
        started = time.monotonic()
        runner.start()
        runner.close()
        assert time.monotonic() - started < 2


def test_a_lost_host_fails_its_sessions_and_is_replaced(project: Path) -> None:
    with Runner(project, [], project / "scratch") as runner:
        session = runner.session("probe:counts", arguments(project), deadline_s=30)
        host = psutil.Process(runner._host._process.pid)
        (child,) = host.children()
        os.kill(host.pid, signal.SIGKILL)
        assert gone(child.pid)
        with pytest.raises(UserCodeFailed, match="was lost"):
            session.call({}, deadline_s=30)
        session.close()
        said: list[str] = []
        assert runner.call("probe:echo", arguments(project, x=2), deadline_s=30, say=said.append).value == 2
        assert "ended by SIGKILL" in said[0]


@pytest.mark.parametrize("loading", [False, True])
def test_nothing_outlives_a_killed_parent(tmp_path: Path, loading: bool) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "slow_library.py").write_text("import time, sys\ntime.sleep(600)" if loading else "")
    (code / "probe.py").write_text(
        "import os, subprocess, time\ndef hang(a):\n"
        "    program = subprocess.Popen(['sleep', '600'])\n"
        "    print('pids', os.getppid(), os.getpid(), program.pid)\n    time.sleep(600)\n"
    )
    source = f"""
import sys
from pathlib import Path
sys.path.append({str(code)!r})
from interlock.model.runner import Runner
runner = Runner(Path({str(tmp_path)!r}), ["slow_library"], Path())
runner.start()
if {loading}:
    while runner._host.importing != "slow_library":
        runner._host.ready.wait(0.01)
    print("pids", runner._host._process.pid, flush=True)
    sys.stdin.read()
runner.call("probe:hang", {{"folders": [{str(code)!r}]}}, deadline_s=600, say=lambda text: print(text, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()[1:]]
        assert len(pids) == (1 if loading else 3)
        parent.kill()
    assert all(gone(pid) for pid in pids)
