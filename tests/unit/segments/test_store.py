"""Segments and the kernel's word on them: leases, links, unlinking, adoption."""

from __future__ import annotations

import mmap
import os
import random
import resource
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd.errors import DaemonError
from arrayd.wire import layout
from arrayd_server.kernel import leases, segment_users
from arrayd_server.kernel.close_watch import CloseWatch
from arrayd_server.segments.adoption import Leftovers, read_footer
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.scope import Scope, ScopeTaken
from arrayd_server.segments.store import Segments
from tests.support.processes import wait_until

HOLDER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
pages = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
os.close(fd)
print("mapped", flush=True)
sys.stdin.readline()
"""

BUSY = """
import mmap, os, select, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
pages = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
os.close(fd)
print("mapped", flush=True)
while not select.select([0], [], [], 0)[0]:
    others = [os.dup(2) for _ in range(50)]
    os.closerange(others[0], others[-1] + 1)
"""
"""Maps a segment, and opens and closes descriptors all the time."""

EAGER = """
import os, sys, time
print("mapped", flush=True)
for line in sys.stdin:
    name, seconds = line.split()
    begin, fd, again = time.perf_counter(), -1, True
    while time.perf_counter() < begin + float(seconds):
        pass
    while again:
        again = False
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        except BlockingIOError:
            again = True
        except FileNotFoundError:
            pass
    print(fd >= 0, flush=True)
    sys.stdin.readline()
    fd >= 0 and os.close(fd)
    print("closed", flush=True)
"""
"""Opens each segment that it is told of, so many seconds later."""


@pytest.fixture
def scope(tmp_path: Path) -> Iterator[Scope]:
    """Give an entered scope of its own, that must be left empty."""
    leases.ignore_sigio()
    with Scope(f"ipc://{tmp_path}/sock") as entered:
        yield entered
    assert not Path(entered.directory).exists()


@pytest.fixture
def segments(scope: Scope) -> Iterator[Segments]:
    """Give the segments of the scope."""
    made = Segments(scope)
    yield made
    made.close()


def make(segments: Segments, scope: Scope, number: int = 1, *, sealed: bool = True) -> str:
    """Make a segment of 10,000 bytes; return its name."""
    name, plan = f"{scope.prefix}-{number}", layout.plan(10_000, 50)
    segments.make(name, plan, {"made": number})
    segments.reserve(name, 10_000)
    if sealed:
        assert segments.seal(name, plan, {"made": number})
    return name


def end(segments: Segments, name: str) -> None:
    """Unlink a segment that nobody maps."""
    outcome, fd = segments.unlink(name, force=False)
    assert outcome is Outcome.GONE
    os.close(fd)


@pytest.fixture
def mapper() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list of processes to be ended after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.communicate("\n")


def map_elsewhere(
    name: str, started: list[subprocess.Popen[str]], program: str = HOLDER
) -> subprocess.Popen[str]:
    """Have another process map a segment, with its descriptor closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"/dev/shm/{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "mapped\n"
    return process


def test_the_kernel_knows_of_every_mapping(
    segments: Segments, scope: Scope, mapper: list[subprocess.Popen[str]]
) -> None:
    """A mapping in another process, its descriptor closed, is seen; its end too, by SIGKILL."""
    name = make(segments, scope)
    assert not segments.mapped(name)
    process = map_elsewhere(name, mapper)
    assert segments.mapped(name)
    assert segments.unlink(name, force=False) == (Outcome.REFUSED, -1)
    process.kill()
    process.wait()
    assert not segments.mapped(name)
    end(segments, name)


def test_who_opens_a_name_has_what_others_find(
    segments: Segments, scope: Scope, mapper: list[subprocess.Popen[str]]
) -> None:
    """Whoever opens a segment as it is unlinked is seen, or finds no name; nothing in between."""
    process = map_elsewhere("none", mapper, EAGER)
    assert process.stdin is not None
    assert process.stdout is not None
    chance, seen = random.Random(5), Counter[Outcome]()
    for number in range(1000):
        name = make(segments, scope, number, sealed=False)
        print(segments.public(name), chance.uniform(0, 1e-4), file=process.stdin, flush=True)
        end_of_pause = time.perf_counter() + chance.uniform(0, 2e-4)
        while time.perf_counter() < end_of_pause:
            pass
        outcome, fd = segments.unlink(name, force=False)
        opened = process.stdout.readline() == "True\n"
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "closed\n"
        assert outcome is (Outcome.REFUSED if opened else Outcome.GONE)
        seen[outcome] += 1
        if opened:
            end(segments, name)
        else:
            os.close(fd)
    assert len(seen) == 2


