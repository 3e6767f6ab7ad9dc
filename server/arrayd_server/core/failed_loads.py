"""The loads that failed last: what, why, and who asked. For an operator, and for the users."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arrayd.errors import ArraydError
from arrayd_server.core.model import Asker, Job, Nonce, Peer, Session, Stage

REMEMBERED = 200
"""How many are remembered, so that one user's do not hide all of another's soon."""

SHOWN = 10
"""How many of them a status names: the latest ones that its reader may see."""

MAX_ASKERS = 8
"""Processes that are named of one load."""


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A load, or a publication, that failed.

    Parameters
    ----------
    at
        The time.
    identity, error
        What it was to make, and what those who waited were told.
    askers
        Who waited, each with the identity by which it had asked where that matters (see
        `users.shown`), else None.
    """

    at: float
    identity: Any
    error: ArraydError
    askers: tuple[tuple[Peer, Any], ...]


class FailedLoads:
    """The latest of them."""

    def __init__(self) -> None:
        self._latest: deque[FailedLoad] = deque(maxlen=REMEMBERED)

    def note(
        self,
        job: Job,
        askers: Iterable[Asker],
        error: ArraydError,
        sessions: Mapping[Nonce, Session],
        now: float,
    ) -> None:
        """Remember that a job has failed for these; one that only looks at a file is no load."""
        if job.info or job.stage is Stage.AWAITING:
            return
        found: dict[int, tuple[Peer, Any]] = {}
        for to in askers:
            session, waiter = sessions.get(to.nonce), job.waiters.get(to)
            if session is not None and len(found) < MAX_ASKERS:
                found.setdefault(session.peer.pid, (session.peer, waiter and waiter.asked))
        self._latest.append(FailedLoad(now, job.identity, error, tuple(found.values())))

    def latest(self, uid: int | None = None) -> Iterator[FailedLoad]:
        """Yield the latest ones first: all, or those that processes of a user have asked for.

        To a user they are told by the identities by which it has asked, without who else has.
        """
        left = SHOWN
        for failed in reversed(self._latest):
            mine = failed if uid is None else _part(failed, uid)
            if mine is not None:
                yield mine
                left -= 1
            if not left:
                return


def _part(failed: FailedLoad, uid: int) -> FailedLoad | None:
    """Return what a user is told of a failed load; None: nothing."""
    askers = tuple(one for one in failed.askers if one[0].uid == uid)
    if not askers:
        return None
    asked = next((asked for _, asked in askers if asked is not None), failed.identity)
    error = asked.retold(failed.error, failed.identity)
    return FailedLoad(failed.at, asked, error, askers)
