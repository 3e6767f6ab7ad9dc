"""Hashes of rows: 64 bits from a row, a seed, an epoch and a purpose.

`arrayd.samples.order` defines them in full and has test vectors; this module computes them. The
finaliser `mix64` is that of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014; its constants are variant 13 of D. Stafford). It maps the 64-bit numbers
one to one, and so does the multiplication with the odd `PHI`: **two rows never have the same
key**, whatever the seed. Hence sorting by key needs no rule for ties, and any sorting algorithm
gives the same order.

The purpose (a word of at most eight letters) gives each use a key of its own: the order of an
epoch, seeds for augmentation, splits and subsets know nothing of each other.
"""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arrayd.errors import SpecMismatch

Keys: TypeAlias = npt.NDArray[np.uint64]

PHI = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, made odd."""

_A = 0xBF58476D1CE4E5B9
_B = 0x94D049BB133111EB
_MASK = 2**64 - 1

CHUNK = 1 << 16
"""Rows that are hashed at a time: half a megabyte, which stays in a core's cache."""


def mix64(z: int) -> int:
    """Return the finaliser of SplitMix64 of a number 0 ≤ z < 2**64."""
    z = (z ^ (z >> 30)) * _A & _MASK
    z = (z ^ (z >> 27)) * _B & _MASK
    return z ^ (z >> 31)


def checked_seed(seed: Any) -> int:
    """Return `seed` as an int.

    Raises
    ------
    SpecMismatch
        It is not a whole number from 0 to 2**64 - 1.
    """
    return _unsigned("seed", seed)


def checked_epoch(epoch: Any) -> int:
    """Return `epoch` as an int; raises `SpecMismatch` as `checked_seed` does."""
    return _unsigned("epoch", epoch)


def _unsigned(key: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, (bool, np.bool_)) or not 0 <= number <= _MASK:
        raise SpecMismatch(f"{key}={value!r}: it is a whole number from 0 to 2**64 - 1.")
    return number


def purpose_key(purpose: str, seed: int, epoch: int = 0) -> int:
    """Return the number that makes the keys of one purpose, seed and epoch; 64 bits.

    Parameters
    ----------
    purpose
        At most eight ASCII letters.
    seed, epoch
        From 0 to 2**64 - 1.
    """
    word = int.from_bytes(purpose.encode("ascii"), "little")
    return mix64(mix64(mix64(word) + seed & _MASK) + epoch & _MASK)


def row_keys(rows: npt.NDArray[np.unsignedinteger[Any]], key: int) -> Keys:
    """Return the key of each row: ``mix64(mix64(row * PHI + key))``.

    Parameters
    ----------
    rows : array of uint32 or uint64, shape (n,)
        It stays as it is.
    key
        What `purpose_key` returned.

    Returns
    -------
    array of uint64, shape (n,)
        No two equal for rows that differ.
    """
    out = rows.astype(np.uint64)
    spare = np.empty(min(len(out), CHUNK), np.uint64)
    for start in range(0, len(out), CHUNK):
        z = out[start : start + CHUNK]
        z *= np.uint64(PHI)
        z += np.uint64(key)
        for _ in range(2):
            _mix(z, spare[: len(z)])
    return out


def _mix(z: Keys, spare: Keys) -> None:
    """Apply `mix64` to each element, in place: no memory is allocated."""
    for shift, factor in ((30, _A), (27, _B), (31, 1)):
        np.right_shift(z, np.uint64(shift), out=spare)
        z ^= spare
        if factor != 1:
            z *= np.uint64(factor)
