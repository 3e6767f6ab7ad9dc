"""An arrayd that is newer than this one: this code, with its tables changed.

``python newer.py KIND PYTHON -m MODULE …`` runs a module of it, as the wrapper of a daemon; in a
puppet, ``import newer; newer.become(KIND)``. KINDS says how the newer one differs.
"""

from __future__ import annotations

import functools
import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any

from arrayd.source import Source
from arrayd.wire import layout, protocol
from arrayd.wire.records import Record

VERSION = "0.2.0"

NEWS = {"since": VERSION, "list": [1, b"2"]}
"""What the newer arrayd says under the key `news`, or as a hint under `_news`."""

HINT, WISH, ACCOUNT = {"_news": NEWS}, {"missing": 0}, {"news": NEWS}

WISHES = {"arrayd.source", "arrayd.reference"}, {"ProbeTask", "InfoTask", "FillTask", "FoundFile"}
"""Modules, and other classes, of the records whose readers act on them."""


def is_wish(record: Record) -> bool:
    """Say whether a record's reader must know what it does not understand."""
    modules, names = WISHES
    return type(record).__module__ in modules or type(record).__name__ in names


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a function by what `make` returns for it."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))


def says_more() -> None:
    """Say more, in each record, request, item and answer: hints, and accounts of more."""

    def record(original: Callable[[Record], dict[str, Any]]) -> Any:
        return lambda self: original(self) | (HINT if is_wish(self) else ACCOUNT)

    def request(original: Callable[..., bytes]) -> Any:
        return lambda *args, **fields: original(*args, **_hinted(fields))

    def answer(original: Callable[..., bytes]) -> Any:
        return lambda *args, **body: original(*args, **ACCOUNT, **_told(body))

    for kind in (Record, Source):
        patch(kind, "to_wire", record)
    patch(protocol, "request", request)
    patch(protocol, "answer", answer)


def _hinted(fields: dict[str, Any]) -> dict[str, Any]:
    if "items" in fields:
        fields["items"] = [item | HINT for item in fields["items"]]
    return fields | HINT


def _told(body: dict[str, Any]) -> dict[str, Any]:
    ok = body.get("ok")
    if not isinstance(ok, Mapping):
        return body
    lists = {key: value for key, value in ok.items() if key in ("blocks", "jobs", "sessions")}
    more = {
        key: [item | ACCOUNT for item in value]
        for key, value in lists.items()
        if isinstance(value, list)
    }
    return {**body, "ok": {**ok, **more, **ACCOUNT}}


def asks_more() -> None:
    """Ask, in each request, for what an older daemon cannot do."""
    patch(protocol, "request", lambda original: lambda *a, **kw: original(*a, **kw, **WISH))


def wants_more() -> None:
    """Mean, by each source and reference, what an older arrayd does not know."""

    def record(original: Callable[[Record], dict[str, Any]]) -> Any:
        return lambda self: original(self) | (WISH if is_wish(self) else {})

    for kind in (Record, Source):
        patch(kind, "to_wire", record)


def lays_out_otherwise() -> None:
    """Put something else into the footer."""
    layout.VERSION = 2


def describes_otherwise() -> None:
    """Put something else into the metadata."""
    from arrayd_server.segments.block_metadata import Metadata  # a client has no server

    Metadata.VERSION = 2


KINDS = {
    "says more": says_more,
    "asks more": asks_more,
    "wants more": wants_more,
    "layout": lays_out_otherwise,
    "metadata": describes_otherwise,
}


def become(kind: str) -> None:
    """Make this process one of the newer arrayd."""
    protocol.PACKAGE_VERSION = VERSION
    KINDS[kind]()


def main(kind: str, python: str, dash_m: str, module: str, *arguments: str) -> None:
    """Run a module of the newer arrayd; a daemon's loaders are of it, too."""
    become(kind)
    if module == "arrayd_server":
        from arrayd_server.loading import worker_pool

        worker_pool.PROGRAM = (__file__, kind, python, dash_m, "arrayd_server.loading.worker")  # type: ignore[assignment]  # longer
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
