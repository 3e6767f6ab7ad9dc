"""``health`` where a rule is broken, which no daemon can be made to do from outside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from arrayd.wire.protocol import Request
from arrayd_server.core.effects import Reply, Result
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.service import operators


def test_a_broken_rule_is_named() -> None:
    """The first that does not hold; an empty text where all do."""
    registry = Registry("arrayd-x-{}".format, 1 << 20)
    service: Any = SimpleNamespace(registry=registry, streams=Streams(registry, bytes(16), 1))

    def broken() -> object:
        (reply,) = operators.health(service, Request(1, bytes(16), "health", {}), 0.0)
        assert isinstance(reply, Reply)
        assert isinstance(reply.body, Result)
        return reply.body.fields["broken"]

    assert broken() == ""
    registry.blocks.charged += 5
    assert broken() == "rule 1: charge book"
