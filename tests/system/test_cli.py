"""The command line: every command against a real daemon, every exit code."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arrayd
from arrayd import cli
from arrayd.cli import common
from arrayd.system import daemon_probe, launch
from tests.support.daemons import PATIENCE, Daemon

ARRAYD = (sys.executable, "-c", "import sys, arrayd.cli; sys.exit(arrayd.cli.main())")


@pytest.fixture
def served(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Give a daemon that the commands find."""
    monkeypatch.setenv("ARRAYD_ENDPOINT", daemon.endpoint)
    return daemon


@pytest.fixture
def alone(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an XDG_RUNTIME_DIR in which no daemon runs."""
    monkeypatch.delenv("ARRAYD_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_directory))
    monkeypatch.setattr(launch, "SYSTEM_ENDPOINT", f"ipc://{short_directory}/system")
    return short_directory


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Give ``call(*words)``: run a command here; its exit code, output and complaints."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(words)
        return (code, *capsys.readouterr())

    return run


Call = Callable[..., tuple[int, str, str]]


def saved(path: Path, array: Any) -> str:
    """Write an array to a file; its path."""
    np.save(path, array)
    return str(path)


def wait_until_idle(daemon: Daemon) -> None:
    """Wait until the daemon has taken note that nobody uses its blocks any more."""
    until = time.monotonic() + PATIENCE
    with arrayd.connect(daemon.endpoint) as client:
        while {block.state for block in client.status().blocks} != {"idle"}:
            assert time.monotonic() < until, client.status()


# ---- exit codes ------------------------------------------------------------------------------


def test_version(call: Call) -> None:
    """``arrayd --version`` is that of the package."""
    assert call("--version") == (0, f"arrayd {arrayd.__version__}\n", "")


def test_every_command_is_listed(call: Call) -> None:
    """``arrayd --help`` names every command, and each has help of its own."""
    code, out, _ = call("--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert f"\n    {name}" in out
        assert name == "serve" or call(name, "--help")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("get",),
        ("get", "x.npy", "--dtype", "nonsense"),
        ("get", "x.npy", "--rows", "5"),
        ("get", "x.npy", "--pin", "soon"),
        ("get", "x.npy", "-o", "pin=3"),
        ("evict",),
        ("evict", "x.npy", "--block", "3"),
        ("status", "--colour"),
    ],
)
def test_usage(words: tuple[str, ...], call: Call) -> None:
    """A wrong command line is exit code 2 and one line."""
    code, out, complaint = call(*words)
    assert (code, out) == (2, "")
    assert complaint.startswith("arrayd: ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("words", [("status",), ("evict", "x.npy"), ("stop",)])
def test_no_daemon(words: tuple[str, ...], alone: Path, call: Call) -> None:
    """What needs a daemon that runs starts none: exit code 3, and nothing is made."""
    code, out, complaint = call(*words)
    assert (code, out) == (3, "")
    assert complaint.startswith("arrayd: No arrayd daemon runs at")
    assert complaint.count("\n") == 1
    assert list(alone.iterdir()) == []


def test_no_room(
    start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Call
) -> None:
    """An array beyond the budget is exit code 4."""
    monkeypatch.setenv("ARRAYD_ENDPOINT", start_daemon("--budget", "1M").endpoint)
    code, out, complaint = call("get", saved(tmp_path / "big.npy", np.zeros(1 << 19)))
    assert (code, out) == (4, "")
    assert "1.0 MiB" in complaint
    assert complaint.count("\n") == 1


def test_ctrl_c(served: Daemon) -> None:
    """Ctrl-C ends the wait for a load: exit code 130, and not a word."""
    command = [*ARRAYD, "get", "name:never", "--timeout", "60"]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with arrayd.connect(served.endpoint) as client:
        until = time.monotonic() + PATIENCE
        while not client.status().jobs and time.monotonic() < until:
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=PATIENCE) == (b"", b"")
        assert waiting.returncode == 130
        assert client.status().jobs == ()


def test_a_reader_that_has_seen_enough(served: Daemon) -> None:
    """``arrayd status | head -0`` is quiet."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*ARRAYD, "status"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- get -------------------------------------------------------------------------------------


def test_get_describes(served: Daemon, tmp_path: Path, call: Call) -> None:
    """What was loaded is described: shape, dtype, bytes, block."""
    path = saved(tmp_path / "a.npy", np.zeros((1000, 3), "f4"))
    code, out, complaint = call("get", path)
    (segment,) = served.segments
    assert (code, complaint) == (0, "")
    assert out.startswith(
        f"{path}\n  array  (1000, 3) float32, order C, 11.7 KiB\n"
        f"  block  {segment}\n1 array, 11.7 KiB, in "
    )


def test_one_bad_source_spoils_no_other(served: Daemon, tmp_path: Path, call: Call) -> None:
    """Good sources are described though another is missing; the exit code tells."""
    path = saved(tmp_path / "a.npy", np.zeros(5))
    code, out, complaint = call("get", path, str(tmp_path / "none.npy"))
    assert code == 1
    assert "1 array, 40 B" in out
    assert complaint == f"arrayd: {tmp_path}/none.npy: no such file.\n"


def test_get_json(served: Daemon, tmp_path: Path, call: Call) -> None:
    """``--json`` has the same, and the errors, for programs."""
    path = saved(tmp_path / "a.npy", np.zeros(5, [("x", "i4"), ("y", "S3")]))
    code, out, _ = call("get", "--json", path, str(tmp_path / "none.npy"))
    good, bad = json.loads(out)["arrays"]
    assert code == 1
    assert good == {
        "source": path,
        "shape": [5],
        "dtype": [["x", "<i4"], ["y", "|S3"]],
        "order": "C",
        "bytes": 35,
        "block": served.segments[0],
        "offset": 0,
    }
    assert bad["error"]["code"] == "SourceNotFound"


def test_the_options_of_a_source(served: Daemon, tmp_path: Path, call: Call) -> None:
    """dtype, rows, cast, pin and format options reach the loader."""
    (tmp_path / "a.txt").write_text("# x\nchr1,5\nchr2,6\nchr3,7\n")
    words = ("--dtype", "chr:S4,n:i4", "--rows", "1:", "-o", "delimiter=,", "--pin", "forever")
    assert call("get", str(tmp_path / "a.txt"), *words)[0] == 0
    with arrayd.connect(served.endpoint) as client:
        (block,) = client.status().blocks
        assert (block.shape, block.dtype.names, block.pinned) == ((2,), ("chr", "n"), True)


def test_a_cast_that_loses_is_told(served: Daemon, tmp_path: Path, call: Call) -> None:
    """A loss of precision is a line, no failure."""
    path = saved(tmp_path / "a.npy", np.array([0.1, 0.5]))
    code, _, complaint = call("get", path, "--cast", "f4")
    assert code == 0
    assert "too few bits: 1 of 2 values" in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(7.5),
        np.array([(1, 2.5), (3, 4.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    ],
    ids=["C", "F", "0-d", "padded"],
)
def test_the_lines_to_paste(
    array: np.ndarray[Any, Any], served: Daemon, tmp_path: Path, call: Call
) -> None:
    """``--attach`` prints lines by which a program without arrayd has the same values."""
    path = saved(tmp_path / "a.npy", array)
    code, out, _ = call("get", path, "--attach")
    lines = out.partition("\n\n")[2].splitlines()
    assert code == 0
    assert "60 s" in lines[2]
    assert len(lines) == 3
    script = "\n".join([*lines, "print(a.tolist())"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{array.tolist()}\n", "")
    assert len(served.segments) == 1, "its end has taken no name away"


def test_the_lines_to_paste_of_some_rows(served: Daemon, tmp_path: Path, call: Call) -> None:
    """Rows of a block that is resident whole are cut out in the line as well."""
    path = saved(tmp_path / "a.npy", np.arange(10))
    with arrayd.connect(served.endpoint) as client:
        whole = client.get(path)
        _, out, _ = call("get", path, "--attach", "--rows", "::-3")
        script = out.partition("\n\n")[2] + "\nprint(a.tolist())"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stdout == f"{whole[::-3].tolist()}\n", done.stderr


# ---- the other commands ----------------------------------------------------------------------


def test_status(served: Daemon, tmp_path: Path, call: Call) -> None:
    """``status`` is the table, and with ``--json`` the same as data."""
    assert call("status")[1].endswith("no blocks\n")
    call("get", saved(tmp_path / "a.npy", np.zeros(5)))
    code, out, _ = call("status")
    assert code == 0
    assert f"{tmp_path}/a.npy" in out
    told = arrayd.Status.from_wire(json.loads(call("status", "--json")[1]))
    assert (told.pid, told.counters["loads"]) == (served.pid, 1)
    assert [block.number for block in told.blocks] == [1]


def test_info(served: Daemon, tmp_path: Path, call: Call) -> None:
    """``info`` tells of members, shapes and dtypes, and loads nothing."""
    path = tmp_path / "a.npz"
    np.savez(path, first=np.zeros((2, 3)), second=np.zeros(4, [("x", "i2"), ("y", "S3")]))
    code, out, complaint = call("info", str(path))
    assert (code, complaint) == (0, "")
    assert "  first   (2, 3) float64\n  second  (4,) x:i2,y:S3\n" in out
    (plain,) = json.loads(call("info", "--json", f"{path}:first")[1])
    assert (plain["format"], plain["shape"], plain["dtype"]) == ("npz", [2, 3], "<f8")
    assert served.segments == []


def test_info_of_good_and_bad(served: Daemon, tmp_path: Path, call: Call) -> None:
    """Those that can be read are described; the errors of all others follow."""
    good = [saved(tmp_path / f"{name}.npy", np.zeros(5)) for name in "ac"]
    code, out, complaint = call("info", good[0], "/gone.npy", good[1], "/gone too.npy")
    assert code == 1
    assert [line for line in out.splitlines() if line[:1] == "/"] == good
    assert complaint.splitlines() == [
        f"arrayd: /{name}.npy: no such file." for name in ("gone", "gone too")
    ]


def test_evict(served: Daemon, tmp_path: Path, call: Call) -> None:
    """``evict`` frees by source or by number, and says how much; nothing to free is an error."""
    path = saved(tmp_path / "a.npy", np.zeros(5))
    for words in ((path,), ("--block", "2")):
        call("get", path)
        wait_until_idle(served)
        assert call("evict", *words) == (0, "evicted 1 block, 12.0 KiB\n", "")
        assert served.segments == []
    assert call("evict", path)[0] == 1
    call("get", path)
    wait_until_idle(served)
    code, out, complaint = call("evict", "--json", "--block", served.segments[0])
    assert (code, complaint) == (0, "")
    assert json.loads(out) == {"blocks": 1, "bytes": 12288, "arrays": 1}


def test_stop(served: Daemon, call: Call) -> None:
    """``stop`` returns when the daemon has ended."""
    pid = served.pid
    assert call("stop") == (0, f"arrayd at {served.endpoint}, pid {pid}: stopped\n", "")
    assert not daemon_probe.alive(served.endpoint)
    assert served.end(signal.SIGTERM) == 0


def test_serve(short_directory: Path) -> None:
    """``serve`` becomes the daemon, with all that follows it as the daemon's options."""
    told = subprocess.run([*ARRAYD, "serve", "--help"], capture_output=True, text=True)
    assert (told.returncode, "--budget SIZE" in told.stdout) == (0, True)
    wrong = subprocess.run([*ARRAYD, "serve", "--nope"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "arrayd: unrecognized arguments: --nope.\n")
    endpoint = f"ipc://{short_directory}/sock"
    process = subprocess.Popen([*ARRAYD, "serve", "--endpoint", endpoint], stderr=subprocess.PIPE)
    with arrayd.connect(endpoint) as client:
        assert client.status().pid == process.pid
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


# ---- how things are written ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("f4", "f4"),
        (">i2", ">i2"),
        ("chr:S10,pos:i4,pct:f4", [("chr", "S10"), ("pos", "i4"), ("pct", "f4")]),
        ("x:(2,3)f4, y:u1", [("x", "f4", (2, 3)), ("y", "u1")]),
        ("[('x', 'f4'), ('y', [('z', 'i2')])]", [("x", "f4"), ("y", [("z", "i2")])]),
    ],
)
def test_dtypes(text: str, dtype: Any) -> None:
    """A dtype is a numpy string, ``name:type`` pairs, or a literal list."""
    assert common.parse_dtype(text) == np.dtype(dtype)


@pytest.mark.parametrize("text", ["", "x:", ":f4", "x:f4,y", "[('x',", "[open('/')]", "f4;"])
def test_what_is_no_dtype(text: str) -> None:
    """Anything else is refused with a word on what may be written."""
    with pytest.raises(argparse.ArgumentTypeError, match="is no dtype"):
        common.parse_dtype(text)


@given(st.lists(st.sampled_from(["f4", ">i8", "S10", "(2,3)u1", "?", "M8[ns]"]), max_size=5))
def test_a_dtype_reads_as_it_is_written(types: list[str]) -> None:
    """What is shown can be typed."""
    dtype = np.dtype([(f"n{i}", kind) for i, kind in enumerate(types)] or "f4")
    assert common.parse_dtype(common.dtype_words(dtype)) == dtype


@given(*[st.none() | st.integers(-99, 99)] * 3)
def test_rows(start: int | None, stop: int | None, step: int | None) -> None:
    """``a:b:c`` is Python's slice."""
    text = ":".join("" if part is None else str(part) for part in (start, stop, step))
    assert common.parse_rows(text) == slice(start, stop, step)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=1", 1),
        ("k=(-1, 3)", (-1, 3)),
        ("k='\\t'", "\t"),
        ("k=,", ","),
        ("k=#", "#"),
        ("k=None", None),
        ("k=a=b", "a=b"),
    ],
)
def test_format_options(text: str, value: Any) -> None:
    """A format option is a literal, or else the text as it is."""
    assert common.parse_option(text) == ("k", value)
