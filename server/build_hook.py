"""Compile the C files of arrayd while pip builds it, where that is possible.

Hatchling runs this (``[tool.hatch.build.hooks.custom]`` in pyproject.toml). Without a C compiler
the wheel is as pure as it would be without this file: text is read and floats are rounded by numpy
alone, and segments are mapped step by step.
"""

from __future__ import annotations

import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILING = Path("client", "arrayd", "common", "compiling.py")

ROOTS = ("client", "server")


class CompileWhatIsC(BuildHookInterface):
    """Put the libraries into a wheel, or, for ``pip install -e``, next to their sources."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are gathered.

        Parameters
        ----------
        version
            ``"standard"`` or ``"editable"``.
        build_data
            What goes into the wheel, to be completed.
        """
        if self.target_name != "wheel":
            return
        compiling = runpy.run_path(str(Path(self.root, COMPILING)))
        if version != "editable":
            self._folder = tempfile.TemporaryDirectory()
        for root in ROOTS:
            for source in compiling["sources"](Path(self.root, root)):
                beside: Path = compiling["library"](source)
                made = Path(self._folder.name, beside.name) if self._folder else beside
                problem = compiling["compile_library"](source, made)
                if problem:
                    self.app.display_warning(f"{source.name} is not compiled: {problem}.")
                elif version != "editable":
                    self._put(made, beside.relative_to(Path(self.root, root)), build_data)

    def _put(self, made: Path, inside: Path, build_data: dict[str, Any]) -> None:
        """Have a library in the wheel, which is for machines like this one then."""
        build_data["force_include"][str(made)] = str(inside)
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(
        self,
        version: str,  # noqa: ARG002
        build_data: dict[str, Any],  # noqa: ARG002
        artifact_path: str,  # noqa: ARG002
    ) -> None:
        """Remove what was compiled: it is in the wheel."""
        if self._folder is not None:
            self._folder.cleanup()
