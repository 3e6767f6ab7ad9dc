"""The name of the file in which the manifest of a dataset is saved tells what it is of."""

from __future__ import annotations

import os
import re

SUFFIX = ".manifest"
"""Of the file that a manifest is saved in."""

# Compiled when it is used, as in `bytesize`.
_NAME = rf"([A-Za-z0-9_.+-]+)\.[0-9a-f]{{16}}{re.escape(SUFFIX)}"


def checked_name(text: str) -> str:
    """Return the name of a manifest's file, which was read from another file.

    Raises
    ------
    ValueError
        It is none.
    """
    if not re.fullmatch(_NAME, text):
        raise ValueError(f"{text!r:.80} is no name of a manifest")
    return text


def label_of(path: str) -> str:
    """Return what the manifest at `path` is of, in words: its first file, and how many more.

    Of a manifest that somebody has named otherwise it is the name of its file.
    """
    name = os.path.basename(path)
    found = re.fullmatch(_NAME, name)
    return found[1] if found else name
