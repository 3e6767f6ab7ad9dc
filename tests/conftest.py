"""What all tests share: the leak guard, and pytest's own tester for testing it."""

from __future__ import annotations

from tests.guard import leaves_nothing, session_leaves_nothing

__all__ = ["leaves_nothing", "session_leaves_nothing"]

pytest_plugins = ("pytester",)
