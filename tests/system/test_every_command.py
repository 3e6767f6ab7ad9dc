"""What holds for every command: no escapes, one line for what goes wrong, documented exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arrayd import cli
from tests.support.daemons import Daemon

pytestmark = pytest.mark.one_daemon

ROOT = Path(__file__).resolve().parents[2]

NOWHERE: dict[str, tuple[tuple[str, ...], int]] = {
    "status": ((), 3),
    "evict": (("x.npy",), 3),
    "who": (("x.npy",), 3),
    "kick": (("7",), 3),
    "drain": ((), 3),
    "stop": ((), 3),
    "clean": (("--endpoint", "http://x"), 3),
    "top": ((), 2),
    "get": (("/none.npy",), 1),
    "info": (("/none.npy",), 1),
    "collect": (("/none.npy", "-o", "/tmp/none.h5"), 1),
    "pack": (("/none.npy", "-o", "/tmp/none.npy"), 1),
    "report": (("/none.npy",), 1),
    "plan": (("/none.npy",), 1),
    "list": (("/none", "-o", "/tmp/none.txt"), 1),
    "receipt": (("verify", "/none.json"), 1),
    "install-service": (("--nonsense",), 2),
    "completion": (("tcsh",), 2),
    "schema": (("top",), 2),
    "demo": (("--nonsense",), 2),
    "serve": (("--nonsense",), 2),
    "config": (("check", "/none.toml"), 2),
}
"""Of each command: words with which it fails where no daemon runs, and its exit code."""

REPORTS = {"doctor", "health"}
"""The commands whose output is what is wrong: their exit code is 1, and they have no error."""

BECOME = {"serve", "config"}
"""The commands that become another program."""


@pytest.fixture
def nowhere(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands look where no daemon runs."""
    monkeypatch.setenv("ARRAYD_ENDPOINT", f"ipc://{short_directory}/none")


def run(command: str, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run a command with pipes for output; its exit code, output and complaints."""
    program = "import sys, arrayd.cli; sys.exit(arrayd.cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", program, command, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_each_command_is_in_the_table() -> None:
    """No new command escapes."""
    assert {*NOWHERE} | REPORTS == {*cli.COMMANDS}


@pytest.mark.parametrize("command", sorted({*NOWHERE} - BECOME))
def test_what_goes_wrong_is_one_line(
    command: str, nowhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, without a traceback or escapes; nothing is on standard output."""
    words, expected = NOWHERE[command]
    code = cli.main([command, *words])
    said, complaint = capsys.readouterr()
    assert (code, said) == (expected, "")
    assert re.fullmatch(r"arrayd: [^\x1b\n]+\n", complaint)


@pytest.mark.parametrize("command", sorted(BECOME))
def test_the_same_of_another_program(command: str, nowhere: None) -> None:
    """What the command becomes says it in the same way."""
    words, expected = NOWHERE[command]
    code, said, complaint = run(command, *words)
    assert (code, said) == (expected, "")
    assert re.fullmatch(r"arrayd: [^\x1b\n]+\n", complaint)


@pytest.mark.parametrize("command", sorted(REPORTS))
def test_reports_of_what_is_wrong(
    command: str, nowhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """They print it, and exit with 1."""
    assert cli.main([command]) == 1
    said, complaint = capsys.readouterr()
    assert "\x1b" not in said
    assert "/none" in said
    assert complaint == ""


@pytest.mark.parametrize("force", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_no_escapes(daemon: Daemon, tmp_path: Path, force: dict[str, str]) -> None:
    """Of commands that print much or have bars, whatever the environment says of colours."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12.0))
    at = ("--endpoint", daemon.endpoint)
    commands = [
        ("get", *at, str(path)),
        ("status", *at),
        ("collect", *at, str(path), "-o", str(tmp_path / "a.h5")),
    ]
    for words in commands if not force else commands[-1:]:
        code, said, complaint = run(*words, **force)
        assert code == 0
        assert "\x1b" not in said + complaint
        assert said.isprintable() or set(filter(lambda c: not c.isprintable(), said)) == {"\n"}


def test_exit_codes_are_documented() -> None:
    """Those above are in the README, and in the head of the module of the command line."""
    codes = {code for _, code in NOWHERE.values()} | {0, 4, 130, 143}
    for text in ((ROOT / "README.md").read_text(), cli.__doc__ or ""):
        paragraph = re.split(r"Exit (?:status|codes): ", text, maxsplit=1)[1].partition("\n\n")[0]
        assert {int(number) for number in re.findall(r"(\d+) \w", paragraph)} == codes
