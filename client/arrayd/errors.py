"""Every error arrayd raises, in one tree.

::

    ArraydError
    ├── SourceError          the thing asked for: the caller or the file is at fault
    │   ├── SourceNotFound   (FileNotFoundError)  no such file, member or dataset
    │   ├── AccessDenied     (PermissionError)    this user may not have it
    │   ├── BadFile          (ValueError)         truncated, corrupt, or of another format
    │   ├── SpecMismatch     (ValueError)         the file is not what the request claims
    │   ├── CastError        (ValueError)         a value does not fit the dtype asked for
    │   ├── SourceChanged                         the file changed while it was read
    │   ├── SourceBusy       (BlockingIOError)    a writer has the file open
    │   ├── ReceiptMismatch  (ValueError)         rows were not delivered as a receipt says
    │   ├── StateMismatch    (ValueError)         a stream's saved state is of another stream
    │   └── TargetExists     (FileExistsError)    a file is where a new one is to be written
    ├── LoadError            the load failed, though the request may be right
    │   ├── LoaderCrashed                         the process that read the file died
    │   ├── LoadTimeout      (TimeoutError)       not there in time
    │   ├── NoRoom           (MemoryError)        budget, /dev/shm or cgroup exhausted
    │   └── MissingDependency (ImportError)       the format needs a package that is absent
    ├── BlockError           a block is not in the state that the call needs
    │   ├── NoSuchBlock      (KeyError)
    │   ├── NoSuchStream     (KeyError)           the daemon no longer knows the consumer
    │   ├── NameTaken
    │   ├── InUse
    │   ├── NotOwner
    │   └── NotSealed
    └── DaemonError          the daemon or the way to it
        ├── NoDaemon         (ConnectionError)    none answers
        ├── DaemonLost                            it went away and did not come back
        └── ProtocolMismatch                      it speaks another version

Anything else that leaves arrayd is a bug in arrayd.

The class is the wire code: an error crosses the socket as ``{code, message,
details}`` and comes out as the same class. ``details`` holds plain numbers and
strings (bytes needed, a line number, pids) for programs that want them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class ArraydError(Exception):
    """Base of all errors of arrayd.

    Parameters
    ----------
    message
        What happened, whose fault it is, the numbers, and what to do.
    details
        The numbers again, for programs.
    """

    def __init__(self, message: str, **details: Any) -> None:
        # Names of files and members may be no UTF-8; the message must be printable nevertheless.
        self.message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(self.message)
        self.details = details

    def __str__(self) -> str:
        # KeyError would print the repr, OSError an errno: the message is the message.
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.message, self.details)


class SourceError(ArraydError):
    """The source that was asked for is wrong."""


class SourceNotFound(SourceError, FileNotFoundError):
    """There is no such file, member or dataset."""


class AccessDenied(SourceError, PermissionError):
    """The caller may not have it."""


class BadFile(SourceError, ValueError):
    """The file is truncated, corrupt, or not of its format."""


class SpecMismatch(SourceError, ValueError):
    """The file is not what the request says it is."""


class CastError(SourceError, ValueError):
    """A value does not fit the dtype it was to be cast to."""


class SourceChanged(SourceError):
    """The file changed while it was being read."""


class SourceBusy(SourceError, BlockingIOError):
    """A writer has the file open; what h5py raises for it is a BlockingIOError too."""


class ReceiptMismatch(SourceError, ValueError):
    """The rows of an epoch were not delivered as its receipt says, or it is of another run."""


class StateMismatch(SourceError, ValueError):
    """What a stream is to be resumed from is the state of another stream."""


class TargetExists(SourceError, FileExistsError):
    """A file is there already where a new one is to be written."""


class LoadError(ArraydError):
    """A load failed, though the request may be right."""


class LoaderCrashed(LoadError):
    """The process that read the file died."""


class LoadTimeout(LoadError, TimeoutError):
    """The array was not there in time."""


class NoRoom(LoadError, MemoryError):
    """The budget, /dev/shm or the memory cgroup is exhausted.

    Or the caller's own: its descriptors (``ulimit -n``), mappings, address space or threads; or the
    disk that it writes to.
    """


class MissingDependency(LoadError, ImportError):
    """The format needs a package that is not installed."""


class BlockError(ArraydError):
    """A block is not in the state that the call needs."""


class NoSuchBlock(BlockError, KeyError):
    """No block of that name."""


class NoSuchStream(BlockError, KeyError):
    """The daemon does not know this consumer of a stream, or not any more."""


class NameTaken(BlockError):
    """Another block has that name."""


class InUse(BlockError):
    """Somebody still holds or maps the block."""


class NotOwner(BlockError):
    """Only the session that created the block may do this."""


class NotSealed(BlockError):
    """The block is still being written."""


class DaemonError(ArraydError):
    """The daemon, or the way to it, failed."""


class NoDaemon(DaemonError, ConnectionError):
    """No daemon answers at the endpoint."""


class DaemonLost(DaemonError):
    """The daemon went away during the call and did not come back in time."""


class ProtocolMismatch(DaemonError):
    """The daemon speaks another version of the protocol."""


class PrecisionWarning(UserWarning):
    """A cast changed values: the dtype asked for has too few bits for them."""


class BiasWarning(UserWarning):
    """The rows of a stream are not in uniformly random order."""


class PlanWarning(UserWarning):
    """A stream is delivered at a higher cost than its files need."""


def _tree(cls: type[ArraydError]) -> Iterator[type[ArraydError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


_BY_CODE: dict[str, type[ArraydError]] = {cls.__name__: cls for cls in _tree(ArraydError)}


def _rebuild(code: str, message: str, details: Mapping[str, Any]) -> ArraydError:
    return _BY_CODE.get(code, ArraydError)(message, **details)


def to_wire(error: ArraydError) -> dict[str, Any]:
    """Return the msgpack-able form of `error`."""
    return {"code": type(error).__name__, "message": error.message, "details": error.details}


def from_wire(body: Mapping[str, Any]) -> ArraydError:
    """Return the error that `to_wire` described; an unknown code becomes `ArraydError`."""
    details = {str(k): v for k, v in dict(body.get("details") or {}).items() if k != "message"}
    return _rebuild(str(body.get("code")), str(body.get("message")), details)
