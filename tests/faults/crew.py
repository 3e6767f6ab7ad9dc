"""The actors of a soak: started, stopped, killed, halted, asked, and buried."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.actor import Orders

HUNG = 60.0
"""Seconds in which an actor answers: longer than any timeout of what it does."""

_HIRED = 0.2  # of all times that one is missing

ROOT = Path(__file__).parents[2]


@dataclass(eq=False)
class Member:
    """One actor, the line to it, and the file it complains to."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    slot: int
    complaints: Path
    stopped_until: float = 0.0

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid


@dataclass
class Crew:
    """All actors.

    Parameters
    ----------
    endpoint
        Of their daemon.
    folder
        For their files.
    size
        How many there are to be.
    """

    endpoint: str
    folder: Path
    size: int
    chance: random.Random
    members: list[Member] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._letters = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in self._letters:
            end.setblocking(False)

    def close(self) -> None:
        """End what is left."""
        for member in self.members:
            member.process.kill()
            member.process.wait()
            member.line.close()
        for end in self._letters:
            end.close()

    def hire(self) -> None:
        """Start one more, if there are too few, but not all at once: that is half a second each."""
        if len(self.members) >= self.size or self.chance.random() > _HIRED:
            return
        slot = min(set(range(self.size)) - {member.slot for member in self.members})
        letters = (self._letters[0].fileno(), self._letters[1].fileno())
        seed = self.chance.randrange(1 << 30)
        orders = Orders(str(self.folder), slot, self.size, seed, letters)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.done["actors"] += 1
        complaints = self.folder / f"actor-{self.done['actors']}"
        with theirs, complaints.open("wb") as errors:
            process = subprocess.Popen(
                orders.command,
                cwd=ROOT,
                env={**os.environ, "ARRAYD_ENDPOINT": self.endpoint},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=letters,
            )
        self.members.append(Member(process, ours, slot, complaints))

    # ---- faults --------------------------------------------------------------------------

    def strike(self, number: int) -> None:
        """Send a signal to one of them."""
        if not self.members:
            return
        member = self.chance.choice(self.members)
        member.process.send_signal(number)
        if number == signal.SIGSTOP:
            self.done["stops"] += 1
            member.stopped_until = time.monotonic() + self.chance.uniform(0.05, 3)

    def resume(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose moment is over."""
        for member in self.members:
            if member.stopped_until and (all_of_them or time.monotonic() > member.stopped_until):
                member.process.send_signal(signal.SIGCONT)
                member.stopped_until = 0.0

    def bury(self) -> None:
        """See how those ended that have ended."""
        for member in [m for m in self.members if m.process.poll() is not None]:
            self._part_with(member)

    def _part_with(self, member: Member) -> None:
        self.members.remove(member)
        member.line.close()
        code = member.process.wait()
        complaints = member.complaints.read_text(errors="replace")
        member.complaints.unlink()
        if code == -signal.SIGKILL:
            self.done["killed"] += 1
        elif code == -signal.SIGTERM:
            self.done["terminated"] += 1
        elif code:
            complaints += f"\nactor {member.pid} ended with {code}"
        if complaints:
            self.violations.append(complaints[-4000:])

    # ---- orders --------------------------------------------------------------------------

    def order(self, what: str) -> dict[int, dict[str, Any]]:
        """Have all of them do something; return their answers by pid.

        Those that have died meanwhile are buried; one that does not answer shows where it
        hangs, and is ended.
        """
        for member in self.members:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                member.line.send(what.encode())
        deadline, answers = time.monotonic() + HUNG, {}
        for member in list(self.members):
            answer = self._answer(member, deadline)
            if answer is None:
                self._part_with(member)
            else:
                answers[member.pid] = json.loads(answer)
        return answers

    def go(self) -> None:
        """Let them act again."""
        for member in self.members:
            member.line.send(b"go")

    def dismiss(self, count: int) -> None:
        """Let some end as scripts do, and wait for it."""
        leaving = self.members[:count]
        for member in leaving:
            member.line.send(b"end")
        for member in leaving:
            try:
                member.process.wait(HUNG)
            except subprocess.TimeoutExpired:
                self._expose(member)
            self._part_with(member)

    def _answer(self, member: Member, deadline: float) -> bytes | None:
        """Return what an actor answers; None from one that has ended."""
        left = max(0.0, deadline - time.monotonic())
        if not select.select([member.line], [], [], left)[0]:
            self._expose(member)
            return None
        with contextlib.suppress(ConnectionResetError):
            answer = member.line.recv(1 << 20)
            if answer:
                return answer
        member.process.wait(HUNG)  # it is about to end
        return None

    def _expose(self, member: Member) -> None:
        """Have an actor that hangs show where, and end it."""
        member.process.send_signal(signal.SIGUSR2)
        time.sleep(0.5)  # to write it
        member.process.kill()
        member.process.wait()
        self.violations.append(f"actor {member.pid} hangs:\n{member.complaints.read_text()}")
