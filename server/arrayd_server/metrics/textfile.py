"""The metrics as a file for node_exporter's textfile collector: replaced whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAME = "arrayd.prom"


class Textfile:
    """Writes ``arrayd.prom`` in a directory; in a thread, for a file server may be slow.

    Parameters
    ----------
    directory
        Has to be there, and to be writable for the daemon.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._draft = directory / f"{NAME}.{os.getpid()}"  # the collector reads *.prom alone

    def write(self, text: bytes) -> None:
        """Put this text in the place of the last one.

        Raises
        ------
        OSError
            It cannot be written; what was there is still there.
        """
        try:
            with open(self._draft, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # node_exporter has a user of its own
                file.write(text)
            os.replace(self._draft, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                self._draft.unlink()
            raise

    def remove(self) -> None:
        """Remove it: numbers of a daemon that has ended would look like those of one that lives."""
        with contextlib.suppress(OSError):
            self.path.unlink()
