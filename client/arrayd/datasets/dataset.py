"""`Dataset`: rows of files, selected; what `arrayd.dataset` returns."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd import api
from arrayd.client import Client
from arrayd.common import arguments
from arrayd.common.warn import warn_caller
from arrayd.datasets import cache
from arrayd.datasets.deliveries import Pace, Values, resident, ring, wanted_dtype
from arrayd.datasets.measuring import RateMeter
from arrayd.datasets.plan import WINDOWED, Plan
from arrayd.datasets.planning import ValueTerms, planned
from arrayd.datasets.stream import Stream, StreamTerms
from arrayd.errors import BiasWarning, PlanWarning, SpecMismatch
from arrayd.samples import splits
from arrayd.samples.manifest import Field, Manifest
from arrayd.samples.order import BLOCK, BUFFER, EpochOrder
from arrayd.samples.selection import Rows

Array = np.ndarray[Any, Any]

LAST_POSITION = 2**63 - 1
"""A stream that ends after it ends never; the protocol has no larger numbers."""


class Dataset:
    """Rows of files, or a selection of them. Nothing is copied by selecting.

    Parameters
    ----------
    manifest
        All rows.
    rows
        Those of this dataset.
    terms
        How their values are wanted.
    client
        The session to use.
    """

    def __init__(self, manifest: Manifest, rows: Rows, terms: ValueTerms, client: Client) -> None:
        self._manifest = manifest
        self._rows = rows
        self._terms = terms
        self._given = client
        self._saved: str | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        fields = ", ".join(f"{f.name}: {self._dtype(f)}{list(f.row_shape)}" for f in self._fields)
        whole = len(self) == self._manifest.rows
        of = "" if whole else f" of {self._manifest.rows:,}"
        return f"<arrayd dataset, {len(self):,}{of} rows, {fields}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by the saved manifest: workers of a DataLoader read the same files."""
        return _reopened, (self._path, self._rows, self._terms, self._given.endpoint)

    @property
    def _client(self) -> Client:
        """The client of the daemon that reads the rows: the user's own, if the other is not."""
        return self._given._for_datasets()

    @property
    def _fields(self) -> tuple[Field, ...]:
        return self._manifest.fields

    def _dtype(self, field: Field) -> np.dtype[Any]:
        return wanted_dtype(field, self._terms.casts)

    @property
    def _path(self) -> str:
        """Where the manifest is saved, for the daemon; anew if somebody has cleaned the cache."""
        if self._saved is None or not os.path.exists(self._saved):
            where = cache.folder()
            with cache.explained(where):
                self._saved = self._manifest.save(where)
        return self._saved

    @property
    def fields(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype (after the cast) and shape of the value of one row, by field."""
        return {field.name: (self._dtype(field), field.row_shape) for field in self._fields}

    @property
    def rows(self) -> Rows:
        """The selection."""
        return self._rows

    @property
    def ids(self) -> npt.NDArray[np.uint64]:
        """Numbers of these rows in the whole dataset; uint64 ``(len(self),)``, increasing."""
        return self._rows.ids(0, len(self))

    @property
    def fingerprint(self) -> str:
        """Hexadecimal name of the whole dataset's contents: sizes and times of its files."""
        return self._manifest.fingerprint.hex()

    def column(self, name: str) -> Array:
        """Return a column of the list (a label, a group) for these rows; ``(len(self),)``.

        Raises
        ------
        SpecMismatch
            There is none of this name.
        """
        columns = self._manifest.columns
        if not isinstance(name, str) or name not in columns:
            raise SpecMismatch(
                f"There is no column {name!r}; the list has {', '.join(columns) or 'none'}."
            )
        return columns[name][self.ids.view(np.int64)]

    # ---- selections ----------------------------------------------------------------------

    def _with(self, rows: Rows) -> Dataset:
        return Dataset(self._manifest, rows, self._terms, self._given)

    def __getitem__(self, key: slice) -> Dataset:
        if not isinstance(key, slice):
            raise SpecMismatch(
                f"A dataset is cut by a slice, ds[0:1000], not by {key!r}. Its values come in "
                "batches: see stream()."
            )
        return self._with(self._rows[key])

    def filter(self, mask: npt.ArrayLike) -> Dataset:
        """Return the rows where `mask`, bool ``(len(self),)``, is true.

        Raises
        ------
        SpecMismatch
            It is no such mask.
        """
        return self._with(self._rows.filter(mask))

    def subset(self, n: float, seed: int = 0) -> Dataset:
        """Return `n` rows (or a fraction, 0 < n ≤ 1.0) by chance; smaller ones lie in larger ones.

        Raises
        ------
        SpecMismatch
            There are not so many.
        """
        return self._with(splits.subset(self._rows, n, seed))

    def split(
        self,
        *,
        seed: int = 0,
        group: str | npt.ArrayLike | None = None,
        stratify: str | npt.ArrayLike | None = None,
        **fractions: float,
    ) -> dict[str, Dataset]:
        """Return disjoint parts by name: ``ds.split(train=0.8, val=0.1, test=0.1)``.

        Which part a row is in depends on `seed` and the row alone, so rows that are appended to
        the files never move the others. The sizes are the fractions but for chance; a warning says
        if a part has no rows.

        Parameters
        ----------
        seed
            Another seed, another split.
        group
            A column, or an array with one value for each row: rows of one value stay together.
        stratify
            Likewise: each part gets its exact share of each value. Not stable when rows are
            appended.
        fractions
            Of each part.

        Raises
        ------
        SpecMismatch
            The fractions are no such numbers, or add up to more than 1.
        """
        given = {"group": self._values(group), "stratify": self._values(stratify)}
        parts = splits.split(self._rows, fractions, seed, **given)
        empty = [name for name, rows in parts.items() if fractions[name] and not len(rows)]
        if empty and len(self):
            warn_caller(
                f"No rows came into {', '.join(empty)}: where rows are few, or groups of rows that "
                "stay together, chance has its way. Take another seed=, larger fractions, or "
                "stratify=.",
                UserWarning,
            )
        return {name: self._with(rows) for name, rows in parts.items()}

    def _values(self, what: str | npt.ArrayLike | None) -> Any:
        return self.column(what) if isinstance(what, str) else what

    # ---- batches -------------------------------------------------------------------------

    def plan(
        self,
        batch_size: int = 256,
        *,
        world: int = 1,
        fields: Any = None,
        plan: str | None = None,
        measure: bool = False,
    ) -> Plan:
        """Return how `stream` would deliver these rows, and what it costs; it prints as a text.

        Parameters
        ----------
        batch_size, world, fields, plan
            As for `stream`.
        measure
            Read some rows, at random and in order, and tell how long an epoch takes at their rate.
            That takes a second or two.

        Raises
        ------
        NoRoom
            The budget is too small.
        SpecMismatch
            It would take long to measure, or there is nothing to measure.
        ArraydError
            Measured rows cannot be read.
        """
        step = arguments.positive("batch_size", batch_size) * arguments.positive("world", world)
        chosen = self._chosen(fields)
        made = self._plan(step, chosen, plan)
        if not arguments.flag("measure", measure):
            return made
        meter = RateMeter(self._client, self._manifest, self._wanted(chosen), self._terms.scratch)
        return replace(made, rates=meter.rates(made))

    def _wanted(self, fields: tuple[Field, ...]) -> Values:
        return Values(self._path, self._rows, fields, self._terms.casts, self._terms.overflow)

    def _plan(self, step: int, fields: tuple[Field, ...], kind: str | None) -> Plan:
        most = self._client.status().budget  # the daemon cannot keep more, whatever was asked for
        return planned(self._manifest, self._rows, fields, self._terms, step, most, kind)

    def stream(
        self,
        batch_size: int = 256,
        *,
        seed: int = 0,
        epochs: int | None = 1,
        order: str = "exact",
        block: int = BLOCK,
        buffer: int = BUFFER,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        consumers: int = 1,
        grace: float = 30.0,
        fields: Any = None,
        writable: bool = False,
        plan: str | None = None,
    ) -> Stream:
        """Return an iterator over batches of these rows in random order.

        Each epoch delivers every row once, in an order that depends on `seed` and the epoch alone.
        Streams of one dataset, selection, seed and order share memory and reads, however many
        processes there are.

        Parameters
        ----------
        batch_size
            Rows of a batch; the last one of an epoch may be shorter.
        seed
            Of the order.
        epochs
            How many; None: without end.
        order
            ``"exact"``: uniform over all rows. ``"sequential"``: as they lie. ``"block"``: blocks
            of `block` rows, of which `buffer` at a time are mixed; rows that are near each other in
            the files come near each other, and a `BiasWarning` says how much.
        drop_last
            Leave out the last step of an epoch, if it has no full batch for every rank.
        rank, world
            Which of how many processes this is that train one model together: each gets its part
            of every step, without padding or repetition.
        consumers
            Wait until so many streams of this kind are open, for `grace` seconds at most: two
            trainings that are started together read together from the first row on.
        grace
            Seconds that others wait for a process that stands still, before they go on without.
        fields
            Names of the fields wanted; None: all.
        writable
            Batches may be written to; what is written is this process's own.
        plan
            ``"resident"``; ``"row-random"`` to read from the files; for files that must be decoded
            ``"lazy pack"`` (once, into a scratch file) or ``"windowed"`` (no scratch file: anew for
            each window). None: what reads least within the budget. Where there is no room for a
            scratch file it is windowed, and a `PlanWarning` says so.

        Raises
        ------
        SpecMismatch
            An argument is not as described.
        NoRoom
            The budget is too small.
        """
        chosen = self._chosen(fields)
        terms = StreamTerms(
            batch_size=arguments.positive("batch_size", batch_size),
            seed=seed,
            epochs=None if epochs is None else arguments.positive("epochs", epochs),
            drop_last=arguments.flag("drop_last", drop_last),
            rank=arguments.rank(rank, arguments.positive("world", world)),
            world=world,
            dataset=self.fingerprint,
            plan="",
        )
        limit = None if terms.epochs is None else terms.epochs * len(self)
        pace = Pace(
            batch=terms.step,
            limit=None if limit is None or limit > LAST_POSITION else limit,
            consumers=arguments.positive("consumers", consumers),
            grace=arguments.seconds("grace", grace) or 0.0,
            writable=arguments.flag("writable", writable),
            scratch=self._terms.scratch,
        )
        made = self._plan(terms.step, chosen, plan)
        if made.windowed and plan != WINDOWED:
            _warn_of_decoding(made)
        terms = replace(terms, plan=made.kind)
        order_of = partial(
            EpochOrder, self._rows, terms.seed, kind=order, block=block, buffer=buffer
        )
        _warn_of_bias(order_of(0))
        values = self._wanted(chosen)
        if made.kind == "resident":
            delivery = partial(resident, self._client, values, made, order_of, terms.epochs)
            return Stream(terms, order_of, self._manifest.columns, delivery)
        from_ring = partial(ring, self._client, values, made, order_of(0), pace)
        return Stream(terms, order_of, self._manifest.columns, from_ring)

    def _chosen(self, names: Any) -> tuple[Field, ...]:
        """Return the fields of these names, in the order of the dataset."""
        if names is None:
            return self._fields
        known = {field.name for field in self._fields}
        try:
            wanted = {names} if isinstance(names, str) else set(names)
        except TypeError:  # not iterable, or its members cannot be names
            wanted = set()
        if not wanted or wanted - known:
            raise SpecMismatch(f"fields={names!r}: there are {', '.join(sorted(known))}.")
        return tuple(field for field in self._fields if field.name in wanted)


def _warn_of_bias(order: EpochOrder) -> None:
    """Warn if an order is not uniform, but for one that is not meant to be random."""
    if order.kind == "block" and order.bias() > 1:
        warn_caller(
            f"order='block' with block={order.block}, buffer={order.buffer}: rows that are "
            f"neighbours in the files share a batch {order.bias():,.1f} times as often as by "
            "chance. order='exact' has no such bias.",
            BiasWarning,
        )


def _warn_of_decoding(plan: Plan) -> None:
    warn_caller(
        "There is no room for a scratch file, so rows are decoded anew for each window: in "
        f"order='exact' {plan.decodes:.1f} times per epoch instead of once. {plan.why}. "
        "plan='windowed' says that it is meant.",
        PlanWarning,
    )


def _reopened(path: str, rows: Rows, terms: ValueTerms, endpoint: str) -> Dataset:
    return Dataset(Manifest.load(path), rows, terms, api.client_of(endpoint))
