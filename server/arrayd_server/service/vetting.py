"""Requests of other users than the daemon's, before and after their files were looked at.

`paths` are looked at by the `Gate`; `vetted` is the request as it is served then: each item has the
``stat`` of the file that its user may read, or ``denied``, the error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arrayd.errors import ArraydError, SourceChanged, SourceNotFound
from arrayd.wire.requests import Request
from arrayd_server.service.gate import Verdict

GATED = frozenset({"get", "prefetch", "info"})
"""Requests that name files."""


def paths(request: Request) -> list[str]:
    """Return the files that a request names."""
    return [path for item in _items(request) if (path := _path(item))]


def vetted(request: Request, verdicts: Sequence[Verdict]) -> Request:
    """Return a request with what was found out of its `paths`."""
    left = iter(verdicts)
    items = [_vetted(item, left) for item in _items(request)]
    fields = items[0] if "source" in request.fields else {**request.fields, "items": items}
    return request._replace(fields=fields)


def _items(request: Request) -> Sequence[Mapping[str, Any]]:
    fields = request.fields
    items: Sequence[Mapping[str, Any]] = [fields] if "source" in fields else fields["items"]
    return items


def _path(item: Mapping[str, Any]) -> str:
    path = item["source"].get("path")
    return path if type(path) is str else ""


def _vetted(item: Mapping[str, Any], verdicts: Iterator[Verdict]) -> Mapping[str, Any]:
    path = _path(item)
    if not path:
        return item
    found, asked = next(verdicts), item.get("stat")
    if isinstance(found, ArraydError):
        return {**item, "denied": found}
    if asked is not None and tuple(asked) != found:
        return {**item, "denied": _another(path, tuple(asked), found)}
    return {**item, "stat": list(found)}


def _another(path: str, asked: tuple[int, ...], found: tuple[int, ...]) -> ArraydError:
    if asked[:2] == found[:2]:
        return SourceChanged(f"{path} changed while it was asked for. Ask again.", read=False)
    return SourceNotFound(
        f"{path} is another file for the daemon (inode {found[1]}) than for you (inode "
        f"{asked[1]}): you are in different mount namespaces (a container, PrivateTmp=), or the "
        "file was just replaced."
    )
