"""`Client`: a session with the daemon. Arrays in, holds kept, holds given back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.array import SharedArray, reduced
from arrayd.common import arguments, failpoints, users
from arrayd.errors import ArraydError, DaemonLost, NoSuchBlock, SpecMismatch
from arrayd.integrations.picklers import register
from arrayd.results.lost import LostArray
from arrayd.results.progress import Progress, Reporter, ShowProgress, reporter
from arrayd.session import local, sealing, source_blocks
from arrayd.session.describe import described, error_in
from arrayd.session.fetch import Fetching, Numbered, Result, Terms
from arrayd.session.own_daemon import OwnDaemon
from arrayd.session.request import FileRequest, SourceLike
from arrayd.session.session import Session, unwrap, unwrap_as
from arrayd.source import Source
from arrayd.system import daemon_probe
from arrayd.system.mapping import Vanished
from arrayd.wire import dtypes

if TYPE_CHECKING:
    from arrayd.results.info import Info
    from arrayd.results.status_table import Status
    from arrayd.results.uses import Uses

_PLAIN = Terms()
"""Of a call that gives nothing but the source."""

# Every pickler of messages sends arrays by reference, if this process may have one.
register(SharedArray, reduced)


class Client:
    """A session. Thread-safe; in a forked child it becomes a session of the child.

    The methods of the same names as arrayd's functions do what is said there.

    Parameters
    ----------
    endpoint
        Of the daemon, ``ipc://…``; None: found as `arrayd.connect` says.
    start
        Whether a private daemon may be started, see `arrayd.connect`.

    Raises
    ------
    NoDaemon
        None answers.
    """

    def __init__(self, endpoint: str | None = None, *, start: bool = True) -> None:
        self._session = Session(endpoint, start=start)
        self._own = OwnDaemon(self._session, start=start)

    @property
    def endpoint(self) -> str:
        """Of the daemon."""
        return self._session.endpoint

    def close(self) -> None:
        """End the session: all its holds end. Arrays stay readable until they are dropped."""
        try:
            self._own.close()
        finally:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<arrayd.Client {self.endpoint}, {self._session.state}>"

    # ---- arrays --------------------------------------------------------------------------

    def get(
        self,
        source: SourceLike,
        *,
        mode: str = "r",
        pin: bool | float = False,
        timeout: float | None = None,
        progress: bool | Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> SharedArray:
        """Return the array of `source`; see `arrayd.get`."""
        # Where nothing of the call is to be checked, what this process has already is returned
        # at once, and the daemon is asked for anything else.
        plain = type(mode) is str and mode == "r" and pin is False
        if plain and timeout is None and progress is None and self._session.is_open:
            known = self._session.blocks.shortcuts.follow(source, options)
            if known is not None:
                return known
            found = local.unheld(self._session, self._own, source, options, mode)
            if isinstance(found, FileRequest):
                found = self._fetched([found], _PLAIN)[0]
            if isinstance(found, ArraydError):
                raise found
            return found
        call = {"mode": mode, "pin": pin, "timeout": timeout, "progress": progress}
        result: SharedArray = self.get_many([source], **(options | call))[0]
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
        deadline = None if timeout is None else time.monotonic() + timeout
        wanted = arguments.sources(sources)
        self._session.connect()
        terms, results = Terms(mode, seconds, timeout, deadline), list[Any]()
        asked: Iterable[FileRequest] = local.to_ask(
            self._session, self._own, wanted, options, terms, results
        )
        if progress:
            asked = list(asked)  # it is shown of all of them together
        with _reporter(progress, [one.source for one in asked] if progress else []) as report:
            answers = iter(self._fetched(asked, terms._replace(report=report)))
        results = [next(answers) if isinstance(one, FileRequest) else one for one in results]
        if not return_errors:
            _raise_first(results)
        return results

    def release(self, shared: SharedArray) -> None:
        """End the hold of an array's block now; see `arrayd.release`."""
        give_back(shared)

    def prefetch(self, *sources: SourceLike, **options: Any) -> None:
        """Have sources loaded without waiting for them; see `arrayd.prefetch`."""
        self._prefetch([FileRequest.of(source, options) for source in sources], {})

    def _prefetch_for_itself(self, *sources: SourceLike) -> None:
        """Do the same for as long as this client is open, or others wait for them.

        Raises
        ------
        ProtocolMismatch
            The daemon is older, and does not know that.
        """
        self._prefetch([FileRequest.of(source, {}) for source in sources], {"bound": True})

    def _prefetch(self, requests: Sequence[FileRequest], how: Mapping[str, Any]) -> None:
        def ask(session: Session, some: Numbered) -> list[ArraydError | None]:
            items = [request.to_wire() for _, request in some]
            answers = session.ask("prefetch", None, items=items, **how)
            return [error_in(answer) for answer in answers]

        _raise_first(self._own.answers(requests, ask))

    def info(self, source: SourceLike, *, timeout: float | None = None, **options: Any) -> Info:
        """Return what a source holds, without loading it; see `arrayd.results.info`."""
        timeout = arguments.seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        request = FileRequest.of(source, options)

        def ask(session: Session, some: Numbered) -> list[Info | ArraydError]:
            return [described(session, one, timeout, deadline) for _, one in some]

        (found,) = self._own.answers([request], ask)
        if isinstance(found, ArraydError):
            raise found
        return found

    # ---- writing -------------------------------------------------------------------------

    def put(self, values: npt.ArrayLike, name: str | None = None, **options: Any) -> SharedArray:
        """Publish a copy of an array; see `arrayd.put`."""
        source = arguments.array(values)
        order = "F" if source.flags.f_contiguous and not source.flags.c_contiguous else "C"
        with self.create(source.shape, source.dtype, name, order=order, **options) as out:
            out[...] = source
        assert out._held is not None
        with contextlib.suppress(Vanished):  # somebody removed it already: `out` shows it still
            return self._session.blocks.attach(out._held.grant, "r")
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
        share: str | None = None,
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
        if (whom := users.share(share)) is not None:  # older daemons know nothing of that
            fields["share"] = whom
        out = sealing.draft(self._session, arguments.seconds("timeout", timeout), fields)
        try:
            yield out
            failpoints.hit("client.written")
            sealing.seal(self._session, out, fields)
        except BaseException:
            failpoints.hit("client.aborting")
            self._session.tell("abort", segment=_segment(out))
            raise

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
            return source_blocks.freed(self._own, None, known)
        meanings = Source.meanings(source, **options)
        for meant in meanings[:-1]:
            with contextlib.suppress(NoSuchBlock):
                return source_blocks.freed(self._own, meant, block)
        return source_blocks.freed(self._own, meanings[-1], block)

    def status(self) -> Status:
        """Return who holds what; see `arrayd.results.status`."""
        answer = self._own.status()
        from arrayd.results.status_table import Status  # here: as in `info`

        return unwrap_as(Status, answer)

    def who(self, source: SourceLike, **options: Any) -> Uses:
        """Return who holds blocks of a source, and who waits for them; options narrow it down."""
        found: dict[str, Any] = {}
        for meant in Source.meanings(source, **options):
            found = source_blocks.uses(self._own, meant)
            if found["blocks"] or found["jobs"]:
                break
        from arrayd.results.uses import Uses  # here: as in `info`

        return unwrap_as(Uses, {"ok": found})

    def health(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the daemon's `pid`, its number of `blocks`, and which of its rules is `broken`.

        That is a text, empty where all is well.

        Raises
        ------
        LoadTimeout
            It has not answered in `timeout` seconds.
        """
        seconds = arguments.seconds("timeout", timeout)
        answer: dict[str, Any] = unwrap(self._session.ask("health", seconds)[0])
        return answer

    def kick(self, pid: int) -> dict[str, Any]:
        """End the sessions of a process: its holds end, and its arrays stay readable.

        Returns
        -------
        dict
            How many ``sessions`` and ``holds`` have ended; its ``program`` and ``uid``.

        Raises
        ------
        AccessDenied
            It is another user's, and you are neither root, nor the daemon's user, nor an admin.
        NoSuchBlock
            It has no session.
        """
        found = self._session.ask("kick", None, pid=arguments.whole("pid", pid))[0]
        ended: dict[str, Any] = unwrap(found)
        return ended

    def drain(self, *, on: bool = True) -> int:
        """Have the daemon begin nothing new as long as this client is open; return its pid."""
        return int(unwrap(self._session.ask("drain", None, on=arguments.flag("on", on))[0])["pid"])

    def stop(self) -> int:
        """Stop the daemon, as SIGTERM does; return its pid."""
        try:
            return int(unwrap(self._session.ask("stop", None)[0])["pid"])
        except DaemonLost:  # libzmq drops what it has not handed out when the daemon hangs up
            pid: int | None = self._session.daemon.get("pid")
            if pid is None or not daemon_probe.wait_ended(pid, 0):
                raise
            return pid

    def _for_datasets(self) -> Client:
        """Return the client of the daemon that reads datasets and streams for this user.

        That is this one, unless its daemon is of another user: none reads many files for another.

        Raises
        ------
        AccessDenied
            It would be the user's own daemon, which does not run, and may not or cannot be started.
        DaemonError
            The daemon does not answer.
        """
        session = self._own.for_datasets()
        return self if session is self._session else _of_session(session)

    # ---- getting -------------------------------------------------------------------------

    def _fetched(self, requests: Iterable[FileRequest], terms: Terms) -> list[Result]:
        """Ask for arrays: the daemon, or the user's own one for what that may not read."""

        def ask(session: Session, some: Numbered) -> list[Result]:
            return Fetching(session, terms).current(some)

        return self._own.answers(requests, ask)


def _reporter(
    progress: ShowProgress, sources: Sequence[Source]
) -> contextlib.AbstractContextManager[Reporter | None]:
    """Give what passes progress on to what the caller gave for it; None where that is nothing."""
    if not progress or not sources:
        return contextlib.nullcontext()
    return reporter(progress, sources)


def give_back(shared: SharedArray | LostArray) -> None:
    """End the hold of an array's block, if it has one, whichever client's it is."""
    if not isinstance(shared, (SharedArray, LostArray)):
        raise SpecMismatch(
            f"release takes an array that arrayd returned, not {type(shared).__name__}: a view "
            "that is a plain ndarray ends its hold when it is dropped."
        )
    held = shared._held
    if held is not None:
        held.owner.release(held.hold)


def _of_session(session: Session) -> Client:
    """Return a client that uses a session which is there, and ends with that."""
    client = Client.__new__(Client)
    client._session, client._own = session, OwnDaemon(session, start=False)
    return client


def _segment(shared: SharedArray) -> str:
    assert shared._mapping is not None
    return shared._mapping.segment


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, ArraydError):
            raise result
