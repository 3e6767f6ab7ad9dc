"""The files below a folder, and the list of them that `arrayd.datasets.file_list` reads."""

from __future__ import annotations

import csv
import errno
import fnmatch
import io
import os
from collections.abc import Sequence

from arrayd.datasets.file_list import DELIMITERS, PATH_COLUMNS
from arrayd.errors import AccessDenied, BadFile, SourceNotFound, SpecMismatch
from arrayd.gather.replace_file import replacing

_Place = tuple[int, int]  # device and inode of a folder


def write_list(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    label_from: str | None = None,
    pattern: str = "**/*",
    suffixes: Sequence[str] | None = None,
) -> int:
    """Write the list of the files below `folder`, in order of their paths; return how many.

    Hidden files and folders are left out. Links to folders are followed, but for those into a
    folder that they lie in. The list is replaced by a whole one, or stays as it is.

    Parameters
    ----------
    folder, output
        The paths are relative to the list's own folder if `folder` lies in it, else absolute.
    label_from
        ``"parent"``: the name of a file's folder is its label, in a column of this name.
    pattern
        Which paths below `folder`: ``*``, ``?`` and ``[…]`` within a name, ``**`` for folders.
    suffixes
        Which suffixes, such as ``[".png", ".jpg"]``, upper case or lower; None: all.

    Raises
    ------
    SpecMismatch
        An option is wrong.
    SourceNotFound, AccessDenied, BadFile
        `folder` is none, or none of its files is looked for.
    AccessDenied, ArraydError
        The list cannot be written.
    """
    if label_from not in (None, "parent"):
        raise SpecMismatch(f"label_from={label_from!r}: it can be 'parent', or None.")
    place, root = os.path.abspath(os.fspath(output)), os.path.abspath(os.fspath(folder))
    endings = _endings(suffixes)
    names = [
        name
        for name in below(root)
        if name.lower().endswith(endings) and fits(name, pattern) and not _is(root, name, place)
    ]
    if not names:
        looked_for = f"{pattern!r}" + (f" that end in {', '.join(endings)}" if suffixes else "")
        raise BadFile(
            f"{root} has no files {looked_for} (hidden ones do not count), so no list was written."
        )
    prefix = os.path.join(_seen_from(root, os.path.dirname(place)), "")
    labels = [_label(root, name) for name in names] if label_from else None
    with replacing(place) as fresh, open(fresh, "wb") as file:
        text = _written([prefix.removeprefix("./") + name for name in names], labels)
        file.write(text.encode("utf-8", "surrogateescape"))
    return len(names)


def _endings(suffixes: Sequence[str] | None) -> tuple[str, ...]:
    """Return suffixes in lower case, each with its dot; of None that which all names have."""
    if suffixes is None:
        return ("",)
    endings = [suffixes] if isinstance(suffixes, str) else list(suffixes)
    if not endings or not all(isinstance(one, str) and one.strip(".") for one in endings):
        raise SpecMismatch(f"suffixes={suffixes!r}: they are texts, such as ['.png', '.jpg'].")
    return tuple("." + one.lower().removeprefix(".") for one in endings)


def _is(root: str, name: str, place: str) -> bool:
    """Say whether a file below `root` is `place`: what the list was before is no sample of it."""
    folder, last = os.path.split(place)
    if os.path.basename(name) != last:
        return False
    within = os.path.dirname(os.path.join(root, name))
    return os.path.realpath(within) == os.path.realpath(folder)  # links to folders are followed


def _seen_from(folder: str, list_folder: str) -> str:
    relative = os.path.relpath(folder, list_folder)
    return folder if relative.split(os.sep)[0] == os.pardir else relative


def _label(root: str, name: str) -> str:
    return os.path.basename(os.path.dirname(os.path.join(root, name)))


def _written(paths: Sequence[str], labels: Sequence[str] | None) -> str:
    """Return the text of a list from which `read_list` reads just this."""
    if labels is None and not any("\n" in path or "\r" in path for path in paths):
        return "".join(f"{_safe(path)}\n" for path in paths)
    text = io.StringIO()
    # Quote all: csv leaves a lone "\r" unquoted, and a header of one column does not show the
    # delimiter.
    everything = labels is None or any("\r" in path for path in paths)
    writer = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL
    )
    if labels is None:
        writer.writerows([PATH_COLUMNS[:1], *((path,) for path in map(_safe, paths))])
    else:
        writer.writerow((PATH_COLUMNS[0], "label"))
        writer.writerows(zip(map(_safe, paths), labels, strict=True))
    return text.getvalue()


def _safe(path: str) -> str:
    """Return a path that is not taken for a comment, a quote, a blank line or a header."""
    odd = path[0] in '#"' or path.isspace() or path[0].isspace() or _is_header(path)
    return f"./{path}" if odd else path


def _is_header(line: str) -> bool:
    return any(
        word.strip().strip('"').lower() in PATH_COLUMNS
        for delimiter in DELIMITERS
        for word in line.split(delimiter)
    )


def below(root: str) -> list[str]:
    """Return the regular files below a folder, relative to it, in order of their names.

    What is hidden (its name begins with a dot) is left out. A link to a folder is followed unless
    it leads to one that it lies in; one that leads nowhere is left out.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
        The folder, or one below it, cannot be read.
    """
    names: list[str] = []
    waiting: list[tuple[str, tuple[_Place, ...]]] = [("", ())]
    while waiting:
        prefix, above = waiting.pop()
        path = os.path.join(root, prefix)
        try:
            info = os.stat(path)
            place = (info.st_dev, info.st_ino)
            if place in above:
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name[:1] == ".":
                        continue
                    path = entry.path
                    if _leads_nowhere(entry):
                        continue
                    if entry.is_dir():
                        waiting.append((f"{prefix}{entry.name}/", (*above, place)))
                    elif entry.is_file():
                        names.append(prefix + entry.name)
        except OSError as error:
            raise _explained(path, error) from None
    names.sort()
    return names


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Say whether it is a link to itself, or to one that leads back to it."""
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return True
    return False


def _explained(path: str, error: OSError) -> AccessDenied | SourceNotFound | BadFile:
    if isinstance(error, FileNotFoundError):
        return SourceNotFound(f"{path}: no such folder.")
    if isinstance(error, NotADirectoryError):
        return BadFile(f"{path} is no folder.")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{path}: you may not look into this folder.")
    return BadFile(f"{path}: this folder cannot be read: {error.strerror}.")


def fits(name: str, pattern: str) -> bool:
    """Say whether a relative path is one that a pattern means: ``**`` is any number of folders."""
    return pattern in ("**/*", "**") or _fits(name.split("/"), pattern.split("/"))


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        rest = patterns[1:] or ["*"]
        return any(_fits(names[at:], rest) for at in range(len(names)))
    if not names or not fnmatch.fnmatchcase(names[0], patterns[0]):
        return False
    return _fits(names[1:], patterns[1:])
