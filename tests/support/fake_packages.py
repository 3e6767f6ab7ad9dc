"""Packages that exist for a test alone, with entry points, as pip would have installed them."""

from __future__ import annotations

from pathlib import Path

LINES = """
import numpy as np
from arrayd_server.loaders.base import LoadPlan, Part
from arrayd_server.loaders.validation import check_options

SUFFIXES = (".lines", ".l2.lines")


def probe(source):
    check_options(source, ("times",))
    with open(source.path, "rb") as file:
        count = sum(1 for _ in file)
    return LoadPlan((count,), np.dtype("i8"), "C", (Part(0, count),) if count else ())


def fill(source, plan, part):
    with open(source.path, "rb") as file:
        lengths = [len(line.rstrip()) for line in file]
    yield np.array(lengths[part.start : part.stop]) * source.option.get("times", 1)
"""
"""A sound plug-in: the lengths of the lines of a file."""


def install(folder: Path, package: str, plugins: dict[str, str], **modules: str) -> None:
    """Make a package of modules below `folder`, with plug-ins: the name of a format and its module.

    It is found in a process that has `folder` in its path.
    """
    info = folder / f"{package.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = [f"{name} = {module}" for name, module in plugins.items()]
    (info / "entry_points.txt").write_text("\n".join(["[arrayd.loaders]", *lines, ""]))
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
