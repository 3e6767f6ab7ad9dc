"""What must hold at the end of each round of the soak: the books agree with the world."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import arrayd
from arrayd.common.bytesize import parse_bytes
from arrayd.results.status import BlockStatus, DaemonStatus
from arrayd_server.segments.scope import Scope
from tests.support.daemons import Daemon

SETTLED = 12.0
"""Seconds in which deaths are noticed, orphans end, releases arrive and pages are freed."""

LENT = 65.0
"""Seconds after which what is only lent makes room."""

_OWN_PAGES = 1 << 14  # bytes of a segment besides its data, at most

_SLACK = {"descriptors": 3, "threads": 2, "RssAnon": 4 << 20}  # its 2 threads start when needed
"""What the daemon may have more of than after its first round: the noise of an allocator."""

MOST_CHILDREN = 5
"""Of a daemon with ``--workers 2``: loaders, two that fill and two for headers; the fork server."""


@dataclass
class Audit:
    """Looks at the daemon, /dev/shm and the processes that live.

    Parameters
    ----------
    daemon, client
        Whose books these are; the client is the soak's own.
    """

    daemon: Daemon
    client: arrayd.Client
    violations: list[str] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)  # the daemon, after it warmed up
    last: dict[str, int] = field(default_factory=dict)
    peak: int = 0  # bytes of the daemon's own, ever

    def holders(self, answers: Mapping[int, dict[str, Any]]) -> None:
        """See that holds and sessions are exactly those of the actors that live.

        What a program held before it called exec may still be in the books: it goes when
        room is needed (rule 2).
        """
        held = {(pid, segment) for pid, answer in answers.items() for segment in answer["holds"]}
        reborn = _reborn(answers)

        def wrong(status: DaemonStatus) -> str:
            said = {(who.pid, b.segment) for b in status.blocks for who in b.holders}
            pids = {session.pid for session in status.sessions} - {os.getpid()}
            more = {(pid, segment) for pid, segment in said - held if pid not in reborn}
            if held - said or more:
                return f"held, not said: {held - said}; said, not held: {more}"
            return "" if pids == set(answers) else f"sessions of {pids}, alive are {set(answers)}"

        self._settle("holds", wrong)

    def books(self, answers: Mapping[int, dict[str, Any]]) -> None:
        """See that nothing is held, and that /dev/shm has exactly what the daemon says.

        Then take back what was published to be kept; nothing else may be left of that kind.
        """
        reborn = _reborn(answers)
        self._settle("rest", lambda status: _unrest(status, reborn))
        self._settle("/dev/shm", self._mismatch)
        self._evict_kept()
        self._settle("publications", lambda status: _published(status, reborn))

    def all_room(self, answers: Mapping[int, dict[str, Any]], *, wait_for_lent: bool) -> None:
        """See that the whole budget can be had again: nothing is charged that nobody has."""
        reborn = _reborn(answers)
        if wait_for_lent:
            self._settle("lent", lambda _: self._no_room(besides=0), LENT)
        if complaint := self._no_room() and self._no_room():
            self.violations.append(complaint)
        # Once more: a lend that ended meanwhile may have given the room, but a stale hold has gone.
        self._evict_kept()
        self._settle("free", lambda status: _published(status, reborn))

    def _no_room(self, besides: int | None = None) -> str:
        """Take all room there is `besides` what is lent, or say why not.

        What is kept, but held by a program that is no more, can be evicted after the first try.
        """
        self._evict_kept()
        status = self.client.status()
        room = status.budget - (_lent(status) if besides is None else besides) - _OWN_PAGES
        try:
            self.client.put(np.zeros(room, np.uint8), timeout=8)
        except arrayd.NoRoom as error:
            return f"{room} bytes should be free: {error}\n{self.client.status()}"
        return ""

    def measure(self, *, actors: int, warm: bool) -> None:
        """Take note of what the daemon has; once `warm`, see that it has not grown."""
        found: dict[str, int] = {}

        def grown(_: DaemonStatus) -> str:
            found.update(_usage(self.daemon.pid, actors))
            if not warm:
                return ""
            bounds = {kind: self.first[kind] + slack for kind, slack in _SLACK.items()}
            bounds["children"] = MOST_CHILDREN  # they come as they are needed, not all at once
            more = [kind for kind, bound in bounds.items() if found[kind] > bound]
            return f"{more} of the daemon grew from {self.first} to {found}" if more else ""

        self._settle("growth", grown)
        self.peak = max(self.peak, _peak(self.daemon.pid))
        self.last = found
        if not warm:
            self.first = found

    def log(self) -> int:
        """See that the daemon never failed; return the bytes that it sealed."""
        text = self.daemon.log
        for failure in list(re.finditer(r"Traceback|a bug in arrayd|Assertion", text))[:3]:
            self.violations.append(f"the daemon failed: …{text[failure.start() - 500 :][:2500]}")
        return sum(
            map(parse_bytes, re.findall(r" sealed arrayd-.*, (\S+ \S*B)$", text, re.MULTILINE))
        )

    def _evict_kept(self) -> None:
        """Take back what was published to be kept."""
        for block in self.client.status().blocks:
            if block.name is not None and block.state == "idle":
                self.client.evict(block=block.number)

    def _settle(
        self, what: str, wrong: Callable[[DaemonStatus], str], patience: float = SETTLED
    ) -> None:
        """Wait until nothing is wrong; take note of what is at the end."""
        deadline = time.monotonic() + patience
        while complaint := wrong(status := self.client.status()):
            if time.monotonic() > deadline:
                self.violations.append(f"{what}: {complaint}\n{status}")
                return
            time.sleep(0.05)  # between two looks

    def _mismatch(self, status: DaemonStatus) -> str:
        """Say in what /dev/shm differs from the books: names, second links, bytes."""
        books = {block.segment: block.size for block in status.blocks}
        names = set(self.daemon.segments)
        own = os.listdir(Scope(self.daemon.endpoint).directory)
        links = set(own) - {"index", "lock"}
        if not names == links == set(books):
            return f"/dev/shm has {sorted(names)}, links {sorted(links)}, books {sorted(books)}"
        pages = {name: os.stat(f"/dev/shm/{name}").st_blocks * 512 for name in names}
        if pages != books or sum(pages.values()) != status.charged:
            return f"{status.charged} bytes charged; pages {pages}, books {books}"
        return ""


def _reborn(answers: Mapping[int, dict[str, Any]]) -> set[int]:
    return {pid for pid, answer in answers.items() if answer["reborn"]}


def _is_stale(block: BlockStatus, reborn: set[int]) -> bool:
    """Say whether a block is held by nobody but programs that are no more."""
    return block.state in ("held", "writing") and {who.pid for who in block.holders} <= reborn


def _unrest(status: DaemonStatus, reborn: set[int]) -> str:
    busy = [b for b in status.blocks if b.state not in ("idle", "lent")]
    busy = [b for b in busy if not _is_stale(b, reborn)]
    return f"{len(busy)} blocks, {len(status.jobs)} jobs" if busy or status.jobs else ""


def _published(status: DaemonStatus, reborn: set[int]) -> str:
    loaded = [b.segment for b in status.blocks if b.path or b.members]
    left = [b for b in status.blocks if b.segment not in loaded and b.state != "lent"]
    return ", ".join(b.segment for b in left if not _is_stale(b, reborn))


def _lent(status: DaemonStatus) -> int:
    return sum(block.size for block in status.blocks if block.state == "lent")


def _usage(pid: int, actors: int) -> dict[str, int]:
    """Return what a daemon has besides a connection and a pidfd of each actor and loader."""
    children = len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")) - 2 * (actors + children),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "children": children,
        "RssAnon": _status_field(pid, "RssAnon"),
    }


def _peak(pid: int) -> int:
    return _status_field(pid, "VmHWM")


def _status_field(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
