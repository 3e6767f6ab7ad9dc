"""The record of what other users than the daemon's asked for, and got or did not get.

One line each, of the logger ``arrayd_server.audit``: who, by the kernel's word, what of, and by
which rule. A user that causes more than anybody can read finds the rest counted: see `log_limit`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from arrayd.wire.grant import Grant
from arrayd_server import events
from arrayd_server.access.policy import Credentials

log = logging.getLogger("arrayd_server.audit")

_WORDS = 300
"""Characters of a path or a rule in one record."""


def granted(who: Credentials, pid: int, grants: Sequence[Grant]) -> None:
    """Record that a user was let in to a segment: for a file, and how many others beside it."""
    first, others = grants[0], len(grants) - 1
    about = events.GRANTED.about(uid=who.uid, pid=pid, block=first.segment, source=first.source)
    what = (who.uid, pid, first.segment, first.source)
    more = f" and {others} others" if others else ""
    log.info("granted uid=%d pid=%d segment=%s source=%r%s", *what, more, extra=about)


def refused(uid: int, pid: int, op: str, what: str, rule: str) -> None:
    """Record that a user was refused."""
    words = (what[:_WORDS], rule[:_WORDS])  # as they were sent: quoted, so that a line stays one
    about = events.REFUSED.about(uid=uid, pid=pid, source=words[0])
    log.warning("refused uid=%d pid=%d op=%s source=%r rule=%r", uid, pid, op, *words, extra=about)


def drained(uid: int, pid: int, *, on: bool) -> None:
    """Record that somebody wants nothing new to be begun, or takes that back."""
    what = "draining" if on else "no longer draining"
    log.info("%s uid=%d pid=%d", what, uid, pid, extra=events.DRAINING.about(uid=uid, pid=pid))


def kicked(uid: int, pid: int, target: int, owner: int, sessions: int, holds: int) -> None:
    """Record that somebody has ended the sessions of a process, and with them its holds."""
    whose = (target, owner, sessions, holds)
    log.info(
        "kicked uid=%d pid=%d: process %d of uid %d, sessions=%d holds=%d",
        *(uid, pid, *whose),
        extra=events.KICKED.about(uid=uid, pid=pid),
    )


def evicted(uid: int, pid: int, what: str) -> None:
    """Record that somebody has had blocks freed that nobody used."""
    what = what[:_WORDS]
    about = events.EVICTED.about(uid=uid, pid=pid, source=what)
    log.info("evicted uid=%d pid=%d source=%r", uid, pid, what, extra=about)
