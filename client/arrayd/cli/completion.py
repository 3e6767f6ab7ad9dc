"""``arrayd completion``: print what makes a shell complete this command line."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, complain
from arrayd.cli.install_service import Refused, shipped_files

SHELLS = ("bash", "zsh", "fish")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "print the completion of a shell"
    parser = subparsers.add_parser(
        "completion",
        help=help,
        description=f"{help.capitalize()}: `source <(arrayd completion bash)` in ~/.bashrc, "
        '`eval "$(arrayd completion zsh)"` in ~/.zshrc after compinit, or '
        "`arrayd completion fish | source` in config.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(args: argparse.Namespace) -> int:
    """Print the file that was made of this command line's own parser."""
    try:
        text = (shipped_files() / "completions" / f"arrayd.{args.shell}").read_text()
    except (Refused, FileNotFoundError):
        complain("the completions are not beside the units: install arrayd again")
        return 1
    print(text, end="")
    return 0
