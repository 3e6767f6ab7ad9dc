"""What sets a limit to the daemon's memory, in words, and what makes it larger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit.

    Parameters
    ----------
    words
        What it is, to follow a size: ``the budget of 32.0 MiB, WORDS``; "" says no more.
    remedy
        What makes it larger, to follow "or".
    """

    words: str
    remedy: str


GIVEN = Bound("", "raise the daemon's --budget")
"""The budget was given as a number of bytes."""

SHM = Bound(
    "/dev/shm",
    "enlarge /dev/shm (docker run --shm-size=… or --ipc=host; elsewhere `mount -o "
    "remount,size=… /dev/shm`)",
)

CGROUP = Bound(
    "the memory limit of the daemon's cgroup",
    "raise that limit (docker run --memory=…, systemd's MemoryMax=)",
)

RAM = Bound("RAM", "raise the daemon's --budget")


def share(of: Bound, percent: str, size: str) -> Bound:
    """Return the bound of a budget that is a part of another limit, as it was at the start."""
    return Bound(
        f", which is {percent} of {of.words} ({size})",
        f"{of.remedy}, then reload the daemon (SIGHUP), or `arrayd stop` it: it measures again",
    )
