"""BLAKE2b without OpenSSL, which `hashlib` loads as well: that takes a new process 4 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        from _blake2 import blake2b
    except ImportError:  # another Python than CPython, or one that has it elsewhere
        from hashlib import blake2b

__all__ = ["blake2b"]
