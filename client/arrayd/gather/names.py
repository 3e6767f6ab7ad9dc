"""Names of datasets for many sources: short, and longer only where two would be the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from arrayd.errors import SpecMismatch
from arrayd.source import Source


@dataclass(slots=True)
class _Name:
    """The name of one source: some of its folders, its file, its member."""

    folders: tuple[str, ...]
    file: str
    leaf: str  # the file's name, with its suffix or without
    member: tuple[str, ...]
    depth: int = 0  # how many of the folders are part of the name

    @classmethod
    def of(cls, source: Source) -> _Name:
        folder, file = os.path.split(source.path)
        member = tuple(part for part in (source.member or "").split("/") if part not in ("", "."))
        folders = tuple(part for part in folder.split("/") if part)
        return cls(folders, file, _stem(file), member)

    @property
    def parts(self) -> tuple[str, ...]:
        shown = self.folders[len(self.folders) - self.depth :]
        return (*shown, self.leaf, *self.member)

    def lengthen(self) -> bool:
        """Add one more folder; False: there is none."""
        longer = self.depth < len(self.folders)
        self.depth += longer
        return longer


def dataset_names(sources: Sequence[Source]) -> list[str]:
    """Return a name for each source: its file without suffix, then its member if it has one.

    Names that clash get the parent folder in front, as a group, and more folders if need
    be. Files of one folder that differ in the suffix alone keep it. A name cannot be both
    a dataset and a group, as in HDF5.

    Parameters
    ----------
    sources
        Different files or members; none of them a published block.

    Returns
    -------
    list of str
        Different names, parts joined by ``/``.

    Raises
    ------
    SpecMismatch
        Not even the whole paths differ: one member is spelled in two ways.
    """
    names = [_Name.of(source) for source in sources]
    _keep_suffixes(names)
    while clashing := _clashing(names):
        longer = [name.lengthen() for name in clashing]
        if not any(longer):  # whole paths differ, as they do for the file system
            return _whole(names, sources)
    return ["/".join(name.parts) for name in names]


def _whole(names: Sequence[_Name], sources: Sequence[Source]) -> list[str]:
    for name in names:
        name.depth, name.leaf = len(name.folders), name.file
    clashing = {id(name) for name in _clashing(names)}
    if clashing:
        pairs = zip(names, sources, strict=True)
        same = " and ".join(repr(str(source)) for name, source in pairs if id(name) in clashing)
        raise SpecMismatch(f"{same} would have one name in the file. Name each array once.")
    return ["/".join(name.parts) for name in names]


def _stem(file: str) -> str:
    """Return a file's name without its last suffix: ``s1.cov`` of ``s1.cov.txt(.gz)``."""
    stem, suffix = os.path.splitext(file)
    return os.path.splitext(stem)[0] if suffix.lower() == ".gz" else stem


def _keep_suffixes(names: Sequence[_Name]) -> None:
    count = Counter((name.folders, name.parts) for name in names)
    for name in [name for name in names if count[name.folders, name.parts] > 1]:
        name.leaf = name.file


def _clashing(names: Sequence[_Name]) -> list[_Name]:
    """Return the names that others have too, or that are groups of others."""
    count = Counter(name.parts for name in names)
    groups = {parts[:n] for parts in count for n in range(1, len(parts))}
    return [name for name in names if count[name.parts] > 1 or name.parts in groups]
