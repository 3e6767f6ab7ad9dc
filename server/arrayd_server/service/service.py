"""What requests are served with, as one value that every handler gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from arrayd_server.core.model import Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.service import status_report
from arrayd_server.service.health import HealthCheck
from arrayd_server.service.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Service:
    """What requests are served with.

    Parameters
    ----------
    update_headroom
        Measures what the machine still has to give, before a block is asked for.
    stop
        Ends the daemon, as the signal of that number does.
    facts
        Returns what a status says of the daemon as it is now.
    caller
        Returns who is asking, by the session of the request: it need not be open.
    health
        Looks whether the rules hold.
    serves_others
        Says whether other users than the daemon's own are served.
    """

    registry: Registry
    streams: Streams
    sessions: Sessions
    update_headroom: Callable[[], None]
    stop: Callable[[int], None]
    facts: Callable[[], status_report.Facts]
    caller: Callable[[bytes], Peer]
    health: HealthCheck
    serves_others: Callable[[], bool] = lambda: False
