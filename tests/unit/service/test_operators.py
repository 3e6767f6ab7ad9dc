"""``health`` where a rule is broken, which no daemon can be made to do from outside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from arrayd.wire.requests import Request
from arrayd_server.core.effects import Reply, Result
from arrayd_server.core.model import Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.service import operators
from arrayd_server.service.health import FRESH, HealthCheck


def test_a_broken_rule_is_named() -> None:
    """The first that does not hold; an empty text where all do."""
    registry = Registry("arrayd-x-{}".format, 1 << 20)
    health = HealthCheck(registry, Streams(registry, bytes(16), 1))
    who = Peer(7, 1)
    service: Any = SimpleNamespace(registry=registry, health=health, caller=lambda _: who)

    def broken(now: float = 0.0) -> object:
        (reply,) = operators.health(service, Request(1, bytes(16), "health", {}), now)
        assert isinstance(reply, Reply)
        assert isinstance(reply.body, Result)
        return reply.body.fields["broken"]

    assert broken() == ""
    registry.blocks.charged += 5
    assert broken() == "rule 1: charge book"
    registry.blocks.charged -= 5
    who = Peer(60001, 2, foreign=True)  # may ask all the time, and has what was found last
    assert broken(0.1) == "rule 1: charge book"
    assert broken(FRESH + 0.1) == ""
