"""The picklers of messages, to which arrays are registered to travel by reference.

Each library has one of its own for what it sends to other processes, beside the plain ones with
which people save files. None has a way to be told beforehand, and to import them from here would
cost everybody half a second. A hook on the import is what is left: the other events, such as the
first array, may all lie before ``import joblib``.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.array import SharedArray

if TYPE_CHECKING:
    from importlib.abc import Loader  # slow to import, and these classes are not looked into

Reducer = Callable[[Any], tuple[Any, ...]]
"""What a pickler calls for an object: it returns a function and its arguments."""


_reducers: dict[type, Reducer] = {}


def register(kind: type, reducer: Reducer) -> None:
    """Have every pickler of messages, imported already or not, reduce `kind` by `reducer`."""
    _reducers[kind] = reducer
    for name, tell in _PICKLERS.items():
        if name in sys.modules:
            tell(sys.modules[name])


def _registry(module: ModuleType) -> None:
    """Register with a module that has a function for it."""
    for kind, reducer in _reducers.items():
        module.register(kind, reducer)


def _joblib_pool(module: ModuleType) -> None:
    """Register with joblib's multiprocessing backend, where each pickler has its own table."""
    own: Any = module.CustomizablePickler

    class Pickler(own):  # type: ignore[misc]  # joblib has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for kind, reducer in _reducers.items():
                self.register(kind, reducer)

    module.CustomizablePickler = Pickler  # type: ignore[attr-defined]  # the same


def _dask(module: ModuleType) -> None:
    """Have Dask's scheduler of processes, and it alone, use a cloudpickle that knows us."""
    if getattr(module, "_dumps", None) is not None:
        module._dumps = cloudpickled  # type: ignore[attr-defined]  # Dask has no types


def _distributed(module: ModuleType) -> None:
    """Have dask.distributed pickle what is not final; it has serializers for numpy's arrays.

    They send values, maybe to another machine. What is not final is a reference there too, or
    an error where it arrives.
    """

    def serialize(shared: SharedArray, context: Any = None) -> Any:
        if shared._unsealed:
            raise NotImplementedError  # distributed's word for: use the next serializer, pickle
        values: Any = module.dask_serialize.dispatch(np.ndarray)  # registered when it is asked for
        return values(shared.view(np.ndarray), context=context)

    module.dask_serialize.register(SharedArray, serialize)


def cloudpickled(value: Any) -> bytes:
    """Return a message as cloudpickle makes it, with arrays by reference."""
    own = importlib.import_module("cloudpickle").Pickler
    table = ChainMap(_reducers, own.dispatch_table)
    pickler = type("Pickler", (own,), {"dispatch_table": table})
    with io.BytesIO() as file:
        pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()


_PICKLERS: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _registry,
    "joblib.externals.loky.backend.reduction": _registry,
    "loky.backend.reduction": _registry,
    "multiprocess.reduction": _registry,  # pathos
    "joblib.pool": _joblib_pool,
    "dask.multiprocessing": _dask,
    "distributed.protocol.serialize": _distributed,
}


class _Registering:
    """Runs a module's own loader, then registers with the module."""

    def __init__(self, loader: Loader, tell: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._tell = tell

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._tell(module)


class _Finder:
    """Finds the modules with those picklers when they are imported after us."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        tell = _PICKLERS.get(fullname)
        spec = None if tell is None else PathFinder.find_spec(fullname, path, target)
        if tell is not None and spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, tell)  # type: ignore[assignment]  # see Loader
        return spec


sys.meta_path.insert(0, _Finder())
