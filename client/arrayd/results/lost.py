"""What arrives instead of an array whose reference cannot be redeemed.

Nobody can catch an exception raised while a message is unpickled. In the worker of a Pool it comes
before the task's own ``try`` and ends the worker; the Pool starts another and waits for ever. In
the thread that reads results it hangs the caller. So a reference to a block that is gone, or
without a daemon to ask, is unpickled as a `LostArray`, and whatever is done with that raises the
error, where the task or its caller can catch it. It is not an empty array, which code in C would
read without complaint: its ``sum`` would be 0. It can be pickled again.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

from arrayd.errors import ArraydError

# fmt: off
_USES = (
    "array", "array_ufunc", "array_function", "dlpack", "dlpack_device", "len", "getitem",
    "setitem", "delitem", "iter", "reversed", "contains", "bool", "int", "float", "complex",
    "index", "format", "str", "bytes", "eq", "ne", "lt", "le", "gt", "ge", "add", "radd", "iadd",
    "sub", "rsub", "isub", "mul", "rmul", "imul", "truediv", "rtruediv", "itruediv", "floordiv",
    "rfloordiv", "ifloordiv", "mod", "rmod", "imod", "divmod", "rdivmod", "pow", "rpow", "ipow",
    "matmul", "rmatmul", "imatmul", "and", "rand", "iand", "or", "ror", "ior", "xor", "rxor",
    "ixor", "lshift", "rlshift", "ilshift", "rshift", "rrshift", "irshift", "neg", "pos", "abs",
    "invert", "round", "trunc", "floor", "ceil",
)
# fmt: on
"""The special methods by which Python, numpy and others use an array."""


class LostArray:
    """An array that did not arrive. It raises `error` when it is used in any way.

    Parameters
    ----------
    error
        Why: `NoSuchBlock`, `SourceChanged`, `DaemonError` …
    """

    __slots__ = ("_error",)
    _held = None  # `arrayd.release` has nothing to do

    def __init__(self, error: ArraydError) -> None:
        object.__setattr__(self, "_error", error)

    def __repr__(self) -> str:
        return f"<LostArray: {type(self._error).__name__}: {self._error}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return LostArray, (self._error,)

    def __copy__(self) -> LostArray:
        return self

    def __deepcopy__(self, memo: object) -> LostArray:
        return self

    def __getattr__(self, name: str) -> NoReturn:
        self._raise()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self._raise()

    def __delattr__(self, name: str) -> NoReturn:
        self._raise()

    __hash__ = object.__hash__

    def _raise(self, *_: object, **__: object) -> NoReturn:
        # A new one each time: a traceback would keep what is in its frames alive, and grow.
        error: ArraydError = object.__getattribute__(self, "_error")
        raise copy.copy(error)


for _use in _USES:
    setattr(LostArray, f"__{_use}__", LostArray._raise)
