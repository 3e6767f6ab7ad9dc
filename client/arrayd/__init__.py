"""One copy of your big NumPy arrays per machine, shared by every process.

>>> import arrayd
>>> a = arrayd.get("train.h5:/x")        # doctest: +SKIP

loads the dataset once, whoever asks, and maps it read-only into each process that does.
The block goes away when the last array in it is gone, however its process ended.
"""

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
from arrayd.datasets.dataset import Dataset
from arrayd.datasets.opening import dataset
from arrayd.datasets.writer import RowWriter, writer
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

__version__ = PACKAGE_VERSION

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
