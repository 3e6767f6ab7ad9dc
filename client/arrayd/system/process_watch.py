"""Whether a process lives, by a descriptor that the kernel makes readable when it has died."""

from __future__ import annotations

import os

from arrayd.system.signal_safe import open_atomically


class ProcessWatch:
    """A process and its pidfd; `fd` is -1 where there is none."""

    def __init__(self) -> None:
        self.pid, self.fd = 0, -1

    @property
    def watched(self) -> int | None:
        """The pid of the process, which has not been seen to die; None: there is none."""
        return self.pid if self.fd >= 0 else None

    def watch(self, pid: int) -> None:
        """Watch this process instead of the last one."""
        self.close()
        self.pid = pid
        opened: list[int] = []
        try:
            open_atomically(opened, os.pidfd_open, pid)
        except OSError:
            return  # it is not in our PID namespace, or has just died
        finally:
            if opened:
                self.fd = opened[0]

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
