"""Compile the C files of arrayd, where there is a C compiler; without one all is done in Python.

pip does this when it builds arrayd (``server/build_hook.py``). After a compiler was installed, or
a C file changed, this file does it again, if it is run as a program: each library is made next to
its C file. The arguments are C files, or folders that have some.

Nothing but the standard library is imported: the environment in which pip builds has no more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = (
    *("-O3", "-std=c11", "-fPIC", "-shared"),
    *(
        "-ffp-contract=off",
        "-fno-fast-math",
    ),  # whatever CC says: sums are rounded as IEEE 754 has it
    "-Werror=implicit-function-declaration",  # a C library without strtod_l: no guess at its type
)


SUFFIX = ".so.1"
"""Of what a C file is compiled to, beside it and with its name.

The number is that of the functions in all of them: one that an older arrayd left behind is not
loaded. And a name that ends with ``.so`` would be a Python module's.
"""


def library(source: Path) -> Path:
    """Return what a C file is compiled to."""
    return source.with_suffix(SUFFIX)


def sources(*places: Path) -> list[Path]:
    """Return the C files among some files, and below some folders."""
    found = {one for place in places for one in (place, *place.rglob("*.c"))}
    return sorted(one for one in found if one.suffix == ".c" and one.is_file())


def compile_library(source: Path, target: Path) -> str:
    """Compile a C file to `target`; return why that was not possible, or "" if it was."""
    import shlex  # here, for every client imports this, and compiles nothing
    import shutil
    import subprocess
    import tempfile
    from pathlib import Path

    command = (
        shlex.split(os.environ.get("CC", ""))
        or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    )
    if not command or shutil.which(command[0]) is None:
        return "there is no C compiler (cc, gcc, clang or what CC= names)"
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            words = [*command, *OPTIONS, "-o", str(made), str(source), "-lm"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode or not made.exists():
                return f"{shlex.join(words)} said: {done.stderr.strip() or done.returncode}"
            os.replace(made, target)  # whoever has the old one loaded keeps it
    except OSError as error:
        return str(error)
    return ""


def main(arguments: Iterable[str]) -> str:
    """Compile the C files that are named; return what went wrong, or ""."""
    from pathlib import Path

    named = sources(*map(Path, arguments))
    problems = [compile_library(source, library(source)) for source in named]
    return "\n".join(filter(None, problems)) if named else "name C files, or folders that have some"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or None)
