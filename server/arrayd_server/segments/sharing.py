"""Which other users may open a segment: what was written last, so that it is written once."""

from __future__ import annotations

from collections.abc import Collection

from arrayd.errors import DaemonError
from arrayd_server.kernel import segment_acl


class Sharing:
    """The access control lists of the segments of a scope, as far as they name anybody."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[frozenset[int], frozenset[int]]] = {}

    def is_written(self, name: str, readers: Collection[int], writers: Collection[int]) -> bool:
        """Say whether a segment is open to exactly these; `writers` are among the readers."""
        written = self._written.get(name)
        if written is None:  # as of most: each grant asks
            return not readers
        return written == (frozenset(readers), frozenset(writers))

    def write(self, name: str, fd: int, readers: Collection[int], writers: Collection[int]) -> None:
        """Let these other users open the segment at `fd`; of the readers, `writers` may write it.

        Raises
        ------
        DaemonError
            /dev/shm has no access control lists.
        """
        try:
            if readers:
                segment_acl.write(fd, readers, writers)
            else:
                segment_acl.clear(fd)
        except OSError as error:
            raise DaemonError(
                f"Other users cannot be let in to {name}: {error.strerror}. /dev/shm must be a "
                "tmpfs with access control lists (CONFIG_TMPFS_POSIX_ACL)."
            ) from None
        self.found(name, readers, writers)

    def found(
        self, name: str, readers: Collection[int], writers: Collection[int] = frozenset()
    ) -> None:
        """Note who may open a segment."""
        self._written[name] = frozenset(readers), frozenset(writers)

    def forget(self, name: str) -> None:
        """Forget a segment that has gone."""
        self._written.pop(name, None)
