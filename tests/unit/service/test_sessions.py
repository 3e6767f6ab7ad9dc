"""Each answer of the core, as the client gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from arrayd.errors import NoRoom
from arrayd.wire.grant import Grant, Spec
from arrayd_server.core.effects import AskAgain, IntroduceYourself, Result, Welcome
from arrayd_server.service.sessions import MAX_KICKED, Sessions, message

GRANT = Grant("arrayd-x-1", Spec((4,), "<f8", "C", 8), 3, "/a.npy")
SPEC = {"shape": (4,), "descr": "<f8", "order": "C", "itemsize": 8}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            GRANT,
            {
                "ok": {
                    "segment": "arrayd-x-1",
                    "spec": SPEC,
                    "seq": 3,
                    "source": "/a.npy",
                    "sealed": True,
                    "window": False,
                    "lost": 0,
                }
            },
        ),
        (
            NoRoom("full", needed=7),
            {"err": {"code": "NoRoom", "message": "full", "details": {"needed": 7}}},
        ),
        (Welcome({"arrayd-x-1": 4}), {"ok": {"pid": 1, "run": "r", "holds": {"arrayd-x-1": 4}}}),
        (IntroduceYourself(), {"hello": True}),
        (AskAgain(), {"again": True}),
        (Result({"resident": True}), {"ok": {"resident": True}}),
        (Result({"hello": True, "again": True}), {"ok": {"hello": True, "again": True}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_answer_says(answer: Any, said: dict[str, Any]) -> None:
    """Each kind has its own key, whatever the fields within are called."""
    assert message(answer, {"pid": 1, "run": "r"}) == said
    assert list(message(answer, {})) == list(said)


def test_kicked_sessions_are_forgotten_at_last() -> None:
    """Those that never come back are remembered up to a number, the latest of them."""
    sessions: Any = SimpleNamespace(_kicked={}, end=lambda nonce, now: [])
    for number in range(MAX_KICKED + 5):
        Sessions.kick(sessions, number.to_bytes(16, "big"), 0.0)
    assert len(sessions._kicked) == MAX_KICKED
    last, first = ((MAX_KICKED + 4).to_bytes(16, "big"), bytes(16))
    assert list(Sessions.statable(sessions, last, ["a"])) == []
    assert list(Sessions.statable(sessions, last, ["a"])) == ["a"]  # it has come back by then
    assert list(Sessions.statable(sessions, first, ["a"])) == ["a"]
