"""Finding the daemon, and starting a private one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import DaemonLost, NoDaemon
from arrayd.session import connection
from arrayd.system import daemon_probe, launch, private_daemon
from arrayd_server.segments.scope import Scope
from tests.support.daemons import PATIENCE
from tests.support.processes import wait_until


@pytest.fixture
def home(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the private daemon's directory-to-be; end the daemon that is there after the test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_directory))
    for name in [name for name in os.environ if name.startswith("ARRAYD_") and "GUARD" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(launch, "SYSTEM_ENDPOINT", f"ipc://{short_directory}/system")
    yield short_directory / "arrayd"
    end(f"ipc://{short_directory}/arrayd/sock")


def end(endpoint: str, number: int = signal.SIGTERM) -> None:
    """End the daemon at `endpoint`, if there is one, and wait until it has ended."""
    if daemon_probe.alive(endpoint):
        pid = pid_at(endpoint)
        os.kill(pid, number)
        assert daemon_probe.wait_ended(pid, PATIENCE)


def pid_at(endpoint: str) -> int:
    """Return who listens at `endpoint`, by the kernel's word."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(endpoint.removeprefix("ipc://"))
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return int(struct.unpack("iII", raw)[0])


@contextlib.contextmanager
def listening(path: Path) -> Iterator[str]:
    """Listen at `path` as a daemon would; its endpoint."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield f"ipc://{path}"


def executable(path: Path, script: str) -> str:
    """Write a program that stands in for Python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


# ---- finding ---------------------------------------------------------------------------------


def test_the_argument_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint given as an argument beats the environment, and starts nothing."""
    monkeypatch.setenv("ARRAYD_ENDPOINT", "ipc:///from/environment")
    assert launch.find_endpoint("ipc:///from/argument") == "ipc:///from/argument"
    assert launch.find_endpoint() == "ipc:///from/environment"
    assert not home.exists()


def test_a_path_is_an_endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare and relative paths are spelled as the daemon spells its endpoint."""
    monkeypatch.chdir(home.parent)
    assert launch.find_endpoint("/a//b/../sock") == "ipc:///a/sock"
    assert (
        launch.find_endpoint("sock")
        == launch.find_endpoint("ipc://sock")
        == f"ipc://{home.parent}/sock"
    )


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp://host:1", "Unix sockets only"),
        ("ipc://", "no socket"),
        ("/" + "x" * 107, "107"),
    ],
)
def test_what_is_no_endpoint(endpoint: str, words: str, home: Path) -> None:
    """Another transport, no path and a path too long for a socket are refused with the reason."""
    with pytest.raises(NoDaemon, match=words):
        launch.find_endpoint(endpoint)


def test_the_systems_daemon_comes_before_the_users(home: Path) -> None:
    """Where the machine has a daemon that admits us it is used, unless ``private`` is said."""
    with listening(home.parent / "system") as system:
        assert launch.find_endpoint(start=False) == system
        with pytest.raises(NoDaemon, match="No arrayd daemon runs"):
            launch.find_endpoint("private", start=False)


