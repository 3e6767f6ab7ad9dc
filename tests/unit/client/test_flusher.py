"""`ReleaseFlusher`: what it asks, and when it is quiet, by a connection that only counts."""

from __future__ import annotations

from typing import Any

import pytest

from arrayd.errors import AccessDenied, ArraydError, DaemonLost, NoRoom
from arrayd.session import flusher
from arrayd.session.call import Answers
from arrayd.session.flusher import FLUSH_EVERY, ReleaseFlusher


class Refusing:
    """A connection whose daemon answers each question with an error, or with nothing in time."""

    def __init__(self, error: type[ArraydError] | None) -> None:
        self.error = error
        self.pidfd, self.unknown_since = -1, 7.0
        self.asked = self.nudged = 0

    def ask(self, *_: Any, **__: Any) -> Answers:
        """Raise the error."""
        self.asked += 1
        if self.error is not None:
            raise self.error("so it is")
        return Answers({}, 0, False)

    def nudge(self) -> None:
        """Count."""
        self.nudged += 1


class Releases:
    """A session that counts how often its releases are sent."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self) -> None:
        """Count."""
        self.sent += 1


def flushing(connection: Any, releases: Releases) -> ReleaseFlusher:
    """Return a flusher whose thread is not started: the test does its steps."""
    return ReleaseFlusher(connection, releases.send, lambda: True)


@pytest.mark.parametrize("kind", [NoRoom, AccessDenied])
def test_a_refused_hello_makes_it_quiet(kind: type[ArraydError]) -> None:
    """It asks once, says no hello by itself, and sends releases as soon as we are welcomed."""
    connection, releases = Refusing(kind), Releases()
    one = flushing(connection, releases)
    one.drain_late_answers()
    one._flush()
    for _ in range(3):
        one.drain_late_answers()  # the user's calls go on, and are refused
        one._flush()
        assert one._pause() == FLUSH_EVERY
    assert (connection.asked, connection.nudged, releases.sent) == (1, 1, 1)
    connection.unknown_since = 0.0  # one of these calls was welcomed
    one._flush()
    assert (one._closing, connection.nudged, releases.sent) == (False, 2, 2)
    connection.unknown_since = 8.0  # and then this daemon ends
    assert one._pause() < FLUSH_EVERY
    one._flush()
    assert releases.sent == 3


@pytest.mark.parametrize("error", [DaemonLost, None])
def test_a_silent_daemon_is_asked_again(error: type[ArraydError] | None) -> None:
    """Soon, and as long as late answers may come."""
    connection, releases = Refusing(error), Releases()
    one = flushing(connection, releases)
    one.drain_late_answers()
    for count in range(1, 4):
        one._flush()
        assert (connection.asked, one._pause()) == (count, flusher._RETRY)
