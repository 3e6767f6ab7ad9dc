"""One copy of your big NumPy arrays per machine, shared by every process.

>>> import arrayd
>>> a = arrayd.get("train.h5:/x")        # doctest: +SKIP

loads the dataset once, whoever asks, and maps it read-only into each process that does.
The block goes away when the last array in it is gone, however its process ended.
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from arrayd.errors import (
    AccessDenied,
    ArraydError,
    BadFile,
    BiasWarning,
    BlockError,
    CastError,
    DaemonError,
    DaemonLost,
    InUse,
    LoaderCrashed,
    LoadError,
    LoadTimeout,
    MissingDependency,
    NameTaken,
    NoDaemon,
    NoRoom,
    NoSuchBlock,
    NotOwner,
    NotSealed,
    PlanWarning,
    PrecisionWarning,
    ProtocolMismatch,
    ReceiptMismatch,
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceNotFound,
    SpecMismatch,
    StateMismatch,
    TargetExists,
)
from arrayd.wire.protocol import PACKAGE_VERSION

# The processes of the server use what it shares with the client, such as these errors. The client
# itself would be a fifth of the time in which a daemon or a loader starts.
if _TYPE_CHECKING or "arrayd_server" not in _sys.modules:
    from arrayd import reduction as _reduction  # noqa: F401 - not when it is needed, which may be at exit
    from arrayd.api import (
        connect,
        create,
        evict,
        get,
        get_many,
        info,
        prefetch,
        put,
        release,
        status,
    )
    from arrayd.array import Block, SharedArray
    from arrayd.client import Client
    from arrayd.source import Source

if _TYPE_CHECKING:
    from arrayd.datasets.dataset import Dataset
    from arrayd.datasets.opening import dataset
    from arrayd.datasets.writer import RowWriter, writer
    from arrayd.results.info import Info
    from arrayd.results.progress import Progress
    from arrayd.results.status_table import Status

__version__ = PACKAGE_VERSION

_HOMES = {
    "arrayd.api": "connect create evict get get_many info prefetch put release status",
    "arrayd.array": "Block SharedArray",
    "arrayd.client": "Client",
    "arrayd.datasets.dataset": "Dataset",
    "arrayd.datasets.opening": "dataset",
    "arrayd.datasets.writer": "RowWriter writer",
    "arrayd.results.info": "Info",
    "arrayd.results.progress": "Progress",
    "arrayd.results.status_table": "Status",
    "arrayd.source": "Source",
}
"""What is imported when it is used: datasets, and what is told of files and of the daemon, each a
fifth of the time of `import arrayd`; all of these where the server was imported first, as in a
plug-in that asks for an array."""

_LATER = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'arrayd' has no attribute {name!r}")
    found = getattr(_importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "AccessDenied",
    "ArraydError",
    "BadFile",
    "BiasWarning",
    "Block",
    "BlockError",
    "CastError",
    "Client",
    "DaemonError",
    "DaemonLost",
    "Dataset",
    "InUse",
    "Info",
    "LoadError",
    "LoadTimeout",
    "LoaderCrashed",
    "MissingDependency",
    "NameTaken",
    "NoDaemon",
    "NoRoom",
    "NoSuchBlock",
    "NotOwner",
    "NotSealed",
    "PlanWarning",
    "PrecisionWarning",
    "Progress",
    "ProtocolMismatch",
    "ReceiptMismatch",
    "RowWriter",
    "SharedArray",
    "Source",
    "SourceBusy",
    "SourceChanged",
    "SourceError",
    "SourceNotFound",
    "SpecMismatch",
    "StateMismatch",
    "Status",
    "TargetExists",
    "__version__",
    "connect",
    "create",
    "dataset",
    "evict",
    "get",
    "get_many",
    "info",
    "prefetch",
    "put",
    "release",
    "status",
    "writer",
]
