import os
import subprocess
import sys

from interlock.store import holder
from interlock.store.holder import Holder, surely_dead, this_process


def test_this_process_is_alive():
    me = this_process()
    assert me.pid == os.getpid()
    assert me.started
    assert not surely_dead(me)
    assert me.label.endswith(f":{os.getpid()}")


def test_a_process_that_ended_is_dead_also_before_it_is_reaped():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        other = Holder(this_process().host, process.pid, holder._started(process.pid) or "")
        assert not surely_dead(other)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and is still a zombie
        assert surely_dead(other)
        process.wait()
        assert surely_dead(other)


def test_an_id_that_was_used_again_is_another_process():
    me = this_process()
    assert surely_dead(me._replace(started="1"))


def test_of_another_host_nothing_is_known():
    me = this_process()
    assert not surely_dead(me._replace(host="other/pid:[1]/host", pid=2**22, started="1"))


def test_without_proc_only_the_id_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "_PROC", tmp_path)
    me = this_process()
    assert me.started == ""
    assert "/" not in me.host
    assert not surely_dead(me)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert surely_dead(me._replace(pid=process.pid))
