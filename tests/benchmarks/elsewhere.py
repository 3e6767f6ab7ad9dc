"""Peers in Pythons of their own: a folder of virtual environments, and what each can import.

Plasma needs pyarrow 11, NumPy 1.26 and Python ≤ 3.11: it cannot lie beside arrayd.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HAS = "import importlib, sys; print(importlib.import_module(sys.argv[1]).__name__)"
VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"

SOONEST, PATIENCE = 0.01, 20.0


class Pythons:
    """Interpreters that may have a peer: ours, and those of the virtual environments in a folder.

    Parameters
    ----------
    folder
        None: ours only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._all = [sys.executable]
        if folder is not None:
            self._all += [str(one) for one in sorted(folder.glob("*/bin/python"))]

    def having(self, module: str) -> str | None:
        """Return the first that can import a module."""
        for python in self._all:
            if _said(python, HAS, module) is not None:
                return python
        return None


def version(python: str, package: str) -> str:
    """Return the version of a package there."""
    return _said(python, VERSION, package) or "?"


def _said(python: str, code: str, word: str) -> str | None:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code, word], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None


@contextlib.contextmanager
def plasma_store(python: str, folder: Path, size: int) -> Iterator[str]:
    """Run a Plasma store of so many bytes; yield its socket.

    Raises
    ------
    RuntimeError
        It does not start.
    """
    socket = folder / "plasma"
    command = [str(Path(python).with_name("plasma_store")), "-m", str(size), "-s", str(socket)]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=null, stderr=null) as store:
        try:
            give_up = time.monotonic() + PATIENCE
            while not socket.exists():
                if store.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"{command[0]} did not start: {store.returncode}")
                time.sleep(SOONEST)
            yield str(socket)
        finally:
            store.terminate()
            store.wait()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket)
