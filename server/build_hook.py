"""Compile the text parser while pip builds arrayd, where that is possible.

Hatchling runs this (``[tool.hatch.build.hooks.custom]`` in pyproject.toml). Without a C compiler
the wheel is as pure as it would be without this file, and text is read by numpy alone.
"""

from __future__ import annotations

import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("server", "arrayd_server", "loaders", "text")


class CompileTheParser(BuildHookInterface):
    """Put the compiled parser into a wheel, or, for ``pip install -e``, next to its source."""

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
        build = runpy.run_path(str(Path(self.root, FOLDER, "build_plain_rows.py")))
        made: Path = build["LIBRARY"]
        if version != "editable":
            self._folder = tempfile.TemporaryDirectory()
            made = Path(self._folder.name, made.name)
        problem = build["compile_library"](made)
        if problem:
            self.app.display_warning(f"The text parser is not compiled: {problem}.")
            return
        if version != "editable":
            inside = FOLDER.relative_to("server") / made.name
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
