"""The watch on /dev/shm: what it hears of, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

import arrayd
from arrayd_server.kernel.close_watch import CloseWatch, NameEvents
from arrayd_server.service.executor import EffectExecutor
from tests.support.daemons import Daemon
from tests.support.processes import block_of, wait_until


def test_the_watch_hears_of_names_that_go(tmp_path: Path) -> None:
    """Always, of closes only while somebody is waited for."""
    watch = CloseWatch(str(tmp_path))
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    (tmp_path / "a").unlink()
    (tmp_path / "b").rename(tmp_path / "d")
    assert watch.read() == NameEvents(gone={"a", "b"})
    watch.add("c")
    (tmp_path / "c").read_bytes()
    (tmp_path / "c").unlink()
    assert watch.read() == NameEvents({"c"}, {"c"})
    watch.discard("c")
    (tmp_path / "d").read_bytes()
    assert watch.read() == NameEvents()
    watch.close()


def test_names_of_others_are_counted(tmp_path: Path) -> None:
    """Anybody makes and removes files there: of theirs nothing is reported but how many."""
    watch = CloseWatch(str(tmp_path), "arrayd-x-")
    names = ["arrayd-x-1", "arrayd-y-1", "other", "arrayd-x-2", "arrayd-x"]
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / name).unlink()
    assert watch.read() == NameEvents(gone={"arrayd-x-1", "arrayd-x-2"}, others=3)
    watch.close()


@pytest.mark.parametrize(("others", "pauses"), [(0, 0), (1, 0), (5, 1)])
def test_who_fills_the_folder_is_heard_now_and_then(others: int, pauses: int) -> None:
    """Where most of what is heard is nothing of ours, nothing is heard for a moment."""
    heard, loop = NameEvents({"a"}, set(), others=others), Mock()
    executor = Mock(_loop=loop, _watch=Mock(read=lambda: heard))
    EffectExecutor._on_heard(executor)
    executor._inspect.assert_called_once_with("a")
    assert loop.remove_reader.call_count == loop.call_later.call_count == pauses
    if pauses:
        delay, again = loop.call_later.call_args.args
        assert 0 < delay < 5
        assert again is executor._listen


def test_without_a_watch_its_names_are_asked_about(tmp_path: Path) -> None:
    """The kernel gives no watch (here: no directory): who rechecks by the clock knows whom."""
    watch = CloseWatch(str(tmp_path / "gone"))
    watch.add("a")
    assert watch.names == {"a"}
    assert watch.read() == NameEvents()
    watch.discard("a")
    watch.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="user namespaces may be forbidden to others")
def test_without_inotify_the_error_says_so() -> None:
    """A user with as many inotify instances as it may have is told, with the setting to raise."""
    code = "from arrayd_server.kernel.close_watch import CloseWatch; CloseWatch('/dev/shm')"
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", limit, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "DaemonError" in done.stderr
    assert "fs.inotify.max_user_instances" in done.stderr


def test_a_name_that_goes_is_back_at_once(client: arrayd.Client, daemon: Daemon) -> None:
    """Within milliseconds of its removal, not at the next look around, a second apart."""
    shared = client.put([1, 2, 3], "x")
    path = f"/dev/shm/{block_of(shared).name}"
    inode = os.stat(path).st_ino
    gaps = []
    for _ in range(5):
        began = time.monotonic()
        os.unlink(path)
        wait_until(lambda: os.path.exists(path), "the name is back")
        gaps.append(time.monotonic() - began)
    assert os.stat(path).st_ino == inode
    assert min(gaps) < 0.1
    del shared


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="its resource tracker knows better")
def test_the_standard_library_attaches_again_and_again(
    client: arrayd.Client, daemon: Daemon
) -> None:
    """Each process that merely attaches removes the name at its end (gh-82300)."""
    shared = client.put([1, 2, 3], "x")
    name = block_of(shared).name
    code = f"from multiprocessing.shared_memory import SharedMemory; SharedMemory({name!r})"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        wait_until(lambda: os.path.exists(f"/dev/shm/{name}"), "the name is back")
    assert client.get("name:x").tolist() == [1, 2, 3]
    del shared
