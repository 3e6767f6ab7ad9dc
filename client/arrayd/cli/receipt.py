"""``arrayd receipt``: compute the order of an epoch anew, and compare it with a receipt."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from arrayd.cli.common import Subparsers
from arrayd.datasets import cache
from arrayd.errors import BadFile, SourceNotFound
from arrayd.samples.receipt import Receipt, verify
from arrayd.samples.selection import Rows

HELP = "check receipts: that the rows of an epoch were delivered as they say"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command; it needs no daemon, and no file of the dataset."""
    parser = subparsers.add_parser("receipt", help=HELP, description=f"{HELP.capitalize()}.")
    parser.add_argument("action", choices=("verify",), help="verify: compute anew, and compare")
    parser.add_argument("files", nargs="+", metavar="FILE", help="from Receipt.to_json; -: stdin")
    parser.add_argument(
        "--ids",
        metavar="FILE.npy",
        help="the row numbers of the selection; needed for a part of a dataset, unless this "
        "machine has streamed it from its files",
    )


def run(args: argparse.Namespace) -> int:
    """Verify each receipt; the first that does not hold is an error."""
    for name in args.files:
        text = sys.stdin.read() if name == "-" else _read(name)
        receipt = Receipt.from_json(text)
        verify(receipt, _rows(receipt, args.ids))
        print(f"{name}: holds\n{receipt}")
    return 0


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceNotFound(f"{name}: no such file.") from None
    except UnicodeDecodeError:
        raise BadFile(f"{name} is no receipt: it is no text.") from None


def _rows(receipt: Receipt, ids: str | None) -> Rows:
    """Return the selection that a receipt is of: given, all rows, or one that was saved."""
    if ids is None:
        whole = Rows(receipt.rows)
        if whole.digest().hex() == receipt.selection:
            return whole
        saved = cache.ids_path(receipt.selection)
        if not os.path.exists(saved):
            raise SourceNotFound(
                f"The receipt is of a selection of {receipt.rows:,} rows ({receipt.selection}), "
                "and which these are is not known here. Save them where it was made, with "
                "np.save('ids.npy', dataset.ids), and say --ids ids.npy."
            )
        ids = saved
    try:
        numbers = np.load(ids, allow_pickle=False)
        return Rows.of(numbers, int(numbers[-1]) + 1 if len(numbers) else 0)
    except FileNotFoundError:
        raise SourceNotFound(f"{ids}: no such file.") from None
    except (ValueError, TypeError, EOFError) as error:
        raise BadFile(f"{ids} holds no row numbers: {error}") from None
