"""The files that the web page is made of: HTML, CSS and JavaScript, all of this package."""

from __future__ import annotations

import functools
from pathlib import Path

from arrayd_server.metrics.http_server import HttpAnswer

ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""What is at which path, and its type."""


@functools.cache
def asset(path: str) -> HttpAnswer:
    """Return one of `ASSETS`."""
    name, content_type = ASSETS[path]
    body = (Path(__file__).parent / "assets" / name).read_bytes()
    return HttpAnswer(body, content_type)
