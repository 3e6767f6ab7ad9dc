"""The loaders: one module per format, found by name and imported when first needed."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np

from arrayd.common.casts.cast import check_cast, resolved
from arrayd.errors import MissingDependency, SpecMismatch
from arrayd.source import BUILT_IN, Source
from arrayd_server.loaders import plugins
from arrayd_server.loaders.base import Container, Described, Format, FoundMember, LoadPlan, LongText
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import install, os_errors

__all__ = ["load_format", "members", "probe", "recognised"]

_OF_MEMBERS = ("npz", "hdf5", "dataset")


def load_format(name: str) -> Format:
    """Return the module of format `name`: one of `arrayd.source.BUILT_IN`, or of a plug-in.

    Raises
    ------
    MissingDependency
        The format needs a package that is not installed.
    SpecMismatch, LoadError
        There is no such plug-in, or it cannot be used.
    """
    if name not in BUILT_IN:
        return plugins.load(name)
    module: Any  # to mypy a module without what we ask of it; the tests load each
    try:
        module = importlib.import_module(f"arrayd_server.loaders.{name}")
    except ImportError as error:
        package = error.name or str(error)
        raise MissingDependency(
            f"Format {name} needs {package}, which cannot be imported: {error}. {install(package)}"
        ) from None
    loader: Format = module
    return loader


def look(source: Source) -> LoadPlan:
    """Return what `source` holds, from its header; its values are not read (text: are counted).

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile, SpecMismatch, MissingDependency
        What is cheap to see is checked first: the file, its size, the request, its header.
    """
    return _look(recognised(source))


def _look(source: Source) -> LoadPlan:
    with os_errors(source.path):
        plan = load_format(_checked_format(source)).probe(source)
        if source.cast is not None:
            _check_cast(source, plan.dtype, resolved(plan.dtype, source.cast))
        return plan


def probe(source: Source) -> LoadPlan:
    """Return the same with ``LoadPlan.target``, which takes a scan where text has no fixed size.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile, SpecMismatch, MissingDependency, CastError
    """
    source = recognised(source)
    plan = _look(source)
    target = plan.dtype if source.cast is None else resolved(plan.dtype, source.cast)
    if plan.dtype.hasobject and not (source.cast is not None and source.cast.itemsize):
        with os_errors(source.path):
            module = load_format(source.resolved_format())
            assert isinstance(module, LongText)
            target = module.text_dtype(source, plan)
    return replace(plan, target=target)


def _check_cast(source: Source, origin: np.dtype[Any], target: np.dtype[Any]) -> None:
    try:
        check_cast(origin, target, source.overflow)
    except SpecMismatch as error:
        raise SpecMismatch(f"{source}: {error.message}") from None


def members(source: Source) -> list[FoundMember] | None:
    """Return the arrays in a file that can hold several; None for the other formats.

    One of them that cannot be loaded, or even described, is among them and says so.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile, SpecMismatch, MissingDependency
    """
    source = recognised(source)
    with os_errors(source.path):
        container = load_format(_checked_format(source))
        return container.members(source) if isinstance(container, Container) else None


def header(source: Source, plan: LoadPlan) -> tuple[bytes, list[str]] | None:
    """Return what an array has besides values, and what is left out; None: nothing."""
    source = recognised(source)
    with os_errors(source.path):
        module = load_format(source.resolved_format())
        return module.header(source, plan) if isinstance(module, Described) else None


def _checked_format(source: Source) -> str:
    """Return the format of a recognised source; refuse what means nothing to it.

    A format's own options it knows best itself.
    """
    name = source.resolved_format()
    if source.member is not None and name not in _OF_MEMBERS:
        raise SpecMismatch(
            f"{source.path}: a {name} file holds one array, so dataset={source.member!r} (or what "
            "follows the ':') means nothing. Leave it out."
        )
    if source.overflow != "error" and source.cast is None and name != "text":
        raise SpecMismatch(
            f"{source}: overflow={source.overflow!r} says what a cast does, and there is no cast=."
        )
    return name
