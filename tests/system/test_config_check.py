"""``arrayd config check``: the errors of a file, before a daemon meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ARRAYD = (sys.executable, "-c", "import sys, arrayd.cli; sys.exit(arrayd.cli.main())")


def check(*words: str, folder: Path) -> tuple[int, str, str]:
    """Return exit code, output and complaints of the command, run in a folder."""
    done = subprocess.run(
        [*ARRAYD, "config", "check", *words], cwd=folder, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_a_good_file(tmp_path: Path) -> None:
    """It says so in one line; a relative name is one in the current directory."""
    (tmp_path / "a.toml").write_text('budget = "3M"\n')
    assert check("a.toml", folder=tmp_path) == (0, f"{tmp_path}/a.toml: no errors\n", "")


def test_each_error_has_a_line(tmp_path: Path) -> None:
    """File, line, key, value and what may be written; exit code 2, as the daemon's."""
    (tmp_path / "a.toml").write_text('budgt = "3M"\n# two\nworkers = 0\n')
    code, said, complaints = check("a.toml", folder=tmp_path)
    assert (code, said) == (2, "")
    assert complaints == (
        f"arrayd: config {tmp_path}/a.toml, line 1: unknown option budgt; did you mean budget?\n"
        f"arrayd: config {tmp_path}/a.toml, line 3: workers = 0: "
        "write a whole number above 0, or auto.\n"
    )


def test_the_file_may_be_named_by_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it is ARRAYD_CONFIG's, and that of the machine's daemon without that."""
    monkeypatch.setenv("ARRAYD_CONFIG", str(tmp_path / "missing"))
    code, _, complaints = check(folder=tmp_path)
    assert (code, complaints) == (
        2,
        f"arrayd: config {tmp_path}/missing: No such file or directory.\n",
    )


def test_what_is_to_be_done_is_said(tmp_path: Path) -> None:
    """``arrayd config`` alone is a wrong use."""
    done = subprocess.run([*ARRAYD, "config"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "check" in done.stderr