def test_the_environment_can_say_private(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ARRAYD_ENDPOINT=private`` skips the system's daemon."""
    monkeypatch.setenv("ARRAYD_ENDPOINT", "private")
    home.mkdir(mode=0o700)
    with listening(home.parent / "system"), listening(home / "sock") as private:
        assert launch.find_endpoint(start=False) == private


def test_a_dead_system_socket_is_passed_over(home: Path) -> None:
    """A socket that a dead daemon left in /run does not count."""
    with listening(home.parent / "system"):
        pass
    assert stat.S_ISSOCK((home.parent / "system").stat().st_mode)
    with pytest.raises(NoDaemon, match=str(home)):
        launch.find_endpoint(start=False)


def test_nothing_is_started_where_nothing_may_be(home: Path) -> None:
    """``start=False`` says how to get a daemon, at once, and leaves no trace."""
    with pytest.raises(NoDaemon, match="arrayd serve"):
        launch.find_endpoint(start=False)
    assert not home.exists()


def test_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the login gave no XDG_RUNTIME_DIR the private daemon lives in /tmp."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert launch.private_endpoint() == f"ipc:///tmp/arrayd-{os.getuid()}/sock"


# ---- starting --------------------------------------------------------------------------------


def test_a_daemon_is_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is detached: no child, its own session, in ``/``, umask 077, none of our descriptors."""
    monkeypatch.chdir(home.parent)
    inherited = os.open(home.parent, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        endpoint = launch.find_endpoint()
    finally:
        os.close(inherited)
    process = Path(f"/proc/{pid_at(endpoint)}")
    facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    links = set()
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: it is at work
            links.add(os.readlink(fd))
    assert endpoint == f"ipc://{home}/sock"
    assert int(facts["PPid"]) != os.getpid()
    assert facts["Umask"] == "0077"
    assert os.getsid(int(process.name)) != os.getsid(0)
    assert os.readlink(process / "cwd") == "/"
    assert os.readlink(process / "fd" / "0") == os.readlink(process / "fd" / "1") == "/dev/null"
    assert str(home.parent) not in links
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_daemon_that_runs_is_used(home: Path) -> None:
    """A second look starts none."""
    first = pid_at(launch.find_endpoint())
    assert pid_at(launch.find_endpoint()) == first
    assert pid_at(launch.find_endpoint(start=False)) == first


def test_what_the_daemon_inherits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options pass; what speaks to the starter's supervisor does not; paths are made absolute."""
    scrubbed = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
    for name in (*scrubbed, "JOURNAL_STREAM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ARRAYD_BUDGET", "3M")
    monkeypatch.setenv("ARRAYD_IDLE_EXIT", "77")
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("PYTHONPATH", f"here{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = Path(f"/proc/{pid_at(launch.find_endpoint('private'))}")
    lines = (process / "environ").read_bytes().decode().split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    command = (process / "cmdline").read_bytes().decode().split("\0")
    assert environment["ARRAYD_BUDGET"] == "3M"
    assert not {*scrubbed, "JOURNAL_STREAM", "ARRAYD_ENDPOINT"} & set(environment)
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == f"{home.parent}/here"
    assert command[command.index("--idle-exit") + 1] == "77"


def test_twenty_processes_start_one_daemon(home: Path) -> None:
    """Whoever comes while it is being started waits, and finds it."""
    script = "from arrayd.system import launch; print(launch.find_endpoint(timeout=60))"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(home.parent)}
    crowd = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(20)
    ]
    results = [(*process.communicate(), process.returncode) for process in crowd]
    endpoints = {(out.decode().strip(), code) for out, _, code in results}
    assert len(endpoints) == 1, results
    assert endpoints.pop()[1] == 0, results
    assert (home / "log").read_text().count("serves") == 1


def test_a_stale_socket_is_replaced(home: Path) -> None:
    """What a killed daemon left does not pass for a daemon."""
    home.mkdir(mode=0o700)
    with listening(home / "sock") as endpoint:
        assert daemon_probe.alive(endpoint)
    assert (home / "sock").is_socket()
    assert not daemon_probe.alive(endpoint)
    assert launch.find_endpoint() == endpoint
    assert daemon_probe.alive(endpoint)


def test_a_daemon_that_died_is_started_again(home: Path) -> None:
    """``ensure`` revives the private daemon after ``kill -9``, and nobody else's."""
    endpoint = launch.find_endpoint()
    first = pid_at(endpoint)
    end(endpoint, signal.SIGKILL)
    # A loader that it was starting has its socket until it becomes another program.
    wait_until(lambda: not daemon_probe.alive(endpoint), "nobody listens")
    launch.ensure("ipc:///somewhere/else")
    assert not daemon_probe.alive(endpoint)
    launch.ensure(endpoint)
    assert pid_at(endpoint) != first


