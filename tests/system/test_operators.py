"""What an operator asks a daemon: ``who``, ``kick``, ``health``, ``drain``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd import AccessDenied, DaemonError, cli
from arrayd.cli import drain
from arrayd.cli.status import with_mappers
from arrayd.errors import ProtocolMismatch
from arrayd.results.uses import Uses
from tests.support.daemons import Daemon
from tests.support.people import ANN, BOB, People, npy

pytestmark = pytest.mark.one_daemon

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Call:
    """Give ``call(command, *words)``: run it on the daemon; its exit code, output, complaints."""

    def run(command: str, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([command, "--endpoint", daemon.endpoint, *words])
        return (code, *capsys.readouterr())

    return run


def test_who(daemon: Daemon, tmp_path: Path, call: Call) -> None:
    """Each process that holds a block of the file has a line; others' files are left out."""
    path, other = tmp_path / "a.npy", tmp_path / "b.npy"
    for one in (path, other):
        np.save(one, np.arange(5))
    nobody = "not in memory, and nobody waits for it\n"
    assert call("who", str(path)) == (0, nobody, "")
    assert call("who", "name:absent") == (0, nobody, "")
    absent = f"{tmp_path}/absent.h5"
    assert call("who", f"{absent}:x") == (0, nobody, f"(there is no file {absent})\n")
    with arrayd.connect(daemon.endpoint) as client:
        kept = [client.get(path), client.get(other)]
        code, said, _ = call("who", str(path))
        head, line = said.splitlines()
        assert (code, head.split()) == (
            0,
            ["BLOCK", "STATE", "PID", "USER", "COMMAND", "SINCE", "SOURCE"],
        )
        assert line.split()[1:3] == ["held", str(os.getpid())]
        assert line.endswith(f" {path}")
        answer = json.loads(call("who", "--json", str(path))[1])
        assert answer["blocks"][0]["holders"][0]["pid"] == os.getpid()
        found = client.who(path)
        assert all(len(line) <= 60 for line in found.lines(60))
        assert found.lines(60)[1].endswith("a.npy")
        del kept


def test_who_writes(daemon: Daemon, call: Call) -> None:
    """A block that is being written is found by the name that it will have."""
    with arrayd.connect(daemon.endpoint) as client, client.create(3, "f4", "soon"):
        _, said, _ = call("who", "name:soon")
        assert said.splitlines()[1].split()[1:3] == ["writing", str(os.getpid())]


