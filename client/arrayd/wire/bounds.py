"""How large a free-form value in a request may be: a source, or the description of a dtype."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

_MAX_DEPTH = 24
"""Levels of nesting of a source or dtype; a structured dtype of structures needs some."""

MAX_NODES = 10_000
"""Values in a source or dtype."""

MAX_TEXT = 64 << 10
"""Characters in a source or dtype: a path has at most 4,096 bytes, a field some."""

MAX_DESCR_NODES, MAX_DESCR_TEXT = 9_000, 56 << 10
"""The same of a dtype that a client asks with: a path and options stand beside it."""


def describable(descr: Any) -> bool:
    """Return whether a request can hold this description of a dtype."""
    return modest(descr, MAX_DESCR_NODES, MAX_DESCR_TEXT)


def modest(value: Any, max_nodes: int = MAX_NODES, max_text: int = MAX_TEXT) -> bool:
    """Return whether a free-form value is no larger or deeper than real ones.

    Without recursion, for a peer may send anything.
    """
    depth = nodes = text = 0
    level = [value]
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        text += sum(len(node) for node in level if isinstance(node, (str, bytes)))
        if depth > _MAX_DEPTH or nodes > max_nodes or text > max_text:
            return False
        level = [child for node in level for child in _children(node)]
    return True


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return itertools.chain(node.keys(), node.values())
    return node if isinstance(node, (list, tuple)) else ()
