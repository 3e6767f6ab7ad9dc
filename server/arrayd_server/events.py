"""What happens to a daemon: each kind has an identity of its own, for programs that watch for it.

A line of the log that is one of these carries it (`logging`: ``extra``), and the facts: which
block, of which file, for which user and process, how many bytes. `journal` makes fields of them,
and ``deploy/system/arrayd.catalog``, which is made of this table, explains each kind
(``journalctl -x``). An identity stays for good: who watches for one does not know our versions.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of event.

    Parameters
    ----------
    name
        A word for it, ``ARRAYD_EVENT``.
    message_id
        128 random bits in hexadecimal digits, ``MESSAGE_ID``.
    subject
        One line of the catalogue; names of fields between ``@`` stand for their values.
    meaning
        What it means, and what to do.
    """

    name: str
    message_id: str
    subject: str
    meaning: str

    def about(
        self,
        *,
        block: str | None = None,
        source: object = None,
        uid: int | None = None,
        pid: int | None = None,
        bytes: int | None = None,
    ) -> dict[str, Any]:
        """Return what a line of the log is to carry (``extra``).

        Parameters
        ----------
        block
            The name of a segment.
        source
            What it holds, or was asked for.
        uid, pid
            The user and the process that have caused it.
        bytes
            Of the block.
        """
        facts = {"block": block, "source": source, "uid": uid, "pid": pid, "bytes": bytes}
        return {"event": self, **{name: fact for name, fact in facts.items() if fact is not None}}


FACTS = ("block", "source", "uid", "pid", "bytes")
"""The facts that `Event.about` may add, ``ARRAYD_BLOCK`` and so on."""

STARTED = Event(
    "started",
    "c60687f7a0cf471489270e7673f8bcfe",
    "arrayd serves",
    "It has adopted what an earlier run left, and answers requests now.",
)
ENDED = Event(
    "ended",
    "b5a2fc0ec052458ba7974b67ae201fb9",
    "arrayd has ended",
    "Of the blocks it left only those that somebody still maps, or, at a restart, all of "
    "them: the next run adopts them.",
)
ADOPTED = Event(
    "adopted",
    "30946451bd9f48bb8af959892ff1a247",
    "The blocks of an earlier run are taken over: @ARRAYD_BYTES@ bytes",
    "Who had mapped them noticed nothing, and what is asked for again is not loaded again.",
)
NOT_ADOPTED = Event(
    "not-adopted",
    "b0650fbfbfb747ff9d5bc29fc61630d9",
    "A segment of an earlier run is not taken over: @ARRAYD_BLOCK@",
    "It is of a newer version of arrayd, and left alone, or damaged, and removed; the message "
    "says which. What is asked for again is loaded again.",
)
SEALED = Event(
    "sealed",
    "b6619754b2b54e849e90a100c6b586ae",
    "An array is in memory: @ARRAYD_SOURCE@",
    "It was loaded, or published by a program, into @ARRAYD_BLOCK@, @ARRAYD_BYTES@ bytes. Nobody "
    "writes it from now on.",
)
LOAD_FAILED = Event(
    "load-failed",
    "ccf7af12e99c4239bbcbae1b2c0774f8",
    "A load has failed: @ARRAYD_SOURCE@",
    "Whoever waited for it has got the error. The message has its first words; `arrayd info` "
    "tries the same file without loading it.",
)
GRANTED = Event(
    "granted",
    "a963008ad82c47ffb4f6126bba96f55f",
    "User @ARRAYD_UID@ may read @ARRAYD_SOURCE@",
    "The process @ARRAYD_PID@ of this user has got the right to map @ARRAYD_BLOCK@, because "
    "it could read the file itself.",
)
REFUSED = Event(
    "refused",
    "59560b5a6d3d4ceba1a1426f561d06a5",
    "User @ARRAYD_UID@ was refused @ARRAYD_SOURCE@",
    "What the process @ARRAYD_PID@ asked for, and the rule that forbids it, are in the "
    "message. Files are governed by their own modes and by the options `allow` and `roots`, "
    "see arrayd.toml(5).",
)
KICKED = Event(
    "kicked",
    "bfb884df77c149c2b88a832288974367",
    "User @ARRAYD_UID@ has ended the sessions of a process",
    "See `arrayd kick`. Arrays that the process has mapped stay readable to it.",
)
EVICTED = Event(
    "evicted",
    "1d88e29a0d55477585fb22379eccbb7b",
    "User @ARRAYD_UID@ has freed @ARRAYD_SOURCE@",
    "See `arrayd evict`. Only blocks that nobody held have gone.",
)
DRAINING = Event(
    "draining",
    "45fca4c4ebcd49e5a083530182f138f8",
    "User @ARRAYD_UID@ has begun, or ended, a drain",
    "While it lasts nothing new is loaded; what is in memory is granted. See `arrayd drain`.",
)
RELOADED = Event(
    "reloaded",
    "61917038619c46f6a413a5ff8e36da2a",
    "The options were read again",
    "Nothing was dropped. Options that wait for a restart are in a message of their own.",
)
RELOAD_REFUSED = Event(
    "reload-refused",
    "217f1e67340e4083a9a8d709aef46601",
    "The options could not be read again",
    "All stay as they were. `arrayd config check` tells what is wrong, and in which line.",
)
REPLACED = Event(
    "replaced",
    "c5155f7eac6043bebf10df3520d4e44e",
    "Another daemon has this endpoint now",
    "This one has stopped, and the other has its blocks. Two services or programs start a "
    "daemon at the same place: compare `systemctl list-units 'arrayd*'` and `--endpoint`.",
)
SOCKET_GONE = Event(
    "socket-gone",
    "b1e15372a95b466c988301ca5b1c6b06",
    "The socket is gone",
    "Nobody could reach the daemon any more, so it stops. Something has removed the file, "
    "such as a rule of tmpfiles.d.",
)
UNNEEDED = Event(
    "unneeded",
    "6f67f893b85547df9e7c61f80d8441ef",
    "Nobody needs the daemon",
    "It stops, as the option `idle_exit` says. The next request starts one, if it is started "
    "by a socket.",
)
SEGMENT_REMOVED = Event(
    "segment-removed",
    "38c9dcad658042029508cd4258c0781d",
    "Somebody has removed a segment: @ARRAYD_BLOCK@",
    "Who has mapped it reads on; others get @ARRAYD_SOURCE@ loaded again. Programs that empty "
    "/dev/shm, or `RemoveIPC=` of logind.conf(5), do this.",
)
LOADER_ENDED = Event(
    "loader-ended",
    "803da58985c4433aa0a3e9479abcd1f2",
    "A loader process has ended in an odd way",
    "Its load has failed or is tried again, and another loader takes its place. Out of memory "
    "and files that crash a decoder are the usual reasons.",
)
BUG = Event(
    "bug",
    "3563a81b9ae347099b009c0709fe94db",
    "A request has met a bug in arrayd",
    "Who asked has got an error, and the daemon goes on. The message has what its developers need.",
)

EVENTS = tuple(one for one in globals().values() if isinstance(one, Event))
"""All of them, in the order above."""


def catalogue() -> str:
    """Return what explains each kind, as ``journalctl --update-catalog`` reads it."""
    return "\n".join(
        f"-- {one.message_id}\nSubject: {one.subject}\nDefined-By: arrayd\n"
        f"Documentation: man:arrayd(1)\n\n{textwrap.fill(one.meaning, 80)}\n"
        for one in EVENTS
    )