def test_kick(daemon: Daemon, tmp_path: Path, call: Call) -> None:
    """Holds end and stay ended when the client comes back; arrays stay readable; it is recorded."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(5))
    with arrayd.connect(daemon.endpoint) as client:
        array = client.get(path)
        code, said, _ = call("kick", str(os.getpid()))
        assert code == 0
        assert said.startswith(f"{os.getpid()} ")
        assert said.endswith(": 1 session and 1 hold ended\n")
        assert client.info(path).dtype == array.dtype  # by which it comes back
        status = client.status()
        (block,) = status.blocks
        assert len(status.sessions) == 1
        assert (block.holders, block.state) == ((), "stray")
        told = json.loads(call("status", "--json")[1])["blocks"]
        assert told[0]["mapped_by"] == [os.getpid()]
        row = call("who", str(path))[1].splitlines()[1].split()
        assert row[1:5] == ["stray", str(os.getpid()), "-", "-"]
        words = drain._busy(with_mappers(client.status()))
        assert words.endswith(f" in use: mapped by {os.getpid()}")
        assert array.tolist() == [0, 1, 2, 3, 4]
        del array
    assert f"kicked uid={os.geteuid()} pid={os.getpid()}: process {os.getpid()}" in daemon.log
    code, said, complaint = call("kick", "999999999")
    assert (code, said) == (1, "")
    assert "No process 999999999 uses this daemon" in complaint


def test_numbers_of_nothing(call: Call) -> None:
    """What is no pid is a usage error; a block that is not there is named."""
    for pid in ("0", "-7", "x"):
        code, _, complaint = call("kick", "--", pid)
        assert (code, complaint.count("\n")) == (2, 1)
        assert f"{pid!r} is no process id" in complaint
    assert call("evict", "--block", "77")[2].startswith("arrayd: No block 77 is in memory: ")
    assert call("evict", "/none.npy")[2] == "arrayd: No block of /none.npy is in memory.\n"


def test_evict_several(daemon: Daemon, tmp_path: Path, call: Call) -> None:
    """Small files that lie in one block are freed with the first; what is in use is named."""
    paths = [str(tmp_path / f"{number}.npy") for number in range(9)]
    for path in paths:
        np.save(path, np.zeros(5))
    call("get", *paths)
    code, out, complaint = call("evict", *paths)
    assert (code, complaint) == (0, "")
    assert re.fullmatch(r"evicted 1 block of 9 arrays, \d+\.0 KiB\n", out)
    assert call("evict", *paths[:2]) == (
        1,
        "",
        "".join(f"arrayd: No block of {path} is in memory.\n" for path in paths[:2]),
    )
    call("get", paths[0])
    with arrayd.connect(daemon.endpoint) as client:
        held = client.get(paths[1])
        code, out, complaint = call("evict", paths[1], paths[0])
        del held
    assert code == 1
    assert re.fullmatch(r"evicted 1 block, \d+\.0 KiB\n", out)
    assert complaint.count("\n") == 1
    assert paths[1] in complaint


def test_what_is_freed_is_recorded(daemon: Daemon, tmp_path: Path, call: Call) -> None:
    """One line of who freed which file; none where it was in use, or not there."""
    path = tmp_path / "freed.npy"
    np.save(path, np.arange(5))
    with arrayd.connect(daemon.endpoint) as client:
        array = client.get(path)
        assert call("evict", str(path))[0] == 1
        del array
    assert call("evict", str(path))[0] == 0
    assert call("evict", str(path))[0] == 1
    lines = [line for line in daemon.log.splitlines() if "evicted uid=" in line]
    (line,) = (line for line in lines if str(path) in line)
    assert f"evicted uid={os.geteuid()} pid=" in line


def test_a_load_that_fails_is_recorded(daemon: Daemon, tmp_path: Path, call: Call) -> None:
    """The log has which file, and what the error says; to ask what a file holds is no load."""
    path = tmp_path / "damaged.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00nothing")
    assert call("info", str(path))[0] == 1
    assert f"load of {path}" not in daemon.log
    assert call("get", str(path))[0] == 1
    (line,) = (one for one in daemon.log.splitlines() if f"load of {path} failed" in one)
    assert re.search(r"failed: \w+: .* is no readable \.npy", line)
    failed = json.loads(call("status", "--json")[1])["failures"][0]
    assert (failed["source"], failed["error"]) == (str(path), "BadFile")
    assert "is no readable .npy" in failed["message"]
    assert [one["pid"] for one in failed["askers"]] == [os.getpid()]
    assert call("status")[1].splitlines()[-1].startswith("failed  0 s ago, ")


def test_kick_of_others(people: People, daemon: Daemon) -> None:
    """A user ends its own processes' sessions; another's are refused, and root ends any."""
    own = people.daemon()
    path = people.file("a.npy", npy([1, 2]), ANN, 0o644)
    ann, bob = people(own, ANN), people(own, BOB)
    ann(f"c = arrayd.connect(); a = c.get({path!r})")
    pid = ann("os.getpid()")
    with pytest.raises(AccessDenied, match=f"User {BOB} may not drain"):
        bob("arrayd.connect().drain()")
    with pytest.raises(AccessDenied, match=f"User {BOB} may not drain"):
        bob("arrayd.connect().drain()")
    with pytest.raises(AccessDenied, match=f"User {BOB} may not end"):
        bob(f"arrayd.connect().kick({pid})")
    answers = []
    for other in (int(pid), 999999999, 1):  # whether it uses the daemon he does not learn
        with pytest.raises(AccessDenied) as caught:
            bob(f"arrayd.connect().kick({other})")
        answers.append(str(caught.value).replace(str(other), "N"))
    assert len(set(answers)) == 1
    assert f"refused uid={BOB}" in own.log
    assert bob(f"len(arrayd.connect().who({path!r}).blocks)") == 0
    with arrayd.connect(own.endpoint) as client:
        assert client.who(path).blocks[0].holders[0].uid == ANN
        assert client.kick(int(pid))["holds"] == 1
    assert ann("a.tolist()") == [1, 2]
    ann(f"c.info({path!r}); b = arrayd.connect(); b.get({path!r})")
    assert ann(f"b.kick({pid})['sessions']") == 1


def test_health(daemon: Daemon, call: Call, tmp_path: Path) -> None:
    """One line, and 0 where all is well, else 1: whatever is wrong, and without waiting."""
    code, said, complaint = call("health")
    assert (code, complaint) == (0, "")
    assert said.startswith(f"healthy: pid {daemon.pid}, ")
    assert said.count("\n") == 1
    assert json.loads(call("health", "--json")[1])["healthy"] is True
    code, said, complaint = call("health", "--endpoint", f"{tmp_path}/none")
    assert (code, complaint, said.count("\n")) == (1, "", 1)
    assert said.startswith("unhealthy: ")


def test_an_older_daemon(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows none of this, and says so in one line."""

    def refuse(*_: object, **__: object) -> None:
        raise ProtocolMismatch("This daemon (pid 1) knows no request 'who': it is older.")

    monkeypatch.setattr(arrayd.Client, "who", refuse)
    monkeypatch.setattr(arrayd.Client, "health", refuse)
    code, said, complaint = call("who", "/a")
    assert (code, said, complaint.count("\n")) == (1, "", 1)
    code, said, complaint = call("health")
    assert (code, complaint) == (1, "")
    assert said.startswith("unhealthy: This daemon (pid 1) knows no request")


