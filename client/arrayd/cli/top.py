"""``arrayd top``: who holds what, live."""

from __future__ import annotations

import argparse
import sys

from arrayd.cli.common import Subparsers, UsageError, add_command
from arrayd.cli.top_feed import StatusFeed
from arrayd.errors import MissingDependency


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "top", "watch the arrays in memory: sort, filter and evict by keys")


def run(args: argparse.Namespace) -> int:
    """Show the screen until a key ends it; never start a daemon.

    Raises
    ------
    UsageError
        There is no terminal.
    MissingDependency
        Textual is not installed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "top needs a terminal; for a file or a program there is `arrayd status --json`"
        )
    try:
        from arrayd.cli.top_screen import TopScreen
    except ImportError as error:
        raise MissingDependency(
            f"arrayd top needs the package textual ({error}): pip install 'arrayd[top]'. Without "
            "it there is `watch arrayd status`."
        ) from None
    screen = TopScreen()
    feed = StatusFeed(
        args.endpoint,
        lambda *told: screen.call_later(screen.take, *told),  # from its thread to the screen's
        lambda words: screen.call_later(screen.tell, words),
    )
    screen.feed = feed
    try:
        code = screen.run(mouse=False)
    finally:
        feed.stop()
    return 1 if code is None else code  # None: an exception, which has been printed
