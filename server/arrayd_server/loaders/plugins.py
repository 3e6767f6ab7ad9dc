"""Formats of other packages: entry points of the group `arrayd.loaders`, found when one is needed.

The name of an entry point is that of the format; its value is a module with `probe` and `fill`, as
in `base.py`, and ``SUFFIXES``, such as ``(".png", ".jpg")``. It runs in a loader process, in the
Python of the daemon. arrayd's own formats and their suffixes cannot be replaced. What is wrong with
a plug-in costs its own files alone, and the error names the package.

Entry points are listed when a format or suffix is asked for that arrayd does not have: it takes
some 50 ms, and the modules are imported to learn their suffixes.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.errors import ArraydError, LoadError, MissingDependency, SpecMismatch
from arrayd.source import BUILT_IN, FORMATS, Source
from arrayd_server.loaders.base import Chunks, LoadPlan, Part
from arrayd_server.loaders.validation import check_dtype, install

if TYPE_CHECKING:
    from importlib import metadata

GROUP = "arrayd.loaders"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point, and the package that it is from, for people."""

    entry: metadata.EntryPoint
    package: str

    def __str__(self) -> str:
        return f"the plug-in {self.entry.name!r} of {self.package}"


class PluginFormat:
    """A plug-in's module, with its faults turned into typed errors.

    Parameters
    ----------
    plugin
        Where it is from.
    module
        What was imported.
    """

    def __init__(self, plugin: Plugin, module: Any) -> None:
        self._plugin = plugin
        self._module = module
        self.suffixes = tuple(suffix.lower() for suffix in module.SUFFIXES)

    def probe(self, source: Source) -> LoadPlan:
        """Return the plan of the plug-in, if it is one.

        Raises
        ------
        LoadError
            It is none, or the plug-in has failed.
        ArraydError
            As the plug-in says.
        """
        with self._guarded(source):
            plan = self._module.probe(source)
        if fault := _fault(plan):
            raise self._failed(source, f"its probe gives {fault}")
        check_dtype(source, plan.dtype)
        found: LoadPlan = plan
        return found

    def fill(self, source: Source, plan: LoadPlan, part: Part) -> Chunks:
        """Yield the chunks of the plug-in.

        Raises
        ------
        LoadError
            They are no arrays of the planned dtype, or the plug-in has failed.
        ArraydError
            As the plug-in says.
        """
        with self._guarded(source), closing(self._module.fill(source, plan, part)) as chunks:
            for chunk in chunks:
                if not isinstance(chunk, np.ndarray) or chunk.dtype != plan.dtype:
                    kind = getattr(chunk, "dtype", type(chunk).__name__)
                    raise self._failed(source, f"its fill yields {kind} and not {plan.dtype}")
                yield chunk

    @contextmanager
    def _guarded(self, source: Source) -> Iterator[None]:
        try:
            yield
        except (ArraydError, OSError, MemoryError):
            raise  # what files do, and what arrayd's own loaders raise
        except ImportError as error:  # it imports what it needs when it is used
            raise _lacking(self._plugin, error) from None
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(last.filename)}, line {last.lineno}"
            raise self._failed(source, f"{_words(error)} ({place})") from None

    def _failed(self, source: Source, why: str) -> LoadError:
        return LoadError(
            f"{source}: {self._plugin} has failed: {why}. This is a bug in that package: tell its "
            "author. Meanwhile read the file yourself, and share the array with arrayd.put."
        )


