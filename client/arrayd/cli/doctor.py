"""``arrayd doctor``: what keeps a daemon from working well, and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator

import arrayd
from arrayd.cli.common import Subparsers, add_command, print_json
from arrayd.common.endpoints import PRIVATE, SCHEME
from arrayd.common.findings import FAIL, OK, WARN, Finding
from arrayd.errors import ArraydError, NoDaemon, ProtocolMismatch
from arrayd.results.status import DaemonStatus
from arrayd.results.status_table import terminal_width
from arrayd.system import daemon_probe, launch
from arrayd.wire.protocol import PACKAGE_VERSION

_CHECK = 15  # characters of the column with what was looked at


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "look for what keeps arrayd from working well, and say what to do about it"
    add_command(subparsers, "doctor", help, json=True)


def run(args: argparse.Namespace) -> int:
    """Print a line for each thing that was looked at; return 1 if one of them fails."""
    endpoint, status, found = _look(args.endpoint)
    found += machine(endpoint, status)
    if args.json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        print("\n".join(lines(found, terminal_width())))
    return int(any(finding.state == FAIL for finding in found))


def lines(found: Iterable[Finding], width: int | None) -> Iterator[str]:
    """Yield a line for each finding, broken and indented where a terminal is narrower."""
    for finding in found:
        head = f"{finding.state:<5} {finding.check:<{_CHECK}}"
        if width is None:
            yield f"{head}{finding}"
            continue
        inner = " " * len(head)
        yield from textwrap.wrap(
            f"{head}{finding}",
            max(width, 2 * len(head)),
            subsequent_indent=inner,
            break_on_hyphens=False,
        )


# ---- the daemon ------------------------------------------------------------------------------


def _look(wanted: str | None) -> tuple[str, DaemonStatus | None, list[Finding]]:
    """Look for the daemon: its endpoint, its status if it answers, and what there is to say."""
    named = wanted or os.environ.get("ARRAYD_ENDPOINT") or ""
    try:
        endpoint = launch.find_endpoint(wanted, start=False)
    except NoDaemon as error:
        return launch.private_endpoint(), None, [_none(str(error), named)]
    if not daemon_probe.alive(endpoint):
        return endpoint, None, [_dead(endpoint)]
    try:
        with arrayd.connect(endpoint, start=False) as client:
            status = client.status()
    except ArraydError as error:
        remedy = "" if isinstance(error, ProtocolMismatch) else "Its log may tell more."
        return endpoint, None, [Finding(FAIL, "daemon", str(error), remedy)]
    found = Finding(OK, "daemon", f"pid {status.pid} answers at {endpoint}.")
    about = [found, _socket(endpoint, status), _versions(status.version), *_own(status.uid)]
    return endpoint, status, about


def _own(uid: int) -> list[Finding]:
    """Say who reads what a daemon of another user may not read for this one."""
    if uid == os.geteuid():
        return []
    private = launch.private_endpoint()
    folder = os.path.dirname(private.removeprefix(SCHEME))
    words = f"What user {uid}'s daemon may not read for you, a private one of yours reads"
    if launch.serves(private):
        words += ", which runs: `arrayd status --endpoint private`."
        return [Finding(OK, "own daemon", words)]
    place = os.path.dirname(folder)
    if os.path.lexists(folder) and not daemon_probe.is_ours(folder):
        return [Finding(WARN, "own daemon", *_not_ours(folder, f"{words}; but "))]
    if not os.access(place, os.W_OK | os.X_OK):
        remedy = "Set XDG_RUNTIME_DIR to a directory of yours, or unset it to use /tmp."
        return [Finding(WARN, "own daemon", f"{words}; but you cannot write to {place}.", remedy)]
    return [Finding(OK, "own daemon", f"{words}, started when it is needed.")]


def _not_ours(folder: str, words: str = "") -> tuple[str, str]:
    """Return what is to say of a directory in which no private daemon can listen."""
    return (
        f"{words}{folder} is not a directory of yours with mode 0700, so no private daemon can "
        "listen there.",
        f"Look at it (`ls -ld {folder}`), then remove it or `chmod 700` it, or set XDG_RUNTIME_DIR "
        "to another place.",
    )


def _none(words: str, named: str) -> Finding:
    """Return what is to say where no private daemon runs, which is well: a client starts one."""
    if named not in ("", PRIVATE):
        return Finding(FAIL, "daemon", words)
    folder = os.path.dirname(launch.private_endpoint().removeprefix(SCHEME))
    if os.path.lexists(folder) and not daemon_probe.is_ours(folder):
        return Finding(FAIL, "daemon", *_not_ours(folder))
    return Finding(OK, "daemon", "None runs; the first `arrayd.get` starts a private one.")


def _dead(endpoint: str) -> Finding:
    path = endpoint.removeprefix(SCHEME)
    try:
        os.lstat(path)
        words = f"{path} is there, but no daemon listens, or it does not admit you."
    except OSError as error:
        words = f"{path} cannot be used: {error.strerror}."
    return Finding(
        FAIL,
        "daemon",
        words,
        "Start one (`systemctl start arrayd`, `arrayd serve`), or unset ARRAYD_ENDPOINT to have a "
        "private one.",
    )


def _socket(endpoint: str, status: DaemonStatus) -> Finding:
    """Say who made the socket, and who may connect."""
    path = endpoint.removeprefix(SCHEME)
    info = os.stat(path)
    mode = stat.S_IMODE(info.st_mode)
    words = f"{path} is user {info.st_uid}'s, mode {mode:o}."
    if info.st_uid not in (0, status.uid):
        return Finding(FAIL, "socket", words, f"The daemon is user {status.uid}'s: remove it.")
    folder = os.stat(os.path.dirname(path) or "/")
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        remedy = f"Anybody could put another there: `chmod o-w {os.path.dirname(path)}`."
        return Finding(WARN, "socket", words, remedy)
    return Finding(OK, "socket", words)


def _versions(daemon: str) -> Finding:
    if daemon == PACKAGE_VERSION:
        return Finding(OK, "versions", f"The daemon and this client are arrayd {daemon}.")
    return Finding(
        WARN,
        "versions",
        f"The daemon is arrayd {daemon}, this client {PACKAGE_VERSION}.",
        "They work together in what both know; install one version for both, then restart the "
        "daemon (`systemctl restart arrayd`, or `arrayd stop` for a private one).",
    )


# ---- the machine -----------------------------------------------------------------------------


def machine(endpoint: str, status: DaemonStatus | None) -> list[Finding]:
    """Return what the server's program for this finds, which knows the kernel's interfaces."""
    about = [endpoint] if status is None else [endpoint, str(status.pid), str(status.budget)]
    command = [sys.executable, "-P", "-m", "arrayd_server.doctor", *about]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding(FAIL, "machine", f"It cannot be looked at: {why}.", "Install arrayd anew.")]
    return [Finding(**finding) for finding in json.loads(done.stdout)]
