"""What is pinned for a GPU, and when it is let go, with a CUDA that only notes what is asked."""

from __future__ import annotations

import numpy as np
import pytest

from arrayd.integrations.gpu_copies import (
    PORTABLE,
    READ_ONLY,
    Array,
    PinnedMemory,
    root,
    writeable_alias,
)


class Cudart:
    """Notes what is registered; `refuses` with an error."""

    def __init__(self) -> None:
        self.registered: dict[int, tuple[int, int]] = {}
        self.calls = 0
        self.refuses = False

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802  # CUDA's
        """Register memory that is not registered."""
        self.calls += 1
        assert address not in self.registered
        if self.refuses:
            return 801
        self.registered[address] = (nbytes, flags)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802  # CUDA's name
        """Let go of memory that is registered."""
        del self.registered[address]
        return 0


def ring_of(nbytes: int, *, writeable: bool = False) -> Array:
    """Return memory as a ring has it."""
    ring = np.zeros(nbytes, np.uint8)
    ring.flags.writeable = writeable
    return ring


def test_all_fields_of_a_ring_are_pinned_as_one() -> None:
    """Once, as a whole, as memory that is only read; when it is replaced it is let go."""
    cudart = Cudart()
    pinned = PinnedMemory(cudart)
    ring = ring_of(1 << 16)
    x, y = ring[:4096].view("f4").reshape(16, 64), ring[4096:].view("i8")
    for at in range(4):
        assert not pinned.cover("x", x[at : at + 4])
        assert not pinned.cover("y", y[at : at + 4])
        assert len(cudart.registered) == (at > 0)
    assert cudart.registered == {ring.ctypes.data: (1 << 16, PORTABLE | READ_ONLY)}
    other = ring_of(1 << 14)
    for _ in range(3):
        pinned.cover("x", other[:64].view("f4"))
        pinned.cover("y", other[64:].view("i8"))
    assert cudart.registered == {other.ctypes.data: (1 << 14, PORTABLE | READ_ONLY)}
    assert cudart.calls == 2
    pinned.release()
    assert not cudart.registered
    pinned.release()


def test_what_comes_once_is_not_pinned() -> None:
    """Columns are new arrays each time; a batch over the ring's end is a copy between slices."""
    cudart = Cudart()
    pinned = PinnedMemory(cudart)
    ring = ring_of(1 << 12)
    for number in range(8):
        pinned.cover("label", np.arange(4))
        pinned.cover("x", np.zeros(4) if number % 4 == 3 else ring[number : number + 8])
    assert list(cudart.registered) == [ring.ctypes.data]
    assert cudart.calls == 1


def test_memory_of_our_own_and_memory_that_cannot_be_pinned() -> None:
    """The one is registered without the flag for read-only memory; the other once, in vain."""
    cudart = Cudart()
    pinned = PinnedMemory(cudart)
    buffer = np.zeros(1 << 12, np.uint8)
    for _ in range(2):
        pinned.cover("x", buffer[:8])
    assert cudart.registered == {buffer.ctypes.data: (1 << 12, PORTABLE)}
    cudart.refuses = True
    ring = ring_of(1 << 12)
    assert [pinned.cover("y", ring[:8]) for _ in range(4)] == [False, True, False, False]
    pinned.release()
    assert not cudart.registered


@pytest.mark.parametrize("dtype", ["f4", "i2", "c16", "?"])
def test_an_alias_is_the_same_memory(dtype: str) -> None:
    """It is writeable for those who warn of other memory; what is writeable stays as it is."""
    ring = ring_of(1 << 10)
    array = ring.view(dtype).reshape(-1, 4)[2:8]
    alias = writeable_alias(array)
    assert alias.flags.writeable
    assert alias.ctypes.data == array.ctypes.data
    assert (alias.shape, alias.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(alias, array)
    own = np.zeros(3)
    assert writeable_alias(own) is own
    assert writeable_alias(ring[:0]).shape == (0,)
    assert root(array) is ring
