"""The plan for rows of a dataset: what it is made of is found out here, `plan_choice` chooses."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arrayd.datasets import cache
from arrayd.datasets.decoding import PackRoom, WantedUnits
from arrayd.datasets.deliveries import ring_field, wanted_dtype
from arrayd.datasets.plan import Plan, Sizes
from arrayd.datasets.plan_choice import choose
from arrayd.errors import SpecMismatch
from arrayd.samples.manifest import Field, Manifest
from arrayd.samples.pack_spec import PackSpec
from arrayd.samples.selection import Rows

SHARE_OF_BUDGET = 0.8
"""Part of the daemon's budget that a dataset uses where no ``budget=`` is given."""

_DECODED = {"text": True, "npz": True, "npy": False, "raw": False}
"""Formats of which it is known whether their files must be decoded to be read."""


@dataclass(frozen=True, slots=True)
class ValueTerms:
    """How the values of a dataset are wanted.

    Parameters
    ----------
    casts
        The dtype wanted, for each field that is cast.
    overflow
        What happens to a value that does not fit.
    budget
        Bytes of memory for it; None: `SHARE_OF_BUDGET` of the daemon's.
    scratch
        Folder for decoded rows; None: the cache folder.
    """

    casts: Mapping[str, np.dtype[Any]]
    overflow: str
    budget: int | None
    scratch: str | None


def planned(
    manifest: Manifest,
    rows: Rows,
    fields: tuple[Field, ...],
    terms: ValueTerms,
    step: int,
    most: int,
    kind: str | None,
) -> Plan:
    """Return how these rows are delivered.

    Parameters
    ----------
    step
        Rows that all ranks together take at a time.
    most
        Bytes of the daemon's budget.
    kind
        As for `choose`.

    Raises
    ------
    NoRoom, SpecMismatch
        As `choose`.
    """
    budget = int(most * SHARE_OF_BUDGET) if terms.budget is None else min(terms.budget, most)
    cast = [ring_field(field, terms.casts).row_bytes for field in fields]
    decoded = [_must_decode(manifest, field) for field in fields]
    sizes = Sizes(
        rows=len(rows),
        total=manifest.rows,
        row_bytes=sum(cast),
        read_bytes=[
            field.row_bytes if must is False else in_pack
            for field, must, in_pack in zip(fields, decoded, cast, strict=True)
        ],
        step=step,
        budget=budget,
        decoded=True if True in decoded else None if None in decoded else False,
    )
    if kind in (None, "resident") and len(rows) * sizes.row_bytes <= budget:
        return choose(sizes, kind)  # resident, so nobody asks what it would be otherwise
    costly = [field for field, must in zip(fields, decoded, strict=True) if must is not False]
    return choose(replace(sizes, **_decoding(manifest, rows, costly, terms)), kind)


def _must_decode(manifest: Manifest, field: Field) -> bool | None:
    """Say whether files of a field cannot be read row by row; None: it is not known."""
    if field.unit is not None:
        return field.unit > 0
    if field.whole_files:
        return True
    with contextlib.suppress(SpecMismatch):  # of a plug-in: the daemon knows
        return _DECODED.get(manifest.source_of(field, 0).resolved_format())
    return None


def _decoding(
    manifest: Manifest, rows: Rows, fields: Sequence[Field], terms: ValueTerms
) -> dict[str, Any]:
    """Return `Sizes.units` and ``packs`` of fields that must be decoded, as far as is known."""
    units, packs = [], []
    for field in fields:
        files = manifest.files[field.files]
        # Where it is not known, a file is decoded as a whole at the worst.
        unit = field.unit or (1 if field.whole_files else int(np.diff(files.starts).max()))
        cast = ring_field(field, terms.casts).row_bytes
        units.append(WantedUnits.of(files, unit, rows, field.row_bytes, cast))
        target = wanted_dtype(field, terms.casts)
        packs.append((PackSpec.of(manifest, field, target, terms.overflow), units[-1]))
    folder = terms.scratch or cache.folder()
    return {"units": units, "packs": PackRoom.of(folder, packs) if packs else None}
