"""What a stream has delivered of an epoch: the digest of all rows, and this rank's own part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from arrayd.samples.receipt import EpochDigest, ShareSum

Ids = npt.NDArray[np.uint64]

AT_ONCE = 1 << 14
"""Rows that are digested together: a call per batch would cost more than the batch."""


class Delivered:
    """Of one epoch, from its first position on.

    Parameters
    ----------
    digest
        Of what was delivered before, by whomever.
    first
        This is the only rank, or the first one: what was delivered before counts as its own.
    alone
        This is the only rank: all rows are its own.
    """

    def __init__(
        self, digest: EpochDigest | None = None, *, first: bool = True, alone: bool = False
    ) -> None:
        self._digest = EpochDigest() if digest is None else digest
        self._share = self._digest.share
        if not alone:
            self._share = self._share.copy() if first else ShareSum()
        self._alone = alone
        self._later: list[tuple[Ids, slice]] = []
        self._waiting = 0

    def add(self, ids: Ids, own: slice) -> None:
        """Note the rows at the next positions, of which those in `own` are this rank's.

        The array must stay as it is.
        """
        self._later.append((ids, own))
        self._waiting += len(ids)
        if self._waiting >= AT_ONCE:
            self._take()

    def _take(self) -> None:
        if not self._later:
            return
        later, self._later, self._waiting = self._later, [], 0
        self._digest.update(np.concatenate([ids for ids, _ in later]))
        if not self._alone:
            self._share.update(np.concatenate([ids[own] for ids, own in later]))

    @property
    def digest(self) -> EpochDigest:
        """The digest of all positions so far."""
        self._take()
        return self._digest

    @property
    def share(self) -> ShareSum:
        """Which of them were this rank's."""
        self._take()
        return self._share
