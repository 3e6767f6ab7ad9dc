"""The file of our socket: what is done with it, and only as long as it is ours."""

from __future__ import annotations

from pathlib import Path

from arrayd_server.transport.socket_file import SocketFile


def test_ours_has_its_mode_and_is_removed(tmp_path: Path) -> None:
    """It can be opened to others, and goes with the daemon."""
    path = tmp_path / "sock"
    path.touch(0o600)
    file = SocketFile(str(path), passed=False)
    assert file.is_ours()
    file.set_mode(0o666)
    assert path.stat().st_mode & 0o777 == 0o666
    file.remove()
    assert not path.exists()
    assert not file.is_ours()
    file.remove()  # somebody was faster


def test_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    """Another daemon's file keeps its mode and stays."""
    path, other = tmp_path / "sock", tmp_path / "other"
    path.touch(0o600)
    file = SocketFile(str(path), passed=False)
    other.touch(0o600)
    other.rename(path)
    assert not file.is_ours()
    file.set_mode(0o666)
    file.remove()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_socket_unit_made_is_left_alone(tmp_path: Path) -> None:
    """Its mode is the unit's to set, and its file the unit's to remove."""
    path = tmp_path / "sock"
    path.touch(0o600)
    file = SocketFile(str(path), passed=True)
    file.set_mode(0o666)
    file.remove()
    assert path.stat().st_mode & 0o777 == 0o600