def test_a_forced_unlink_keeps_the_pages_until_the_last_mapping_goes(
    segments: Segments, scope: Scope, mapper: list[subprocess.Popen[str]]
) -> None:
    """What is unlinked but mapped is leaving; the watch tells when it has left."""
    name = make(segments, scope)
    process = map_elsewhere(name, mapper)
    watch = CloseWatch(layout.SHM)
    watch.add(name)
    assert segments.unlink(name, force=True) == (Outcome.UNLINKED, -1)
    assert segments.is_unlinked(name)
    assert segments.take_unmapped(name) is None
    process.kill()
    process.wait()
    assert select.select([watch], [], [], 10)[0]
    assert watch.read().closed == {name}
    fd = segments.take_unmapped(name)
    assert fd is not None
    os.close(fd)
    watch.discard(name)
    watch.close()


def test_the_watch_does_not_see_our_own_tests(segments: Segments, scope: Scope) -> None:
    """The daemon opens through the spare link, so it never wakes itself."""
    name = make(segments, scope)
    watch = CloseWatch(layout.SHM)
    watch.add(name)
    for _ in range(3):
        assert not segments.mapped(name)
    assert not select.select([watch], [], [], 0)[0]
    os.close(os.open(f"/dev/shm/{name}", os.O_RDONLY))
    assert select.select([watch], [], [], 10)[0]
    watch.close()
    end(segments, name)


def test_a_seal_proves_that_no_writer_is_left(segments: Segments, scope: Scope) -> None:
    """A writeable mapping refuses the seal; a read-only one does not."""
    name = make(segments, scope, sealed=False)
    plan = layout.plan(10_000, 50)
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
    pages = mmap.mmap(fd, 4096)
    os.close(fd)
    assert not segments.seal(name, plan, {})
    pages.close()
    fd = os.open(f"/dev/shm/{name}", os.O_RDONLY)
    assert segments.seal(name, plan, {})
    os.close(fd)
    end(segments, name)


def test_a_copy_takes_the_place_of_what_was_written(segments: Segments, scope: Scope) -> None:
    """It has the data alone, under both names; of one that nobody waits for nothing is left."""
    name = make(segments, scope)
    paths = Path(segments.path(name)), Path(segments.public(name))
    size, nbytes = paths[0].stat().st_size, 5000
    with paths[0].open("r+b") as file:
        file.write(bytes(range(250)) * 20)
        written = os.fstat(file.fileno()).st_ino
        segments.renew(name, layout.of_size(nbytes, size))
        file.seek(0)
        file.write(b"too late")
    assert {path.stat().st_ino for path in paths} != {written}
    assert (
        paths[0].read_bytes()
        == paths[1].read_bytes()
        == bytes(range(250)) * 20 + bytes(size - nbytes)
    )
    assert segments.republish(name)
    segments.drop_copy(name)
    assert not any(path.exists() for path in paths)
    assert segments.names() == []


def test_a_removed_name_is_linked_back(segments: Segments, scope: Scope) -> None:
    """Who unlinks our public name takes nothing away: same name, same inode, no copy."""
    name = make(segments, scope)
    before = os.stat(f"/dev/shm/{name}").st_ino
    os.unlink(f"/dev/shm/{name}")
    assert segments.republish(name)
    assert os.stat(f"/dev/shm/{name}").st_ino == before
    os.unlink(f"/dev/shm/{name}")
    os.unlink(segments.path(name))
    assert not segments.republish(name)
    assert segments.unlink(name, force=False) == (Outcome.GONE, -1)


def test_the_footer_describes_the_segment(segments: Segments, scope: Scope) -> None:
    """Name, data size, seal and metadata are read back from the last page."""
    name = make(segments, scope)
    fd = os.open(f"/dev/shm/{name}", os.O_RDONLY)
    size = os.fstat(fd).st_size
    footer = read_footer(fd, size, name)
    os.close(fd)
    assert (footer.name, footer.data_bytes, footer.sealed) == (name, 10_000, True)
    assert size % layout.PAGE == 0
    end(segments, name)


