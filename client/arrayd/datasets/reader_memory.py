"""The memory that the reader of a stream needs for itself, beside its ring and resident share.

In bytes, for n rows of a selection, s slots of the ring and a share of k rows::

    20 n + 16 k + 2 max(min(4 MiB, s/3 (b + 1 KiB)), 3 b) - 1 MiB

- 20 per row of the selection: its ids (8), the order of the present epoch (4), and that of the
  next one while it is sorted (8).
- 16 per row of the share: where each id is.
- Two buffers, one for each window that is read at a time: of 4 MiB, of a smaller window (a third
  of the ring; rows begin and end amid sectors), or of three rows of a field of b bytes. A row of
  more than 4 MiB goes by one buffer of that size.

Beside it a reader is an interpreter with NumPy, of some 20 MiB, and interpreters differ: so the
first MiB is not counted. Its process, the one that it is forked from and the daemon together take
15 MiB more than interpreters that have imported arrayd do (measured: proportional set sizes): of a
budget of `PROCESSES_FROM` or more they are set aside too. Decoding takes up to three times the unit
beside that, which the plan says (`plan.py`), and at most what the daemon allows
(``--loader-memory``).
"""

from __future__ import annotations

from collections.abc import Sequence

ORDER_BYTES, SHARE_BYTES = 20, 16
WINDOWS, PARTS, RING_PARTS = 2, 3, 3
BUFFER_BYTES = LARGE_BYTES = 4 << 20

UNCOUNTED = 1 << 20
PROCESS_BYTES, PROCESSES_FROM = 16 << 20, 64 << 20

_EDGES = 1024
"""Of the sectors in which a row begins and ends, what is not of the row, at most."""


def reader_memory(rows: int, slots: int, share: int, read_bytes: Sequence[int], budget: int) -> int:
    """Return the bytes that a reader needs.

    Parameters
    ----------
    rows, slots, share
        Of the selection, the ring, and the resident share.
    read_bytes
        Of a row of each field, as it is read.
    budget
        Of which they come.
    """
    row = max(read_bytes, default=0)
    buffer = LARGE_BYTES if row else 0
    if 0 < row <= LARGE_BYTES:
        buffer = max(min(BUFFER_BYTES, slots // RING_PARTS * (row + _EDGES)), PARTS * row)
    arrays = ORDER_BYTES * rows + SHARE_BYTES * share + WINDOWS * buffer
    return max(0, arrays - UNCOUNTED) + PROCESS_BYTES * (budget >= PROCESSES_FROM)
