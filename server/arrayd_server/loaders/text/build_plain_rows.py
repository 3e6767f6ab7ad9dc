"""Compile `plain_rows.c`, where there is a C compiler; without one text is read by numpy alone.

pip does this when it builds arrayd (``server/build_hook.py``). After a compiler was installed, or
the C file changed, this file does it again, next to itself, if it is run as a program.

Nothing but the standard library is imported: the environment in which pip builds has no more.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("plain_rows.c")

LIBRARY = SOURCE.with_name("plain_rows.so.1")
"""The number is that of the functions in it: one that an older arrayd left behind is not loaded.
And a name that ends with ``.so`` would be a Python module's."""

OPTIONS = (
    *("-O3", "-std=c11", "-fPIC", "-shared", "-ffp-contract=off"),
    "-Werror=implicit-function-declaration",  # a C library without strtod_l: no guess at its type
)


def compile_library(target: Path = LIBRARY) -> str:
    """Compile the parser to `target`; return why that was not possible, or "" if it was."""
    command = (
        shlex.split(os.environ.get("CC", ""))
        or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    )
    if not command or shutil.which(command[0]) is None:
        return "there is no C compiler (cc, gcc, clang or what CC= names)"
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            words = [*command, *OPTIONS, "-o", str(made), str(SOURCE), "-lm"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode or not made.exists():
                return f"{shlex.join(words)} said: {done.stderr.strip() or done.returncode}"
            os.replace(made, target)  # whoever has the old one loaded keeps it
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(compile_library() or None)
