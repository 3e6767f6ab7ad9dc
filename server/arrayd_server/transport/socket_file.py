"""The file of the socket that we listen on: is it still ours, and what may be done with it.

Whoever may write to its directory can remove it or put another daemon's there.
"""

from __future__ import annotations

import contextlib
import os


class SocketFile:
    """The file that a socket of ours was bound to.

    Parameters
    ----------
    path
        Where it is.
    passed
        It was made by somebody else, by a socket unit: that one sets its mode and removes it.
    """

    def __init__(self, path: str, *, passed: bool) -> None:
        self.path = path
        self._passed = passed
        self._stat = os.stat(path)

    def is_ours(self) -> bool:
        """Say whether what is there is what we have bound."""
        try:
            return os.path.samestat(os.stat(self.path), self._stat)
        except FileNotFoundError:
            return False

    def set_mode(self, mode: int) -> None:
        """Let those connect whom `mode` lets write."""
        if not self._passed and self.is_ours():
            os.chmod(self.path, mode)

    def remove(self) -> None:
        """Remove it, if it is ours."""
        if not self._passed and self.is_ours():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
