"""Who holds up a stream, and for how long it may.

A ring is *stuck* when everything planned for it has been read, so many of its slots are still
needed that nothing more can be planned (all, unless its windows are whole), and a consumer waits
for more. Those at the lowest position hold it up. They have their grace time, counted from when
each last moved or got something to move on with; any movement starts it anew.
So a consumer that is merely slower than the others sets the *pace* for all, and one that stands
still does so for its grace time at most.
"""

from __future__ import annotations

import math

from arrayd_server.core.stream_model import Consumer, SharedStream


def blockers(stream: SharedStream) -> list[Consumer]:
    """Return the consumers that hold up a stream; none, unless its ring is stuck."""
    windows = stream.ring.windows
    if stream.barrier is not None or windows.in_flight:
        return []
    if not any(map(_starves, stream.attached())):  # cheap: this is asked after every event
        return []
    needed = stream.needed()
    low = min(needed.values())
    if windows.has_room(low):
        return []
    return [stream.consumers[number] for number, at in needed.items() if at == low]


def _starves(consumer: Consumer) -> bool:
    """Say whether a consumer waits; one that is not stuck would have been answered."""
    return consumer.waiting is not None and consumer.wants


def due(stream: SharedStream) -> float:
    """When those who hold up a stream have had their time; inf: nobody does, or it is seen to."""
    behind = blockers(stream)
    if not behind or stream.following is not None:
        return math.inf
    return max(stream.retry_at, *(consumer.moved + consumer.grace for consumer in behind))
