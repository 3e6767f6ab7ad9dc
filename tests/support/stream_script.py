"""Steps that several tests of streams begin with."""

from __future__ import annotations

from typing import Any

from tests.support.stream_clients import Client
from tests.support.stream_world import StreamWorld


def opened(world: StreamWorld, nonce: bytes = b"a", **how: Any) -> Client:
    """Open a stream, and let its ring and reader come up."""
    client = world.open(nonce, **how)
    world.make_all()
    assert client.state == "open", client.error
    return client


def stuck(world: StreamWorld, grace: float = 30.0) -> tuple[Client, Client]:
    """Return a consumer that waits and one that holds it up since now."""
    fast, slow = opened(world, b"a", grace=grace), opened(world, b"b", grace=grace)
    world.go(fast, 9)
    assert (fast.cursor, fast.waiting is not None, slow.cursor) == (8, True, 0)
    return fast, slow
