"""Warnings that point at the caller of arrayd."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the caller's line, which is the first one outside arrayd."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("arrayd."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
