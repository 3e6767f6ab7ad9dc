"""The leak guard finds each kind of leak, and only leaks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PREAMBLE = """
import os, subprocess, sys, tempfile, threading, time
from pathlib import Path
import pytest
import tests.support.leaks

tests.support.leaks.GRACE = {grace}
NAME = Path("{name}")
NAPPER = [sys.executable, "-c", "import time; time.sleep(30)"]
"""

LEAKS = """
def test_name():
    NAME.touch()

def test_child():
    subprocess.Popen(NAPPER).returncode = 0  # silences Popen's own warning

def test_orphan():
    script = f"import subprocess; subprocess.Popen({NAPPER!r}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", script], check=True)

def test_descriptor(tmp_path):
    os.open(tmp_path, os.O_RDONLY)

def test_thread():
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()

def test_clean(tmp_path):
    (tmp_path / "file").write_text("closed, and not ours in /dev/shm")
"""

LATE = """
def test_thread_that_ends_soon():
    threading.Thread(target=time.sleep, args=(0.2,)).start()

class Holder:
    def __init__(self, path):
        self.fd, self.me = os.open(path, os.O_RDONLY), self

    def __del__(self):
        os.close(self.fd)

def test_descriptor_in_a_cycle(tmp_path):
    Holder(tmp_path)

def test_orphan_that_ends_soon():
    script = "import subprocess; subprocess.Popen(['sleep', '0.2'])"
    subprocess.run([sys.executable, "-c", script], check=True)
"""

SHARED = """
import arrayd
from tests.support import shared_daemon

pytestmark = pytest.mark.one_daemon
shared_daemon.PATIENCE = 1.0
endpoints, sessions = set(), []

def test_session(daemon):
    endpoints.add(daemon.endpoint)
    sessions.append(arrayd.connect(daemon.endpoint))
    sessions[0].status()

def test_pinned(daemon):
    endpoints.add(daemon.endpoint)
    sessions.pop().close()
    with arrayd.connect(daemon.endpoint) as client:
        client.put(b"cached", keep=True)

def test_same(daemon):
    assert endpoints == {daemon.endpoint}
    with arrayd.connect(daemon.endpoint) as client:
        assert client.status().blocks == ()

def test_child(daemon):
    subprocess.Popen(NAPPER).returncode = 0

def test_stopped(daemon):
    daemon.stop()
"""


def guarded(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *text: str) -> str:
    """Run tests under the guard in another process; return what pytest printed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("\n".join(text))
    return pytester.runpytest_subprocess(
        *("-p", "tests.support.leaks", "-p", "tests.support.daemons"),
        *("-p", "tests.support.shared_daemon", "-p", "no:cacheprovider"),
    ).stdout.str()


def test_each_kind_of_leak_fails_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, a child, an orphan, a descriptor and a thread are each found and named."""
    name = Path(f"/dev/shm/arrayd-guard{os.getpid()}-planted-1")
    output = ""
    try:
        output = guarded(pytester, monkeypatch, PREAMBLE.format(grace=0.1, name=name), LEAKS)
    finally:
        name.unlink(missing_ok=True)
        for pid in {int(pid) for pid in re.findall(r"process (\d+): ", output)}:
            os.kill(pid, 9)
    assert "6 passed, 6 errors" in output  # five tests, and the session as a whole
    for kind, leak in {
        "test_name": str(name),
        "test_child": r"process \d+: .*sleep\(30\)",
        "test_orphan": r"process \d+: .*sleep\(30\)",
        "test_descriptor": r"descriptor \d+: .*test_descriptor0",
        "test_thread": r"thread <Thread\(",
    }.items():
        assert re.search(rf"ERROR at teardown of {kind} _+\nleft behind:\n  {leak}", output), kind


def test_what_ends_by_itself_is_no_leak(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread or child that ends within the grace fails nothing."""
    output = guarded(pytester, monkeypatch, PREAMBLE.format(grace=5, name=""), LATE)
    assert "3 passed in" in output


def test_another_daemons_names_are_no_leak(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a process outside the session has open is left to that process."""
    name = Path(f"/dev/shm/arrayd-guard{os.getpid()}-foreign-1")
    other = name.with_name(f"arrayd-guard{os.getpid()}-foreign-2")
    test = "def test_name():\n    NAME.touch()\n"
    try:
        with name.open("w"):
            output = guarded(pytester, monkeypatch, PREAMBLE.format(grace=0.1, name=other), test)
    finally:
        name.unlink()
        other.unlink()
    assert "1 passed in" in output


def test_a_modules_daemon_hides_no_leak(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test leaves in the daemon of its module, or beside it, fails that test."""
    output = guarded(pytester, monkeypatch, PREAMBLE.format(grace=0.1, name=""), SHARED)
    for pid in {int(pid) for pid in re.findall(r"process (\d+): .*sleep", output)}:
        os.kill(pid, 9)
    failed = set(re.findall(r"^ERROR \S+::(\w+)", output, re.MULTILINE))
    assert failed == {"test_session", "test_child", "test_stopped"}, output
    assert "a session of the test" in output