def test_a_daemon_on_its_way_out_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not listen any more but still has the scope makes no error."""
    start, outcomes = private_daemon._start, []
    with contextlib.ExitStack() as outgoing:
        outgoing.enter_context(Scope(launch.private_endpoint()))

        def start_and_leave(directory: Path, endpoint: str, deadline: float) -> bool:
            outcomes.append(start(directory, endpoint, deadline))
            outgoing.close()
            return outcomes[-1]

        monkeypatch.setattr(private_daemon, "_start", start_and_leave)
        assert daemon_probe.alive(launch.find_endpoint(timeout=PATIENCE))
    assert outcomes == [False, True]


# ---- failing ---------------------------------------------------------------------------------


def test_a_daemon_that_stays_on_its_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for it ends in time, and says what is the matter."""
    monkeypatch.setattr(private_daemon, "_start", lambda *_: False)
    with pytest.raises(NoDaemon, match="is ending"):
        launch.find_endpoint(timeout=0.1)


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_directory_that_others_can_enter(kind: str, home: Path) -> None:
    """A directory that is not 0700, a link and a file are refused: nothing is started there."""
    if kind == "link":
        (home.parent / "real").mkdir(mode=0o700)
        home.symlink_to(home.parent / "real")
    elif kind == "file":
        home.touch(0o700)
    else:
        home.mkdir()
        home.chmod(0o755)
    with pytest.raises(NoDaemon, match="is not a directory of yours with mode 0700"):
        launch.find_endpoint()
    assert not home.is_dir() or not any(home.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory(home: Path) -> None:
    """What listens in a stranger's directory is never spoken to."""
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    with listening(home / "sock"):
        for start in (True, False):
            with pytest.raises(NoDaemon):
                launch.find_endpoint("private", start=start)


def test_no_place_for_the_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An XDG_RUNTIME_DIR that is not there is named, with the remedy."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "nowhere"))
    with pytest.raises(NoDaemon, match="XDG_RUNTIME_DIR"):
        launch.find_endpoint()


def test_a_bad_option_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own last words are in the error."""
    monkeypatch.setenv("ARRAYD_BUDGET", "plenty")
    with pytest.raises(NoDaemon, match="ARRAYD_BUDGET=plenty: not a size"):
        launch.find_endpoint()


def test_an_interpreter_without_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sys.executable cannot import the server the error says so; where it is empty too."""
    complaint = "echo 'No module named arrayd_server' >&2; exit 1"
    monkeypatch.setattr(sys, "executable", executable(home.parent / "python", complaint))
    with pytest.raises(NoDaemon, match="No module named arrayd_server"):
        launch.find_endpoint()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(NoDaemon, match=r"sys\.executable is empty"):
        launch.find_endpoint()


def test_a_daemon_that_does_not_come_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded; the error names the process that is there."""
    monkeypatch.setattr(sys, "executable", executable(home.parent / "python", "exec sleep 60"))
    began = time.monotonic()
    with pytest.raises(NoDaemon, match="does not listen") as caught:
        launch.find_endpoint(timeout=0.2)
    assert time.monotonic() - began < 5
    pid = caught.value.details["pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    os.kill(pid, signal.SIGKILL)
    assert daemon_probe.wait_ended(pid, PATIENCE)


def test_a_starter_that_hangs(home: Path) -> None:
    """Who waits for another's start gives up in time, and names the lock."""
    home.mkdir(mode=0o700)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NoDaemon, match=f"holds {home}/lock"):
            launch.find_endpoint(timeout=0.1)


def test_looking_for_a_daemon_loads_none() -> None:
    """``arrayd.system.launch`` does not import the server."""
    script = "import sys, arrayd.system.launch; sys.exit('arrayd_server' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_killed_private_daemon_is_started_again(home: Path, tmp_path: Path) -> None:
    """The next call of a client starts its successor, which adopts what the client holds."""
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", np.arange(1000))
    with arrayd.connect() as client:
        held = client.get(tmp_path / "x.npy")
        os.kill(pid_at(client.endpoint), signal.SIGKILL)
        other = client.get(tmp_path / "y.npy")  # at once: it may not even know of the death
        blocks = {block.segment for block in client.status().blocks}
        assert held.block is not None
        assert held.block.name in blocks
        assert client.status().counters["adopted"] == 1
        np.testing.assert_array_equal(held, other)
        del held, other


def test_a_dead_daemon_that_seems_to_listen_is_looked_for_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket may outlive it for a moment: a call that waits has another look at it."""
    np.save(tmp_path / "x.npy", np.arange(1000))
    alive, looks = daemon_probe.alive, [True]
    with arrayd.connect() as client:
        client.status()
        os.kill(pid_at(client.endpoint), signal.SIGKILL)
        monkeypatch.setattr(daemon_probe, "alive", lambda at: looks.pop() if looks else alive(at))
        assert client.get(tmp_path / "x.npy")[7] == 7
        assert not looks


def test_status_starts_no_daemon(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks about a daemon never starts one, also where the one it knew has died."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.5)
    with arrayd.connect() as client:
        os.kill(client.status().pid, signal.SIGKILL)
        with pytest.raises(DaemonLost):
            client.status()
        assert not daemon_probe.alive(client.endpoint)
        scope = Scope(client.endpoint)
        shutil.rmtree(scope.directory)
