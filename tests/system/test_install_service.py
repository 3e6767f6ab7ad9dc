"""``arrayd install-service``: what it would do, and when not; `test_real_systemd` has it done."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import arrayd
from arrayd import cli
from arrayd.cli import install_service
from arrayd.system import daemon_probe

UNITS = {"arrayd.service", "arrayd.socket", "arrayd.catalog"}

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Give ``call(*flags)``: run the command here; its exit code, output and complaints."""

    def run(*flags: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (cli.main(["install-service", *flags]), *capsys.readouterr())

    return run


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let there be an arrayd that everybody can read, no private daemon, and an empty /etc."""
    scripts = tmp_path / "venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "arrayd").touch(0o755)
    monkeypatch.setattr(install_service, "_scripts", lambda: str(scripts))
    monkeypatch.setattr(install_service, "_ETC", tmp_path / "etc")
    monkeypatch.setattr(install_service, "_PACKAGED", tmp_path / "arrayd.service")
    monkeypatch.setattr(install_service, "_open_to_all", lambda place: True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "venv"


def written(shown: str) -> dict[str, str]:
    """Return the files that a dry run shows, with their text."""
    files = {}
    for part in shown.split("write ")[1:]:
        path, _, text = part.partition("\n")
        lines = [line for line in text.split("\n") if line.startswith("    ")]
        files[Path(path).name] = "\n".join(line[4:] for line in lines)
    return files


def test_a_dry_run_for_the_machine(call: Call, venv: Path) -> None:
    """All files with this arrayd's path, all commands in order, and nothing done."""
    code, shown, complaints = call("--dry-run")
    assert (code, complaints) == (0, "")
    files = written(shown)
    assert set(files) == {"arrayd.conf", "arrayd.toml", *UNITS}
    assert f"ExecStart={venv}/bin/arrayd serve --endpoint ipc:///run/" in files["arrayd.service"]
    assert f"ExecReload={venv}/bin/arrayd config check" in files["arrayd.service"]
    assert "/opt/arrayd" not in files["arrayd.service"]
    assert '\nallow = "@arrayd"\n' in files["arrayd.toml"]  # all other options are as by default
    assert files["arrayd.toml"].count("\nallow") + files["arrayd.toml"].count("\n#allow") == 1
    commands = [line.split()[1:3] for line in shown.splitlines() if line.startswith("run ")]
    assert commands == [
        ["systemd-sysusers", f"{venv.parent}/etc/sysusers.d/arrayd.conf"],
        ["journalctl", "--update-catalog"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "try-restart"],
        ["systemctl", "enable"],
    ]
    assert sorted(path.name for path in venv.parent.iterdir()) == ["venv"]


def test_a_dry_run_for_a_user(call: Call, venv: Path) -> None:
    """One file, in the user's configuration, that says nothing of a link."""
    code, shown, _ = call("--user", "--dry-run")
    assert code == 0
    (unit,) = written(shown).values()
    assert f"write {venv.parent}/config/systemd/user/arrayd.service\n" in shown
    assert f"ExecStart={venv}/bin/arrayd serve --endpoint ipc://%t/arrayd/sock\n" in unit
    assert "%Y" not in unit
    assert "run systemctl --user enable --now arrayd.service\n" in shown


def test_options_of_before_are_kept(call: Call, venv: Path) -> None:
    """An upgrade writes the units anew, and leaves arrayd.toml to the administrator."""
    etc = venv.parent / "etc"
    (etc / "arrayd").mkdir(parents=True)
    (etc / "arrayd" / "arrayd.toml").write_text("workers = 3\n")
    (etc / "systemd" / "system").mkdir(parents=True)
    (etc / "systemd" / "system" / "arrayd.service").write_text(install_service.MARK)
    _, shown, _ = call("--dry-run")
    assert f"keep {etc}/arrayd/arrayd.toml\n" in shown
    assert set(written(shown)) == {"arrayd.conf", *UNITS}


def test_a_unit_of_somebody_else_is_left_alone(call: Call, venv: Path) -> None:
    """What an administrator has written by hand is not lost."""
    unit = venv.parent / "etc" / "systemd" / "system" / "arrayd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    code, shown, complaints = call("--dry-run")
    assert (code, shown) == (1, "")
    assert f"{unit} is there, and not written by this command." in complaints


def test_what_others_cannot_read_is_refused(
    call: Call, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's own Python is closed to the service's user: said before anything is written."""
    closed = Path(os.path.realpath(sys.executable)).parent
    monkeypatch.setattr(install_service, "_open_to_all", lambda place: place != closed)
    code, shown, complaints = call("--dry-run")
    assert (code, shown) == (1, "")
    assert f"{closed} is closed to others" in complaints
    assert call("--user", "--dry-run")[0] == 0


@pytest.mark.parametrize(
    ("kind", "mode", "open_to_all"),
    [("file", 0o604, True), ("file", 0o660, False), ("dir", 0o701, True), ("dir", 0o706, False)],
)
def test_what_others_can_read(kind: str, mode: int, open_to_all: bool, tmp_path: Path) -> None:
    """A file by its bit for reading, a directory by that for passing through."""
    place = tmp_path / "place"
    place.mkdir() if kind == "dir" else place.touch()
    place.chmod(mode)
    assert install_service._open_to_all(place) == open_to_all


def test_a_path_that_a_unit_cannot_have(call: Call, venv: Path) -> None:
    """A blank in it would end the word in the unit; a per cent sign is doubled."""
    for name, code in (("100%", 0), ("a b", 1)):
        other = venv / name
        shutil.copytree(venv / "bin", other)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(install_service, "_scripts", lambda other=other: str(other))
            done = call("--dry-run")
        assert done[0] == code
        assert (f"{venv}/100%%/arrayd serve" in done[1]) == (code == 0)


def test_only_root_installs_for_all(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are told of --user; a wrong use is exit code 2."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, complaints = call()
    assert code == 2
    assert "root's to install; or add --user" in complaints


def test_without_systemd(call: Call, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no systemctl nothing is written."""
    monkeypatch.setenv("PATH", str(venv))
    code, _, complaints = call("--user")
    assert code == 1
    assert "no systemctl" in complaints
    assert not (venv.parent / "config").exists()


def test_a_command_that_fails(call: Call, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that fails ends it, and is named."""
    (venv / "systemctl").write_text("#!/bin/sh\nexit 3\n")
    (venv / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(venv))
    code, _, complaints = call("--user")
    assert code == 1
    assert "`systemctl --user daemon-reload` has failed" in complaints


def test_the_units_are_found_in_a_venv(
    venv: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkout's are beside it; without one they are where pip has put them; or it says where."""
    assert (install_service.shipped_files() / "user" / "arrayd.service").is_file()
    monkeypatch.setattr(arrayd, "__file__", str(tmp_path / "a" / "b" / "c" / "arrayd" / "x.py"))
    monkeypatch.setattr(install_service, "_data_folders", lambda: ["/nowhere", str(tmp_path)])
    with pytest.raises(install_service.Refused, match="/nowhere/share/arrayd"):
        install_service.shipped_files()
    (tmp_path / "share" / "arrayd" / "system").mkdir(parents=True)
    (tmp_path / "share" / "arrayd" / "system" / "arrayd.service").touch()
    assert install_service.shipped_files() == tmp_path / "share" / "arrayd"


def test_a_private_daemon_is_named(
    call: Call, venv: Path, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the place of the service: a dry run shows the signal that has it hand over."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_directory))
    with arrayd.connect("private") as client:
        pid = client.status().pid
        assert f"run kill -USR1 {pid}  #" in call("--user", "--dry-run")[1]
        client.stop()
    assert daemon_probe.wait_ended(pid, 10)
    assert "kill" not in call("--user", "--dry-run")[1].partition("[Install]")[2]


def test_a_package_has_it_already(call: Call, venv: Path) -> None:
    """The service of a package is not put aside by the way."""
    (venv.parent / "arrayd.service").touch()
    code, shown, complaints = call("--dry-run")
    assert (code, shown) == (1, "")
    assert "systemctl enable --now arrayd.socket" in complaints
