"""Segments in /dev/shm: make, seal, ask the kernel, unlink.

Each has two hard links: the public ``/dev/shm/NAME`` that clients open, and one in the
daemon's own directory ``/dev/shm/arrayd-<uid>-<scope>/`` (0700). The second is a spare:
the resource tracker of Python < 3.13 unlinks what a process merely attached, and logind
removes a user's segments at logout; whichever is left, `republish` links the same inode back.
The daemon opens the spare only, so that the watch on /dev/shm (`kernel.close_watch`) does not
report its own closes.

A segment is known by its inode, remembered when it was made or adopted: another file under one of
its names is not ours, and is left out. Where every name is gone, processes may still map the
segment; `kernel.segment_users` finds them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from typing import Any

from arrayd.common import failpoints
from arrayd.errors import ArraydError, DaemonError
from arrayd.wire import layout
from arrayd_server.kernel import leases
from arrayd_server.kernel.segment_users import SegmentUsers
from arrayd_server.segments import fresh_copy, recycling, segment_end
from arrayd_server.segments.links import changed_at, inode_of, link_over
from arrayd_server.segments.nospace import no_space_error
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.sharing import Sharing

RESERVE_STEP = 64 << 20
"""Bytes reserved in one call: where there is no room, it is noticed before all is tried."""


class Segments:
    """The segments of one scope.

    Parameters
    ----------
    scope
        Entered: its directory is there, and its lock is ours.
    """

    def __init__(self, scope: Scope) -> None:
        self.directory = scope.directory
        self.family = scope.family
        self.leases = leases.available(f"{scope.directory}/lock")
        self._scope = scope
        self._inodes: dict[str, int] = {}
        self._unlinked: dict[str, int] = {}  # unlinked but in use: our descriptor, or -1
        self._sharing = Sharing()
        self._users = SegmentUsers()
        self._changed_at: tuple[int, ...] = ()

    # ---- making --------------------------------------------------------------------------

    def make(self, name: str, plan: layout.SegmentPlan, meta: dict[str, Any]) -> None:
        """Make an unsealed segment of the planned size; its pages come as they are written.

        If it is a spare its pages are there already.

        Raises
        ------
        NoRoom
            /dev/shm has no inode or page left.
        DaemonError
            It cannot be made for another reason.
        """
        self._regain()
        if name in self._inodes and self._reuse(name, plan, meta):
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.path(name), flags, 0o600)
            try:
                inode = os.fstat(fd).st_ino
                os.ftruncate(fd, plan.size)
                failpoints.hit("daemon.truncated")
                os.posix_fallocate(fd, plan.meta_offset, plan.size - plan.meta_offset)
                segment_end.write_end(fd, name, plan, meta, sealed=False)
            finally:
                os.close(fd)
            failpoints.hit("daemon.described")
            os.link(self.path(name), self.public(name))
            failpoints.hit("daemon.linked")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(self.path(name))
            raise no_space_error("a new segment", plan.size, error) from None
        self._inodes[name] = inode

    def _reuse(self, name: str, plan: layout.SegmentPlan, meta: dict[str, Any]) -> bool:
        """Make a segment of the spare of its name; False: it is gone, or somebody looks at it."""

        def steps() -> None:
            recycling.take_over(fd, plan)
            segment_end.write_end(fd, name, plan, meta, sealed=False)

        try:
            with self._opened(name, os.O_RDWR) as fd:
                if leases.while_alone(fd, steps):
                    return True
        except FileNotFoundError:
            pass
        except OSError as error:
            raise no_space_error("a new segment", plan.size, error) from None
        recycling.remove(self._inodes.pop(name), (self.public(name), self.path(name)))
        return False

    def reserve(self, name: str, nbytes: int) -> None:
        """Allocate the pages of the first `nbytes` now; slow, 90 ms per GiB.

        ``ftruncate`` alone would turn a full /dev/shm into SIGBUS in whoever writes.

        Raises
        ------
        NoRoom
            The kernel has no more pages to give.
        DaemonError
            Somebody removed the segment.
        """
        try:
            with self._opened(name, os.O_RDWR) as fd:
                failpoints.hit("daemon.reserving")
                for start in range(0, nbytes, RESERVE_STEP):
                    os.posix_fallocate(fd, start, min(RESERVE_STEP, nbytes - start))
        except OSError as error:
            raise no_space_error("the pages of a new segment", nbytes, error) from None

    def seal(self, name: str, plan: layout.SegmentPlan, meta: dict[str, Any] | None) -> bool:
        """Write the final footer (without `meta`: do not) if no writer is left; say whether.

        Raises
        ------
        OSError
            It cannot be opened; FileNotFoundError: somebody removed it.
        DaemonError
            Its writer has cut it off, or given pages back.
        """
        with self._opened(name, os.O_RDONLY) as fd:
            if self.leases and not leases.no_writer(fd):
                return False
            segment_end.check_pages(fd, name, plan)
        if meta is not None:
            self.describe(name, plan, meta)
        return True

    def renew(self, name: str, plan: layout.SegmentPlan) -> None:
        """Let a segment go on as a copy that its writer never could write to; see `fresh_copy`."""
        names, sizes = (self.path(name), self.public(name)), (plan.size, plan.data_bytes)
        self._inodes[name] = fresh_copy.replace(*names, *sizes)
        self._sharing.forget(name)

    def drop_copy(self, name: str) -> None:
        """Remove a copy that `renew` has made of what was unlinked meanwhile."""
        recycling.remove(self._inodes.get(name, 0), (self.public(name), self.path(name)))
        if name not in self._unlinked:
            self._forget(name)

    def describe(self, name: str, plan: layout.SegmentPlan, meta: dict[str, Any]) -> None:
        """Write the metadata and the footer of a sealed segment.

        Raises
        ------
        OSError
            As `seal`.
        """
        failpoints.hit("daemon.sealing")
        with self._opened(name, os.O_RDWR) as fd:
            segment_end.write_end(fd, name, plan, meta, sealed=True)
            failpoints.hit("daemon.sealed")

    def share(self, name: str, readers: Collection[int], writers: Collection[int]) -> None:
        """Let these users open a segment, `writers` to write it; raises as `Sharing.write`."""
        if not self._sharing.is_written(name, readers, writers):
            with self._opened(name, os.O_RDONLY) as fd:
                self._sharing.write(name, fd, readers, writers)

    # ---- asking --------------------------------------------------------------------------

    def mapped(self, name: str) -> bool:
        """Say whether anybody has a segment open or mapped; False where leases are off."""
        if not self.leases:
            return False
        if name in self._unlinked:
            return self._in_use(name, self._unlinked[name])
        fd = self._open_for_test(name)
        try:
            return self._in_use(name, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def republish(self, name: str) -> bool:
        """Link a segment under both its names again; False if neither is left.

        Raises
        ------
        NoRoom, DaemonError
            Its public name is gone, and cannot be linked back now.
        """
        inode = self._inodes.get(name)
        if inode is None:
            return False
        public = inode_of(self.public(name)) == inode
        if public and inode_of(self.path(name)) == inode:
            return True
        try:
            return self._relink(name)
        except ArraydError:
            if public:
                return True  # clients can open it; the spare comes when there is room
            raise

    def names(self) -> list[str]:
        """Return the names of all segments."""
        return list(self._inodes)

    def names_changed(self) -> bool:
        """Say whether anything was made or removed in our directories since the last call."""
        before, self._changed_at = self._changed_at, changed_at(layout.SHM, self.directory)
        return self._changed_at != before or not self._changed_at

    # ---- ending --------------------------------------------------------------------------

    def unlink(self, name: str, *, force: bool) -> tuple[Outcome, int]:
        """Remove both links of a segment, unless somebody maps it and `force` is not set.

        Returns
        -------
        outcome, fd
            `fd` is for the caller to close where the outcome is GONE and it is not -1 (closing
            frees the pages, 40 to 80 ms per GiB: of a large one not on the loop).
        """
        if name not in self._inodes:
            return Outcome.GONE, -1  # it could not be made
        fd = self._open_for_test(name)
        if not force and not self._unlink_public(name, fd):
            if fd >= 0:
                os.close(fd)
            return Outcome.REFUSED, -1
        self._remove_links(name)
        return self._unlinked_now(name, fd)

    def _unlinked_now(self, name: str, fd: int) -> tuple[Outcome, int]:
        """Return what became of a segment whose links are gone."""
        # Test again after the unlink, also if the first test found nobody: an open that our
        # lease had blocked resumes now, and maps the file.
        if self._in_use(name, fd):
            self._unlinked[name] = fd
            return Outcome.UNLINKED, -1
        self._forget(name)
        return Outcome.GONE, fd

    def recycle(self, name: str, heir: str) -> tuple[Outcome, int]:
        """Let the pages of a segment go on under the name `heir`, or else `unlink` it."""
        inode, fd = self._inodes.get(name), self._open_for_test(name)
        here, there = (self.public(name), self.path(name)), (self.public(heir), self.path(heir))
        if fd < 0 or not self.leases or any(inode_of(path) != inode for path in here):
            if fd >= 0:
                os.close(fd)
            return self.unlink(name, force=False)
        assert inode is not None
        links = tuple(zip(here, there, strict=True))
        try:
            alone = leases.while_alone(fd, lambda: recycling.hand_down(fd, links))
        except OSError:
            alone = None  # half done
        if alone is None:
            recycling.remove(inode, here + there)
            return self._unlinked_now(name, fd)
        os.close(fd)
        if alone:
            self._inodes[heir] = self._inodes.pop(name)
            self._sharing.forget(name)
        return (Outcome.RECYCLED if alone else Outcome.REFUSED), -1

    def discard(self, name: str) -> None:
        """Remove a segment that is no block, whether or not somebody maps it, and forget it."""
        _, fd = self.unlink(name, force=True)
        fd = max(fd, self._unlinked.pop(name, -1))
        self._forget(name)
        if fd >= 0:
            os.close(fd)

    def is_unlinked(self, name: str) -> bool:
        """Say whether a segment is unlinked but still mapped."""
        return name in self._unlinked

    def take_unmapped(self, name: str) -> int | None:
        """Return the descriptor (or -1) of an unlinked segment once nobody maps it; close it."""
        fd = self._unlinked.get(name)
        if fd is None or self._in_use(name, fd):
            return None
        self._forget(name)
        return self._unlinked.pop(name)

    def close(self) -> None:
        """Close the descriptors of unlinked segments; the kernel frees their pages by itself."""
        while self._unlinked:
            fd = self._unlinked.popitem()[1]
            if fd >= 0:
                os.close(fd)

    def _unlink_public(self, name: str, fd: int) -> bool:
        """Unlink the public name of a segment, unless somebody has it open or mapped."""
        if fd >= 0 and self.leases and inode_of(self.public(name)) == self._inodes[name]:
            return leases.unlink_if_alone(fd, self.public(name))
        return not self._in_use(name, fd)

    def _remove_links(self, name: str) -> None:
        for path in (self.public(name), self.path(name)):
            recycling.remove(self._inodes[name], [path])
            failpoints.hit("daemon.unlinking")

    # ---- names ---------------------------------------------------------------------------

    def adopt(self, name: str, inode: int, readers: frozenset[int], *, whole: bool) -> None:
        """Take over a segment of an earlier run; `whole`: both names lead to it, else one."""
        self._inodes[name] = inode
        if readers:
            self._sharing.found(name, readers)
        # Without room for the other link, the segment is adopted all the same.
        with contextlib.suppress(ArraydError):
            if not whole:
                self._relink(name)

    def _forget(self, name: str) -> None:
        self._inodes.pop(name, None)
        self._sharing.forget(name)

    def disown(self, name: str) -> None:
        """Forget a segment that was adopted, and leave its files as they are."""
        self._forget(name)

    def public(self, name: str) -> str:
        """Return the path by which clients open a segment."""
        return f"{layout.SHM}/{name}"

    def path(self, name: str) -> str:
        """Return the path by which the daemon and its loader processes open a segment."""
        return f"{self.directory}/{name}"

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        fd = self._open(name, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int) -> int:
        """Open a segment, whichever of its names is left."""
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        if inode_of(self.path(name)) != self._inodes.get(name) and not self._relink(name):
            raise FileNotFoundError(errno.ENOENT, "somebody removed it", self.public(name))
        return os.open(self.path(name), flags)

    def _open_for_test(self, name: str) -> int:
        """Return a descriptor for the lease test; -1: it cannot be opened."""
        try:
            failpoints.hit("daemon.asking")
            return self._open(name, os.O_RDWR)
        except (OSError, ArraydError):
            return -1

    def _in_use(self, name: str, fd: int) -> bool:
        """Say whether anybody but us, at `fd` (or -1), has a segment open or mapped."""
        if fd >= 0:
            return self.leases and not leases.alone(fd)
        try:
            return self._users.is_used(name)
        except OSError:
            return True  # unknown: /proc cannot be read now

    def _relink(self, name: str) -> bool:
        """Link both names of a segment to it, whichever was left; say whether one was.

        Raises
        ------
        NoRoom, DaemonError
            One was, and the other cannot be linked.
        """
        self._regain()
        inode = self._inodes.get(name)
        names = self.path(name), self.public(name)
        left = [path for path in names if inode is not None and inode_of(path) == inode]
        for path in names if left else ():
            if path not in left:
                link_over(left[0], path)
        return bool(left)

    def _regain(self) -> None:
        if not self._scope.regain():
            raise DaemonError("Another daemon serves this endpoint now. Ask again.")
