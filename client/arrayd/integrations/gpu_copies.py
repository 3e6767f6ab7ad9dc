"""Batches copied to a GPU, from memory that the GPU reads by itself.

Theory of operation
-------------------
A copy from ordinary memory goes through a buffer of the driver. From *pinned* memory, whose pages
stay where they are, the GPU copies by itself: four to six times as fast (H100: 30 against 5 to 8
GB/s), while the process goes on. So what batches are slices of is pinned once, as a whole: the
ring of a stream, or the memory into which resident rows are gathered.

Only a mapping that is shared with the daemon may be pinned. To pin the pages of a private
(copy-on-write) mapping is to write to them, as far as the kernel is concerned: it makes copies,
and what the daemon fills in later is never seen (tried: of 3.2 million values that were compared
1.6 million were wrong). So batches are read-only here, and are never shown to the program: it gets
the copies.

The copies run in a CUDA stream of their own, beside the computation on the batch before. The
stream that is current when a batch is asked for waits for them; the process waits, before it goes
on to the next batch, until they have left the memory that will be used again.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PORTABLE, READ_ONLY = 0x01, 0x08
"""Flags of ``cudaHostRegister`` (cuda_runtime_api.h)."""


class PinnedMemory:
    """Memory that is registered with CUDA, by the name of what lies in it.

    Only what is seen twice in turn is worth it: a batch that is a copy comes once.

    Parameters
    ----------
    cudart
        ``torch.cuda.cudart()``, or what has its ``cudaHostRegister`` and ``cudaHostUnregister``.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._latest: dict[str, Array] = {}
        self._roots: dict[str, Array] = {}  # keeps the memory
        self._registered: dict[int, bool] = {}  # by address; False: it could not be

    def cover(self, name: str, array: Array) -> bool:
        """Pin the memory that an array is a slice of, in place of what its name had before.

        Returns
        -------
        bool
            Whether a registration failed just now. Such memory works, but slowly.
        """
        found = root(array)
        if self._roots.get(name) is found:
            return False
        if self._latest.get(name) is not found:
            self._latest[name] = found
            return False
        self._roots[name] = found
        self._release_unused()
        address = found.ctypes.data
        if address in self._registered or not found.nbytes:
            return False
        flags = PORTABLE if found.flags.writeable else PORTABLE | READ_ONLY
        error = int(self._cudart.cudaHostRegister(address, found.nbytes, flags))
        self._registered[address] = not error
        return bool(error)

    def _release_unused(self) -> None:
        used = {one.ctypes.data for one in self._roots.values()}
        for address in self._registered.keys() - used:
            if self._registered.pop(address):
                self._cudart.cudaHostUnregister(address)

    def release(self) -> None:
        """Let go of all memory; it must still be there, and no copy of it under way."""
        kept, self._roots = self._roots, {}
        self._latest = {}
        self._release_unused()
        del kept  # not before


def root(array: Array) -> Array:
    """Return the array that owns the memory of a view, or has it from something that is none."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def writeable_alias(array: Array) -> Array:
    """Return the same memory without its protection, for a library that would warn of it.

    It must only be read, and not be kept: it does not keep the memory.
    """
    if array.flags.writeable or not array.flags.c_contiguous:
        return array
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    found: Array = np.frombuffer(memoryview(memory), array.dtype)
    return found.reshape(array.shape)


class GpuCopies:
    """Copies arrays to a GPU.

    Parameters
    ----------
    torch
        The module.
    device
        A ``torch.device`` of type "cuda".
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()
        pinned = PinnedMemory(torch.cuda.cudart())
        self._pinned = pinned
        self._end = weakref.finalize(self, pinned.release)
        self._end.atexit = False  # CUDA may be gone by then

    def cover(self, name: str, array: Array) -> None:
        """Pin what an array is a slice of."""
        if self._pinned.cover(name, array):
            # The failure is still CUDA's "last error", and would be raised for something else.
            with contextlib.suppress(RuntimeError):
                self._torch.zeros(1, device=self._device)

    def copied(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Start to copy tensors; the current stream may use the copies at once."""
        torch, current = self._torch, self._torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            found = {name: one.to(self._device, non_blocking=True) for name, one in tensors.items()}
            self._done.record(self._stream)
        current.wait_stream(self._stream)
        for one in found.values():
            one.record_stream(current)  # its memory came from the other stream's pool
        return found

    def wait(self) -> None:
        """Wait until the latest copies are there."""
        self._done.synchronize()

    def close(self) -> None:
        """Let go of all memory, when the copies are there."""
        self.wait()
        self._pinned.release()
