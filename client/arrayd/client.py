"""`Client`: a session with the daemon. Arrays in, holds kept, holds given back."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.array import SharedArray
from arrayd.common import arguments, failpoints
from arrayd.errors import (
    ArraydError,
    DaemonLost,
    NoSuchBlock,
    SpecMismatch,
)
from arrayd.results.info import Info, InfoAnswer
from arrayd.results.lost import LostArray
from arrayd.results.progress import Progress, reporter
from arrayd.results.status_table import Status
from arrayd.session import sealing
from arrayd.session.fetch import TRIES, Fetching, Terms, bare
from arrayd.session.request import SourceLike, Wish
from arrayd.session.session import Session, good, told
from arrayd.source import Source
from arrayd.system.mapping import Vanished
from arrayd.wire import dtypes, protocol
from arrayd.wire.grant import Grant


class Client(Session):
    """A session. Thread-safe; in a forked child it becomes a session of the child.

    The methods of the same names as arrayd's functions do what is said there.

    Parameters
    ----------
    endpoint
        Of the daemon, ``ipc://…``; None: found as `arrayd.connect` says.
    start
        Whether a private daemon may be started.

    Raises
    ------
    NoDaemon
        None answers.
    """

    # ---- arrays --------------------------------------------------------------------------

    def get(self, source: SourceLike, **options: Any) -> SharedArray:
        """Return the array of `source`; see `arrayd.get`."""
        result: SharedArray = self.get_many([source], **options)[0]
        return result

    def get_many(
        self,
        sources: Iterable[SourceLike],
        *,
        return_errors: bool = False,
        mode: str = "r",
        pin: bool | float = False,
        timeout: float | None = None,
        progress: bool | Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the arrays of many sources, loaded in parallel; see `arrayd.get_many`."""
        mode = arguments.one_of("mode", mode, ("r", "c"))
        seconds, timeout = arguments.pin(pin), arguments.seconds("timeout", timeout)
        progress = arguments.progress(progress)
        return_errors = arguments.flag("return_errors", return_errors)
        wanted = arguments.sources(sources)
        self._session()
        results = [self._local(source, options, mode, ask=seconds != 0) for source in wanted]
        missing = {i: result for i, result in enumerate(results) if isinstance(result, Wish)}
        if missing:
            wishes = list(missing.values())
            deadline = None if timeout is None else time.monotonic() + timeout
            with reporter(progress, [wish.source for wish in wishes]) as report:
                terms = Terms(mode, seconds, timeout, deadline, report)
                found = Fetching(self, terms).current(wishes)
            for index, result in zip(missing, found, strict=True):
                results[index] = result
        if not return_errors:
            _raise_first(results)
        return results

    def release(self, shared: SharedArray) -> None:
        """End the hold of an array's block now; see `arrayd.release`."""
        give_back(shared)

    def prefetch(self, *sources: SourceLike, **options: Any) -> None:
        """Have sources loaded without waiting for them; see `arrayd.prefetch`."""
        items = [Wish.of(source, options).to_wire() for source in sources]
        for answer in self._ask("prefetch", None, count=len(items), items=items):
            good(answer)

    def info(self, source: SourceLike, *, timeout: float | None = None, **options: Any) -> Info:
        """Return what a source holds, without loading it; see `arrayd.results.info`."""
        timeout = arguments.seconds("timeout", timeout)
        began, wish = time.monotonic(), Wish.of(source, options)
        label = f"what {wish.source} holds"
        answer = self._ask("info", timeout, label=label, **wish.to_wire())[0]
        if "err" in answer and (current := wish.anew()) != wish:  # the file changed meanwhile
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            answer = self._ask("info", left, label=label, **current.to_wire())[0]
        return Info.of(str(wish.source), told(InfoAnswer, answer))

    # ---- writing -------------------------------------------------------------------------

    def put(self, values: npt.ArrayLike, name: str | None = None, **options: Any) -> SharedArray:
        """Publish a copy of an array; see `arrayd.put`."""
        source = arguments.array(values)
        order = "F" if source.flags.f_contiguous and not source.flags.c_contiguous else "C"
        with self.create(source.shape, source.dtype, name, order=order, **options) as out:
            out[...] = source
        assert out._held is not None
        with contextlib.suppress(Vanished):  # somebody removed it already: `out` shows it still
            return self.holdings.attach(out._held.grant, "r")
        return out

    @contextlib.contextmanager
    def create(
        self,
        shape: int | Sequence[int],
        dtype: npt.DTypeLike = np.float64,
        name: str | None = None,
        *,
        order: str = "C",
        keep: bool = False,
        replace: bool = False,
        timeout: float | None = None,
    ) -> Iterator[SharedArray]:
        """Write a new block in place; see `arrayd.create`."""
        kind = dtypes.parsed("dtype", dtype)
        if kind.itemsize == 0:
            raise SpecMismatch(f"dtype={kind}: a value of no bytes. Say the length, such as S10.")
        name = arguments.name(name)
        fields: dict[str, Any] = {
            "label": f"name:{name}" if name else "a block to write",
            "shape": arguments.shape(shape, kind),
            "descr": dtypes.descr(kind.base),
            "order": arguments.one_of("order", order, ("C", "F")),
            "name": name,
            "keep": arguments.flag("keep", keep),
            "replace": arguments.flag("replace", replace),
        }
        out = self._draft(arguments.seconds("timeout", timeout), **fields)
        try:
            yield out
            failpoints.hit("client.written")
            self._seal(out, **fields)
        except BaseException:
            failpoints.hit("client.aborting")
            self._tell("abort", segment=_segment(out))
            raise

    def _draft(self, timeout: float | None, **fields: Any) -> SharedArray:
        """Return a new block, to be written."""
        for _ in range(TRIES):
            with self.holdings.attaching():
                grant = told(Grant, self._ask("create", timeout, wait=timeout, **fields)[0])
                try:
                    return self.holdings.attach(grant, "w")
                except Vanished:  # with the daemon that made it, which was stopped just then
                    self._tell("abort", segment=grant.segment)
        raise DaemonLost(f"The block vanished {TRIES} times before it could be mapped.")

    def _seal(self, out: SharedArray, **fields: Any) -> None:
        sealing.seal(self, out, fields)

    # ---- references ----------------------------------------------------------------------

    def lend(self, segment: str) -> bytes:
        """Have the daemon keep a block for a reference; return the reference's token.

        When it returns, the daemon knows. A lend has no answer of its own, and the daemon may
        hear of our death before it reads what we sent last, or of the reference's receiver.

        Raises
        ------
        NoSuchBlock
            The daemon has no such block.
        """
        token = secrets.token_bytes(protocol.TOKEN_BYTES)
        self._tell("lend", segment=segment, token=token)
        failpoints.hit("client.lent")
        self._renew(segment)
        return token

    def redeem(self, segment: str, token: bytes, mode: str) -> SharedArray:
        """Return the whole block that a reference means.

        Raises
        ------
        NoSuchBlock
            It is gone.
        """
        for _ in range(TRIES):
            with self.holdings.attaching():
                answer = self._ask("redeem", None, segment=segment, token=token)[0]
                grant = told(Grant, answer)
                failpoints.hit("client.redeemed")
                try:
                    final = grant.sealed and mode == "w"
                    shared = self.holdings.attach(grant, "r" if final else mode)
                except Vanished:
                    continue
            # From now on our own mapping bars the seal; it may have come just before.
            if mode != "w" or grant.sealed or not self._renew(segment).sealed:
                return shared
        raise DaemonLost(f"{segment} vanished {TRIES} times before it could be mapped.")

    def _renew(self, segment: str) -> Grant:
        """Have the daemon answer for a block we hold, after all that we told it before."""
        with self.holdings.attaching():
            answer = self._ask("redeem", None, segment=segment, token=b"")[0]
            grant = told(Grant, answer)
            self.holdings.renewed(grant)
            return grant

    # ---- the daemon ----------------------------------------------------------------------

    def evict(
        self, source: SourceLike | None = None, *, block: int | str | None = None, **options: Any
    ) -> dict[str, int]:
        """Free the blocks of a source; see `arrayd.evict`."""
        if (source is None) == (block is None) or (options and source is None):
            raise SpecMismatch(
                "evict takes a source, and options of get that narrow it down; or block= (a "
                "number or a segment's name) alone."
            )
        if source is None:
            known = str(block) if isinstance(block, str) else arguments.whole("block", block)
            return self._evict(None, known)
        meanings = Source.meanings(source, **options)
        for meant in meanings[:-1]:
            with contextlib.suppress(NoSuchBlock):
                return self._evict(meant, block)
        return self._evict(meanings[-1], block)

    def _evict(self, source: Source | None, block: int | str | None) -> dict[str, int]:
        wire = None if source is None else source.to_wire()
        answer = good(self._ask("evict", None, source=wire, block=block)[0])
        return {key: answer[key] for key in ("blocks", "bytes")}

    def status(self) -> Status:
        """Return who holds what; see `arrayd.results.status`."""
        return told(Status, self._ask("status", None)[0])

    def stop(self) -> int:
        """Stop the daemon, as SIGTERM does; return its pid."""
        return int(good(self._ask("stop", None)[0])["pid"])

    # ---- getting -------------------------------------------------------------------------

    def _local(
        self, source: SourceLike, options: Mapping[str, Any], mode: str, *, ask: bool
    ) -> SharedArray | Wish | ArraydError:
        """Return what this process holds already, without a round trip; else the wish."""
        try:
            wish = Wish.of(source, options)
            with contextlib.suppress(Vanished):
                known = None if ask else self.holdings.local(wish.source, wish.stat, mode)
                if known is not None:
                    return known
        except ArraydError as error:
            return bare(error)
        return wish


def give_back(shared: SharedArray | LostArray) -> None:
    """End the hold of an array's block, if it has one, whichever client's it is."""
    if not isinstance(shared, (SharedArray, LostArray)):
        raise SpecMismatch(
            f"release takes an array that arrayd returned, not {type(shared).__name__}: a view "
            "that is a plain ndarray ends its hold when it is dropped."
        )
    held = shared._held
    if held is None:
        return
    try:
        held.client.holdings.release(held)
        held.client.collect()
    except BaseException:
        held.client._ring()
        raise


def _segment(shared: SharedArray) -> str:
    assert shared._mapping is not None
    return shared._mapping.segment


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, ArraydError):
            raise result
