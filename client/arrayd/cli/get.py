"""``arrayd get``: load arrays, describe them, and print how to attach them without arrayd."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np

import arrayd
from arrayd import ArraydError, Block, PrecisionWarning, SharedArray
from arrayd.cli.common import (
    Subparsers,
    add_command,
    add_source_options,
    complain,
    dtype_words,
    exit_code,
    parse_seconds,
    print_json,
    source_options,
)
from arrayd.common.bytesize import format_bytes
from arrayd.errors import to_wire
from arrayd.wire import layout
from arrayd.wire.dtypes import descr

ATTACH_PIN = 60.0
"""Seconds for which ``--attach`` keeps a block, so that there is time to paste."""

Result = SharedArray | ArraydError

_IMPORTS = "import numpy as np"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "get", "load arrays into shared memory", json=True)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a path, file.h5:/group/x, file.npz:member or name:NAME",
    )
    add_source_options(parser)
    parser.add_argument(
        "--attach", action="store_true", help="print lines that attach with numpy alone"
    )
    parser.add_argument(
        "--pin", type=_pin, default=0.0, metavar="SECONDS", help="keep them so long, or `forever`"
    )
    parser.add_argument(
        "--timeout", type=parse_seconds, metavar="SECONDS", help="give up after so long"
    )


def run(args: argparse.Namespace) -> int:
    """Load all in parallel; describe those that came, and print the errors of the others."""
    began = time.monotonic()
    with arrayd.connect(args.endpoint) as client, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        results = client.get_many(
            args.sources,
            return_errors=True,
            pin=_pinned(args),
            timeout=args.timeout,
            progress=sys.stderr.isatty(),
            **source_options(args),
        )
        seconds = time.monotonic() - began
        _report(args, results, seconds)
    for warning in caught:
        complain(warning.message)
    errors = [result for result in results if isinstance(result, ArraydError)]
    for error in errors:
        complain(error)
    return exit_code(errors[0]) if errors else 0


def _pin(text: str) -> float | bool:
    return True if text == "forever" else parse_seconds(text)


def _report(args: argparse.Namespace, results: list[Result], seconds: float) -> None:
    pairs = list(zip(args.sources, results, strict=True))
    if args.json:
        arrays = [_plain(source, result, args) for source, result in pairs]
        print_json({"seconds": seconds, "arrays": arrays})
        return
    good = [(source, array) for source, array in pairs if isinstance(array, SharedArray)]
    for source, array in good:
        print("\n".join(_words(source, array)))
    if good:
        size = format_bytes(sum(array.nbytes for _, array in good))
        print(f"{len(good)} array{'s' * (len(good) > 1)}, {size}, in {seconds:.3f} s")
    if good and args.attach:
        _print_attach([array for _, array in good], args)


def _words(source: str, array: SharedArray) -> list[str]:
    block = _block(array)
    return [
        source,
        f"  array  {array.shape} {dtype_words(array.dtype)}, order {block.order}, "
        f"{format_bytes(array.nbytes)}",
        f"  block  {block.name}" + (f" at byte {block.offset}" if block.offset else ""),
    ]


def _plain(source: str, result: Result, args: argparse.Namespace) -> dict[str, Any]:
    if not isinstance(result, SharedArray):
        return {"source": source, "error": to_wire(result)}
    block = _block(result)
    plain = {
        "source": source,
        "shape": result.shape,
        "dtype": descr(result.dtype),
        "order": block.order,
        "bytes": result.nbytes,
        "block": block.name,
        "offset": block.offset,
    }
    return {**plain, "attach": _attach(result, args.rows)} if args.attach else plain


def _block(array: SharedArray) -> Block:
    assert array.block is not None, "what the daemon grants lies in a block"
    return array.block


# ---- without arrayd --------------------------------------------------------------------------


def _print_attach(arrays: list[SharedArray], args: argparse.Namespace) -> None:
    print(f"\n{_IMPORTS}")
    for array in arrays:
        print(_attach(array, args.rows))
    kept = "until `arrayd evict`" if args.pin is True else f"for {_pinned(args):.0f} s from now"
    print(f"# The block of an array is kept {kept}, and while it is mapped.")


def _pinned(args: argparse.Namespace) -> float | bool:
    return args.pin if args.pin is True else max(args.pin, ATTACH_PIN * args.attach)


def _attach(array: SharedArray, rows: slice | None) -> str:
    """Return a line by which a program with numpy alone attaches `array`, in any Python.

    It does not use the standard library's `SharedMemory`: before Python 3.13 that removes the
    block's name at the end of any process that has attached (gh-82300).
    """
    block = _block(array)
    shape, dtype = block.shape, _dtype(block.dtype)
    order = ", order='F'" if block.order == "F" else ""
    cut = "" if _is_whole(array) else _brackets(rows)
    place = f", {block.offset}" if block.offset else ""
    where = f"'{layout.SHM}/{block.name}', {dtype}, 'r'{place}"
    return f"a = np.memmap({where}, shape={shape}{order}){cut}"


def _dtype(dtype: np.dtype[Any]) -> str:
    """Return an expression for `dtype` that needs numpy only (ml_dtypes for its types)."""
    form = descr(dtype)
    if "ml_dtypes" not in str(form):
        return repr(form) if isinstance(form, str) else f"np.{dtype!r}"
    if dtype.names is None:
        return f"__import__('ml_dtypes').{form['ml_dtypes']}"
    formats = ", ".join(_format(dtype[name]) for name in dtype.names)
    rest = {key: value for key, value in form.items() if key != "formats"}
    return f"np.dtype({{'formats': [{formats}], **{rest}}})"


def _format(dtype: np.dtype[Any]) -> str:
    return f"({_dtype(dtype.base)}, {dtype.shape})" if dtype.shape else _dtype(dtype)


def _is_whole(array: SharedArray) -> bool:
    """Return whether it is all of its block; rows of a block that was loaded before are not."""
    contiguous = array.flags.f_contiguous or array.flags.c_contiguous
    return array.shape == _block(array).shape and contiguous


def _brackets(rows: slice | None) -> str:
    assert rows is not None, "only rows= cuts an array out of its block"
    start, stop, step = ("" if v is None else v for v in (rows.start, rows.stop, rows.step))
    return f"[{start}:{stop}:{step}]"