def test_a_scan_adopts_what_is_whole_and_removes_the_rest(segments: Segments, scope: Scope) -> None:
    """Forged, truncated and renamed segments of our family do not survive; others' files do."""
    whole = make(segments, scope, 1)
    lone = make(segments, scope, 2)
    os.unlink(segments.path(lone))  # only the public link is left
    unsealed = make(segments, scope, 3, sealed=False)
    renamed = make(segments, scope, 4)
    os.rename(f"/dev/shm/{renamed}", f"/dev/shm/{renamed}9")
    os.rename(segments.path(renamed), segments.path(f"{renamed}9"))
    cut = make(segments, scope, 5)
    os.truncate(segments.path(cut), 100)
    forged = f"{scope.family}forged-1"
    Path(f"/dev/shm/{forged}").write_bytes(os.urandom(8192))
    link = f"{scope.family}link-1"
    os.symlink("/etc/passwd", f"/dev/shm/{link}")
    loose = make(segments, scope, 6)
    os.chmod(segments.path(loose), 0o644)
    found = {f.name: f for f in Leftovers(segments)}
    assert set(found) == {whole, lone, unsealed}
    assert [found[n].sealed for n in (whole, lone, unsealed)] == [True, True, False]
    assert found[whole].meta == {"made": 1}
    left = {n for n in os.listdir("/dev/shm") if n.startswith(scope.family)}
    assert left == {whole, lone, unsealed}
    assert Path("/etc/passwd").exists()
    for name in found:
        end(segments, name)


def test_flipped_bytes_in_the_end_are_noticed(segments: Segments, scope: Scope) -> None:
    """Damage in the footer or the metadata makes a segment no segment."""
    for where in (3, 20, 60):
        name = make(segments, scope, where)
        with open(segments.path(name), "r+b") as file:
            file.seek(-layout.FOOTER_BYTES + where, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        assert list(Leftovers(segments)) == []
    assert not [n for n in os.listdir("/dev/shm") if n.startswith(scope.family)]


def test_one_daemon_a_scope(scope: Scope, tmp_path: Path) -> None:
    """The lock is taken before anything is bound, and says who has it."""
    with pytest.raises(ScopeTaken, match=str(os.getpid())):
        Scope(f"ipc://{tmp_path}/sock").__enter__()


def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    """A directory under our name that others can write is not used."""
    scope = Scope(f"ipc://{tmp_path}/other")
    os.mkdir(scope.directory, 0o777)
    os.chmod(scope.directory, 0o777)
    try:
        with pytest.raises(DaemonError, match=r"0700, and it is a directory .* mode 0777"):
            scope.__enter__()
    finally:
        os.rmdir(scope.directory)


def test_a_lease_lets_no_open_be_lost(segments: Segments, scope: Scope) -> None:
    """Clients that open without blocking while leases come and go always get in."""
    name = make(segments, scope)
    code = (
        "import sys; from arrayd.system.mapping import SegmentMapping\n"
        "for _ in range(3000): SegmentMapping(sys.argv[1], 10_000, 'r', None, [].append, [].append)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, name])
    seen = set()
    while process.poll() is None:
        seen.add(segments.mapped(name))
    assert process.returncode == 0
    assert seen <= {True, False}
    end(segments, name)


def test_what_has_no_name_is_known_by_proc(
    segments: Segments, scope: Scope, mapper: list[subprocess.Popen[str]]
) -> None:
    """Every name of a mapped segment is gone: it is in use, and leaves with its last mapping."""
    name = make(segments, scope)
    process = map_elsewhere(name, mapper)
    os.unlink(f"/dev/shm/{name}")
    os.unlink(segments.path(name))
    assert segments.mapped(name)
    assert segments.unlink(name, force=False) == (Outcome.REFUSED, -1)
    assert segments.unlink(name, force=True) == (Outcome.UNLINKED, -1)
    assert segments.take_unmapped(name) is None
    process.kill()
    process.wait()
    wait_until(lambda: segments.take_unmapped(name) == -1, "it has left")


def test_a_busy_process_is_seen_by_proc(
    segments: Segments, scope: Scope, mapper: list[subprocess.Popen[str]]
) -> None:
    """A descriptor that goes while /proc is read hides nothing of what its process has mapped."""
    name = make(segments, scope)
    process = map_elsewhere(name, mapper, BUSY)
    itself = Path(f"/proc/{process.pid}")
    assert [name in segment_users.segments(itself) for _ in range(300)] == [True] * 300
    assert segment_users.users(name) == [itself]
    process.kill()
    process.wait()
    end(segments, name)


def test_out_of_descriptors_nothing_is_given_up(segments: Segments, scope: Scope) -> None:
    """The kernel cannot be asked (EMFILE): a block counts as mapped, and is not unlinked."""
    name = make(segments, scope)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        assert segments.mapped(name)
        assert segments.unlink(name, force=False) == (Outcome.REFUSED, -1)
        assert segments.republish(name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not segments.mapped(name)
    end(segments, name)