def _fault(plan: Any) -> str | None:
    """Say what is wrong with a plan; None: nothing."""
    if not isinstance(plan, LoadPlan):
        return f"{type(plan).__name__}, no LoadPlan"
    if not all(type(n) is int and n >= 0 for n in plan.shape) or plan.order not in ("C", "F"):
        return f"the shape {plan.shape} in order {plan.order}"
    if not isinstance(plan.dtype, np.dtype) or plan.dtype.itemsize == 0:
        return f"the dtype {plan.dtype}"
    ends = [0, *(end for part in plan.parts for end in (part.start, part.stop))]
    joined = all(a == b for a, b in list(pairwise(ends))[::2])
    if 0 not in plan.storage_shape and not (joined and ends[-1] == plan.storage_shape[0]):
        return f"parts that do not cover its {plan.storage_shape[0]} rows"
    return None


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@functools.cache
def installed() -> dict[str, tuple[Plugin, ...]]:
    """Return the plug-ins by format; several where packages disagree about a name."""
    from importlib import metadata  # here, for most loaders never ask

    found: dict[str, dict[str, Plugin]] = {}
    for entry in metadata.entry_points(group=GROUP):
        package = "an unknown package" if entry.dist is None else _package(entry.dist)
        if entry.name not in BUILT_IN:
            found.setdefault(entry.name, {}).setdefault(entry.value, Plugin(entry, package))
    return {name: tuple(plugins.values()) for name, plugins in sorted(found.items())}


def _package(distribution: metadata.Distribution) -> str:
    return f"{distribution.metadata['Name']} {distribution.version}"


@functools.cache
def load(name: str) -> PluginFormat:
    """Return the plug-in for a format.

    Raises
    ------
    SpecMismatch
        There is none, or more than one.
    MissingDependency
        It needs a package that is not installed.
    LoadError
        It cannot be used.
    """
    plugins = installed().get(name, ())
    if not plugins:
        known = ", ".join([*FORMATS, *installed()])
        raise SpecMismatch(
            f"format={name!r}: the daemon has {known}. Is the package of that format installed "
            "where the daemon runs? `arrayd stop`, and the next get starts one anew."
        )
    if len(plugins) > 1:
        raise SpecMismatch(
            f"format={name!r}: {' and '.join(map(str, plugins))} both claim it. Uninstall one."
        )
    (plugin,) = plugins
    try:
        module = plugin.entry.load()
    except ImportError as error:
        raise _lacking(plugin, error) from None
    except (Exception, SystemExit) as error:
        raise _useless(plugin, f"its import fails with {_words(error)}") from None
    suffixes = getattr(module, "SUFFIXES", None)
    if not all(callable(getattr(module, function, None)) for function in ("probe", "fill")):
        raise _useless(plugin, "it has no functions probe and fill")
    if not isinstance(suffixes, (tuple, list)) or not all(
        isinstance(one, str) and one[:1] == "." for one in suffixes
    ):
        raise _useless(plugin, f"its SUFFIXES are {suffixes!r}, no tuple such as ('.png', '.jpg')")
    return PluginFormat(plugin, module)


def _begin(plugin: Plugin) -> str:
    words = str(plugin)
    return words[0].upper() + words[1:]


def _lacking(plugin: Plugin, error: ImportError) -> MissingDependency:
    package = error.name or str(error)
    return MissingDependency(
        f"{_begin(plugin)} needs {package}, which cannot be imported: {error}. {install(package)}"
    )


def _useless(plugin: Plugin, why: str) -> LoadError:
    return LoadError(f"{_begin(plugin)} cannot be used: {why}. Mend it, or uninstall the package.")


def of_path(path: str) -> str | None:
    """Return the format whose suffix a file has, the longest suffix first; None: there is none.

    Raises
    ------
    SpecMismatch
        Two have that suffix.
    LoadError, MissingDependency
        None has it, and some plug-in cannot be used: it may be the one.
    """
    lower = path.lower()
    broken: list[ArraydError] = []
    found: dict[str, int] = {}
    for name in installed():
        try:
            suffixes = load(name).suffixes
        except ArraydError as error:
            broken.append(error)
            continue
        found[name] = max((len(one) for one in suffixes if lower.endswith(one)), default=0)
    longest = max(found.values(), default=0)
    names = [name for name, length in found.items() if length == longest]
    if longest and len(names) > 1:
        raise SpecMismatch(
            f"{path}: the plug-ins {' and '.join(names)} both read this suffix. Pass format=."
        )
    if not longest and broken:
        suffix = os.path.splitext(lower)[1] or "(none)"
        raise type(broken[0])(
            f"{path}: the suffix {suffix} names no format that the daemon has. A plug-in that may "
            f"read it is broken. {' '.join(error.message for error in broken)}"
        )
    return names[0] if longest else None
