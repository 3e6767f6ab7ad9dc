"""Manual pages and completions: as the code is now, without errors, and of use."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from arrayd import cli
from arrayd.cli import completion
from arrayd_server.config import TABLE, flag
from deploy import documents, manual

MADE = {path.relative_to(documents.HERE): text for path, text in documents.documents()}

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_arrayd; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("path", MADE, ids=str)
def test_they_are_what_the_code_says(path: Path) -> None:
    """What is in the repository is made of the parser and the options of now."""
    text = (documents.HERE / path).read_text()
    assert text == MADE[path], "python -m deploy.documents"


def test_the_manual_is_complete() -> None:
    """It has each command, each of its flags, and each option of the daemon, in both pages."""
    page = MADE[Path("man/arrayd.1")].replace(r"\-", "-")
    options = MADE[Path("man/arrayd.toml.5")].replace(r"\-", "-")
    for name, parser in documents.commands(documents.full_parser()).items():
        assert f"arrayd {name}" in page
        for action in manual.actions(parser):
            assert all(word in page for word in action.option_strings)
    assert all(flag(name) in page for name in TABLE)
    assert {f"\\fB{name} =\\fP" for name in TABLE if name != "config"} <= set(options.splitlines())


@pytest.mark.parametrize("page", ["arrayd.1", "arrayd.toml.5"])
def test_the_manual_is_understood(page: str) -> None:
    """Groff has no warning, and shows each name as it is typed."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", str(documents.HERE / "man" / page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    assert ("--load-timeout SECONDS" if page == "arrayd.1" else "load_timeout =") in shown
    assert not re.search(r"`|\\f|\[u", shown)


def test_roff_is_escaped() -> None:
    """A text shows what it says, whatever roff would make of it."""
    assert manual._text(".so `a-b` 'x' *FILE* c:\\d é a*b*c") == (
        r"\&.so \fBa\-b\fP 'x' \fIFILE\fP c:\ed \[u00E9] a*b*c"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], "status stop"),
        (["status", "--"], "--help --endpoint --json"),
        (["get", "--order", ""], "C F"),
        (["get", "pypr"], "pyproject.toml"),
        (["serve", "--load-"], "--load-timeout"),
        (["config", ""], "check"),
        (["completion", ""], "bash zsh fish"),
        (["frobnicate", "--quiet"], ""),
    ],
    ids=" ".join,
)
def test_bash_completes(words: list[str], expected: str) -> None:
    """What is begun is completed: a command, a flag, one of some values, a file."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = documents.HERE / "completions" / "arrayd.bash"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(script), "arrayd", *words],
        capture_output=True,
        text=True,
        cwd=documents.HERE.parent,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == expected.split()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_shell_reads_it(shell: str) -> None:
    """Each of the three is a program of its shell."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = documents.HERE / "completions" / f"arrayd.{shell}"
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_it_can_be_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``arrayd completion SHELL`` gives what a package would install."""
    assert cli.main(["completion", shell]) == 0
    assert capsys.readouterr().out == MADE[Path(f"completions/arrayd.{shell}")]


def test_none_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation without them is told so, in one line."""
    monkeypatch.setattr(completion, "shipped_files", lambda: tmp_path)
    assert cli.main(["completion", "fish"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "install arrayd again" in shown.err
