"""The interpreter and this project, where every user can reach them.

Developers' Pythons lie in homes, and a test that becomes another user can start no program there.
In a mount namespace of its own such a home is covered by an empty one that lets everybody through,
with the very same folders in it.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import arrayd
import arrayd_server

_COVER = """
mount --bind "$home" /mnt && mount -t tmpfs -o mode=755 tmpfs "$home"
for name in $names; do mkdir "$home/$name" && mount --bind "/mnt/$name" "$home/$name"; done
umount /mnt
"""


def open_python() -> tuple[str, ...]:
    """Return a wrapper of commands, in whose mount namespace everybody reaches Python."""
    script = "".join(
        f"home='{home}'; names='{' '.join(sorted(names))}'\n{_COVER}"
        for home, names in _closed().items()
    )
    return ("unshare", "-m", "sh", "-ec", f'{script}exec "$@"', "sh") if script else ()


def _closed() -> dict[Path, set[str]]:
    """Return the folders that others cannot pass, and what is needed in each."""
    found: dict[Path, set[str]] = {}
    needed = (sys.executable, sys.prefix, sys.base_prefix, arrayd.__file__, arrayd_server.__file__)
    for path in {Path(path) for path in needed} | {Path(sys.executable).resolve()}:
        for folder in reversed(path.parents):
            if not stat.S_IMODE(os.stat(folder).st_mode) & stat.S_IXOTH:
                found.setdefault(folder, set()).add(path.relative_to(folder).parts[0])
                break
    return found
