"""One copy of your big NumPy arrays per machine, shared by every process.

>>> import arrayd
>>> a = arrayd.get("train.h5:/x")        # doctest: +SKIP

loads the dataset once, whoever asks, and maps it read-only into each process that does.
The block goes away when the last array in it is gone, however its process ended.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from arrayd import reduction as _reduction
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
from arrayd.results.info import Info
from arrayd.results.progress import Progress
from arrayd.results.status_table import Status
from arrayd.source import Source
from arrayd.wire.protocol import PACKAGE_VERSION

if _TYPE_CHECKING:
    from arrayd.datasets.dataset import Dataset
    from arrayd.datasets.opening import dataset
    from arrayd.datasets.writer import RowWriter, writer

__version__ = PACKAGE_VERSION

_LATER = {
    "Dataset": "arrayd.datasets.dataset",
    "RowWriter": "arrayd.datasets.writer",
    "dataset": "arrayd.datasets.opening",
    "writer": "arrayd.datasets.writer",
}
"""What is imported when it is used: a fifth of the time of `import arrayd`."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'arrayd' has no attribute {name!r}")
    found = getattr(_importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


_reduction.install()

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
