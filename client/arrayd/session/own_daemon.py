"""`OwnDaemon`: what a daemon of another user may not read for us, the user's own daemon reads.

Theory
======
A daemon for the whole machine has a user of its own, and reads for the others what that user can
read, one file at a time. So it refuses much that this process may read: a file in a closed home,
one that refers to others, a dataset of many. For these there is the daemon that the user would have
without one for the machine: the private one, started if need be. Its blocks are shared by all
processes of this user, and nobody has to know which daemon an array came from.

Here alone it is decided what goes there. A file does, if

1. the daemon that was asked is of another user. It says so in its welcome; one that does not even
   welcome us is another user's as well, for it serves its own always;
2. it has answered for this file with `AccessDenied`;
3. this process may read the file itself, as the kernel says (``faccessat`` with AT_EACCESS).

Nothing else does: no other error, no name, nothing that is written. What the own daemon answers,
an array or an error, is the answer. A dataset goes there by the first alone.

Which files went there is remembered, each in the state that it had (its ``stat``, in which a new
mode shows as well): so the next request goes there at once. And what the own daemon has in memory
is found in its index, by any process of the user: the other daemon is not asked, and not told of
thousands of files that it may not read, each time that a program runs. Where that index is follows
from the endpoint, so nothing has to be opened or asked to look into it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from arrayd.common import endpoints
from arrayd.common.endpoints import PRIVATE
from arrayd.errors import AccessDenied, ArraydError, DaemonError, NoRoom
from arrayd.session.block_index import BlockIndex
from arrayd.session.call import Answer
from arrayd.session.fetch import Numbered, bare
from arrayd.session.request import FileRequest
from arrayd.session.session import Session
from arrayd.system import launch
from arrayd.wire import index as index_layout
from arrayd.wire.protocol import Stat

MAX_KNOWN = 4096
"""Files that are remembered."""

_PATIENCE = 0.5
"""Seconds that a look at what is in memory waits for a daemon that has not welcomed us yet."""

_SILENT_FOR = 5.0
"""Seconds after such a wait in vain in which no other look waits: one for all files of a list."""

_T = TypeVar("_T")

_Ask = Callable[[Session, Numbered], Sequence[_T | ArraydError]]

_File = tuple[str, str | None, Stat | None]
"""A path, what of the file is meant, and the state of the file."""


class OwnDaemon:
    """The user's own daemon, beside the one that a client has its session with.

    It has no lock, for a fork would have to look after it: what two threads do at a time is done
    once, or twice to the same end.

    Parameters
    ----------
    beside
        The client's session.
    start
        Whether it may be started.
    """

    def __init__(self, beside: Session, *, start: bool) -> None:
        #: the client's session
        self.beside = beside
        self._start = start
        self._refused: AccessDenied | None = None  # by a daemon that does not welcome us
        self._denied: dict[_File, AccessDenied] = {}
        self._made: dict[str, Session] = {}  # one at most
        self._closed = False
        self._index: BlockIndex | None = None
        self._looked = False
        self._silent_until = 0.0
        #: with it; None as long as nothing went there
        self.session: Session | None = None

    def close(self) -> None:
        """End the session with it, if there is one."""
        self._closed = True
        for session in list(self._made.values()):
            session.close()

    # ---- files ---------------------------------------------------------------------------

    def having(
        self, request: FileRequest, key: bytes, deadline: float | None = None
    ) -> Session | None:
        """Return the session with it if that may find, without asking, what a request means.

        As long as nothing went there, that is so if its index has the request, by its key: then a
        session is opened, if the client's daemon is another user's. If that has not said so yet,
        it is waited for a little, and until `deadline` (monotonic) at most.
        """
        if self.session is None and self.beside.daemon and not self._is_others():
            return None
        try:
            if self.session is None:
                index = self._index_of_it()
                found = index is not None and index.find_for(request, key) is not None
                return self._open() if found and self._meets_others_soon(deadline) else None
            if not self.session.is_open:  # this process was forked
                self.session.connect()
        except ArraydError:  # then the daemons are asked, and say what is wrong
            return None
        return self.session

    def _index_of_it(self) -> BlockIndex | None:
        """Return the index of the private daemon, whether one runs or not; None: that is ours."""
        if not self._looked:
            endpoint = launch.private_endpoint()
            if endpoint != self.beside.endpoint:
                directory = endpoints.scope_directory(endpoint, os.geteuid())
                self._index = BlockIndex(f"{directory}/{index_layout.NAME}")
            self._looked = True
        return self._index

    def answers(
        self,
        requests: Iterable[FileRequest],
        ask: _Ask[_T],
    ) -> list[_T | ArraydError]:
        """Ask the daemon, and the own one about what goes there; return what each request got.

        Parameters
        ----------
        requests
            Each is taken when `ask` takes it.
        ask
            Asks in a session about requests; returns a result, or an error, for each.
        """
        made: list[FileRequest] = []
        denied: dict[int, AccessDenied] = {}
        found: dict[int, _T | ArraydError] = {}

        def not_denied() -> Iterator[tuple[int, FileRequest]]:
            for number, request in enumerate(requests):
                made.append(request)
                if (why := self._known(request)) is None:
                    yield number, request
                else:
                    denied[number] = why

        theirs = not_denied()
        if (first := next(theirs, None)) is not None:
            for number, answer in self._ask(ask, chain([first], theirs)).items():
                if isinstance(answer, AccessDenied) and self._goes(made[number], answer):
                    denied[number] = answer
                else:
                    found[number] = answer
        if denied:
            found |= self._ask_own(ask, made, denied)
        return [found[number] for number in range(len(made))]

    def _known(self, request: FileRequest) -> AccessDenied | None:
        """Return why a file went to the own daemon before, or why all do; None: it did not."""
        if self._refused is not None and _may_read(request):
            return self._refused
        return self._denied.get(_file(request)) if self._denied else None

    def _ask(self, ask: _Ask[_T], requests: Numbered) -> dict[int, _T | ArraydError]:
        numbers: list[int] = []

        def noted() -> Iterator[tuple[int, FileRequest]]:
            for number, request in requests:
                numbers.append(number)
                yield number, request

        taken = noted()
        try:
            return dict(zip(numbers, ask(self.beside, taken), strict=True))
        except AccessDenied as error:
            if self.beside.daemon:  # it was no answer to our hello
                raise
            bare(error)
            self._refused = error
            deque(taken, 0)
            return dict.fromkeys(numbers, error)

    def _goes(self, request: FileRequest, why: AccessDenied) -> bool:
        """Say whether a file that was refused goes to the own daemon; remember it if so."""
        if not (self._is_others() and _may_read(request)):
            return False
        if len(self._denied) >= MAX_KNOWN:
            self._denied.clear()
        self._denied[_file(request)] = why
        return True

    def _ask_own(
        self, ask: _Ask[_T], requests: Sequence[FileRequest], denied: dict[int, AccessDenied]
    ) -> dict[int, _T | ArraydError]:
        numbered = [(number, requests[number]) for number in denied]
        try:
            return dict(zip(denied, ask(self._open(), numbered), strict=True))
        except (DaemonError, NoRoom) as error:  # there is none
            if self._closed:
                raise
            # The next time both are asked: the other one may be able to, or serve us, by then.
            self._denied.clear()
            self._refused = None
            return {number: _both(why, error) for number, why in denied.items()}

    # ---- the daemon ----------------------------------------------------------------------

    def for_datasets(self) -> Session:
        """Return the session with the daemon that reads datasets for this user.

        Raises
        ------
        AccessDenied
            That would be the own one, which there is not.
        DaemonError
            The client's does not answer.
        """
        if not self._meets_others(None):
            return self.beside
        refused, uid = self._refused, self.beside.daemon.get("uid")
        try:
            return self._open()
        except (DaemonError, NoRoom) as error:
            self._refused = None  # as above
            why = refused or AccessDenied(
                f"The daemon at {self.beside.endpoint} is user {uid}'s, "
                "and reads no dataset for another user."
            )
            raise _both(why, error) from None

    def all_running(self) -> Iterator[tuple[Session, bool]]:
        """Yield the client's session, and then that with the own daemon, and true, if one runs.

        None is started. The client's is left out if its daemon does not serve this user at all.

        Raises
        ------
        AccessDenied
            It does not, and no own one runs.
        """
        others = self._meets_others(None)
        refused = self._refused
        if refused is None:
            yield self.beside, False
        if others and launch.serves(launch.private_endpoint()):
            yield self._open(), True
        elif refused is not None:
            self._refused = None  # as above
            raise refused

    def status(self) -> Answer:
        """Return what the client's daemon answers about all that it has.

        Raises
        ------
        AccessDenied
            It does not serve this user; the error says how to see the own one, if that runs.
        """
        try:
            return self.beside.ask("status", None)[0]
        except AccessDenied as error:
            if self.beside.daemon or not launch.serves(launch.private_endpoint()):
                raise
            raise AccessDenied(
                f"{error.message} Yours runs already: `arrayd status --endpoint private` shows "
                "what it holds.",
                **error.details,
            ) from None

    def _meets_others_soon(self, deadline: float | None) -> bool:
        """Say the same as `_meets_others`; False where a short wait does not show it."""
        now = time.monotonic()
        if now < self._silent_until:
            return self._is_others()
        left = _PATIENCE if deadline is None else max(0.0, deadline - now)
        try:
            return self._meets_others(min(left, _PATIENCE))
        except ArraydError:
            self._silent_until = time.monotonic() + _SILENT_FOR
            raise

    def _meets_others(self, timeout: float | None) -> bool:
        """Say whether the client's daemon is of another user; wait for its welcome, if need be."""
        if not self.beside.daemon and self._refused is None:
            try:
                self.beside.ask("health", timeout)
            except AccessDenied as error:
                bare(error)
                self._refused = error
        return self._is_others()

    def _is_others(self) -> bool:
        """Say whether the client's daemon is of another user; False where it does not say."""
        uid = self.beside.daemon.get("uid")
        return self._refused is not None or (uid is not None and uid != os.geteuid())

    def _open(self) -> Session:
        """Return the session with it.

        Raises
        ------
        NoDaemon, NoRoom
            It does not run, and may not or cannot be started.
        """
        if self.session is None:
            made = Session(PRIVATE, start=self._start)
            session = self._made.setdefault(PRIVATE, made)
            session.index = session.index or self._index_of_it()
            session.connect()
            self.session = session
            if self._closed:  # by another thread, meanwhile
                self.session.close()
        return self.session


def _file(request: FileRequest) -> _File:
    source = request.source
    return source.path, source.member, request.stat


def _may_read(request: FileRequest) -> bool:
    """Say whether this process may itself read the file that is asked for."""
    if request.stat is None:  # a name
        return False
    return os.access(request.source.path, os.R_OK, effective_ids=True)


def _both(why: AccessDenied, error: ArraydError) -> AccessDenied:
    """Return the error where neither daemon reads a file."""
    return AccessDenied(
        f"{why.message} Your own daemon would read it, but is not to be had: {error.message}",
        **why.details,
    )