def test_nobody() -> None:
    """A table of nothing is a sentence."""
    assert str(Uses((), ())) == "not in memory, and nobody waits for it"


def test_drain(
    start_daemon: Callable[..., Daemon], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is resident is granted, nothing new is begun; with the last hold the daemon stops."""
    daemon = start_daemon("--budget", "64M")
    path, new = tmp_path / "a.npy", tmp_path / "b.npy"
    for one in (path, new):
        np.save(one, np.arange(5))
    holder, other = arrayd.connect(daemon.endpoint), arrayd.connect(daemon.endpoint)
    kept = [holder.get(path)]

    def check(_: float) -> None:  # instead of the pause between two looks
        assert holder.status().draining
        assert "leases on  draining" in str(holder.status())
        assert other.get(path).tolist() == kept[0].tolist()
        for attempt in (
            lambda: other.get(new),
            lambda: other.put([1]),
            lambda: other.prefetch(new),
            lambda: other.get("name:x", timeout=60),
        ):
            with pytest.raises(DaemonError, match="is being drained"):
                attempt()
        assert other.info(new).shape == (5,)
        kept.clear()
        holder.close()
        other.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arrayd.cli.drain.sleep", check)
        assert cli.main(["drain", "--endpoint", daemon.endpoint]) == 0
    said, complaint = capsys.readouterr()
    assert said == f"arrayd at {daemon.endpoint}, pid {daemon.pid}: stopped\n"
    assert complaint.startswith("arrayd: draining, waits for ")
    assert f"in use: {os.getpid()} " in complaint
    assert daemon.end(0) == 0


def test_a_drain_is_taken_back(daemon: Daemon, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, and by whatever else ends the session that has asked for it."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with arrayd.connect(daemon.endpoint) as client:
        array = client.put([1, 2])
        with monkeypatch.context() as patch:
            patch.setattr("arrayd.cli.drain.sleep", interrupt)
            code, said, complaint = call("drain")
        assert (code, said) == (130, "")
        assert complaint.endswith(f"arrayd: taken back: pid {daemon.pid} serves as before\n")
        assert not client.status().draining
        assert client.put([3]).tolist() == [3]
        assert client.drain() == daemon.pid
        assert client.status().draining
        assert client.drain(on=False) == daemon.pid
        assert not client.status().draining
        del array
