"""The cases of the matrix: where a fault hits, on the way to what, and what the user meets."""

from __future__ import annotations

from dataclasses import dataclass

_RESTARTED = {
    "client.forked",
    "client.granted",
    "client.mapped",
    "client.written",
    "worker.chunk",
}
"""Points where CI restarts the daemon too; the others by hand."""


@dataclass(frozen=True)
class Case:
    """A fault at a point, on the way of a journey.

    Parameters
    ----------
    point, action
        As `failpoints.arm` takes them, and ``restart``: stopped, while the daemon is killed and
        the next one serves others.
    before
        Steps of the journey that are made before the point is armed.
    step
        The step that is hit.
    met
        The errors that the user meets, in order; none: nothing but right values.
    """

    point: str
    action: str
    before: tuple[str, ...]
    step: str
    met: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.point}-{self.action}-{self.step}"

    @property
    def arms(self) -> str:
        """The action as a failpoint takes it."""
        return self.action.replace("restart", "stop")

    @property
    def sleeps(self) -> bool:
        """Say whether somebody is stopped, and has to be woken."""
        return self.arms.startswith("stop")

    @property
    def by_hand(self) -> bool:
        """Say whether it is left out of CI: it takes a second, and tells little of its own."""
        what = self.action.partition(":")[0]
        if what == "term":
            return self.step not in ("publish", "hand_over")
        if what == "restart":
            return self.point not in _RESTARTED
        return what == "stop" and self.point.startswith("daemon.")

    @property
    def lasts(self) -> bool:
        """Say whether something of it stays until a restart, or for a minute.

        A lend of the dead lasts 60 s; a segment that could not be read at a start is left
        for the next.
        """
        return (self.point, self.action) == ("daemon.examining", "EMFILE") or (
            self.point == "client.lent"
        )

    @property
    def ends_the_traveller(self) -> bool:
        """Say whether the journey's own process dies of it."""
        own = self.point.startswith("client.") and self.point != "client.forked"
        return own and self.action.partition(":")[0] in ("kill", "term", "exit")


def cases() -> list[Case]:
    """Return the whole matrix."""
    return [
        Case(point, action, before, step, met)
        for point, before, step, actions in ROUTES
        for action, met in actions.items()
    ]


Actions = dict[str, tuple[str, ...]]

_KILL: Actions = {"kill": (), "stop": ()}
_ALL: Actions = {"kill": (), "stop": (), "term": ()}
_CRASH: Actions = {"kill": ("LoaderCrashed",), "stop": (), "exit": ("LoaderCrashed",)}
_FULL: Actions = {"ENOSPC": ()}  # it is tried again, and then there is room
_CTRL_C = ("KeyboardInterrupt",)
_OWN: Actions = {"kill": (), "stop": (), "restart": (), "int": _CTRL_C}

ROUTES: list[tuple[str, tuple[str, ...], str, Actions]] = [
    # a load
    ("daemon.request", ("look",), "load", _ALL),
    ("daemon.welcomed", (), "load", _ALL),
    ("daemon.spawning", (), "load", _KILL | {"EMFILE": ("LoadError",), "EAGAIN": ("LoadError",)}),
    ("daemon.part", (), "load", _ALL),
    ("daemon.probed", (), "load", _KILL),
    ("daemon.truncated", (), "load", _KILL | _FULL),
    ("daemon.half_written", (), "load", _KILL | _FULL | {"kill:2": (), "stop:2": ()}),
    ("daemon.described", (), "load", _KILL | _FULL),
    ("daemon.linked", (), "load", _ALL),
    ("daemon.filled", (), "load_all", _ALL),
    ("daemon.sealing", (), "load", _KILL | {"EMFILE": ()}),
    ("daemon.sealed", (), "load", _KILL),
    ("daemon.granting", (), "load", _ALL),
    ("daemon.granted", (), "load", _ALL),
    ("daemon.granted", (), "load_all", {"kill:2": ()}),
    # a published block
    ("daemon.truncated", (), "publish", _KILL | _FULL),
    ("daemon.described", (), "publish", _KILL | _FULL),
    ("daemon.linked", (), "publish", _ALL),
    ("daemon.reserving", (), "publish", _ALL | _FULL),
    ("daemon.granting", (), "publish", {"kill": (), "kill:2": (), "term": (), "term:2": ()}),
    ("daemon.granted", (), "publish", {"kill": (), "kill:2": (), "term": (), "term:2": ()}),
    ("daemon.sealing", ("publish",), "rewrite", _ALL | {"EMFILE": ()}),
    ("daemon.half_written", ("publish",), "rewrite", {"kill:2": (), "stop:2": (), "kill:3": ()}),
    ("daemon.sealed", ("publish",), "rewrite", _ALL),
    ("daemon.unlinking", ("publish",), "rewrite", _KILL),
    ("daemon.unlinking", (), "give_up", _KILL),
    ("daemon.unlinked", (), "give_up", _KILL),
    # a reference
    ("daemon.lending", ("load",), "send", _ALL),
    ("daemon.redeeming", ("load",), "send", {"kill": (), "kill:2": (), "stop": (), "term:2": ()}),
    # the end of a hold, and of a block
    ("daemon.releasing", ("load",), "drop", _ALL),
    # a block that is attached by the index
    ("client.indexed", ("load",), "hit", _OWN),
    ("client.claiming", ("load",), "hit", _KILL | {"restart": ()}),
    ("daemon.claiming", ("load",), "hit", _ALL),
    ("daemon.asking", ("load",), "drop", _KILL | {"EMFILE": ()}),
    ("daemon.evicting", ("load", "drop"), "evict", _ALL),
    ("daemon.unlinking", ("load", "drop"), "evict", {"kill": (), "stop": (), "kill:2": ()}),
    ("daemon.unlinked", ("load", "drop"), "evict", _ALL),
    # the end of a daemon, and the start of the next
    ("daemon.status", (), "look", _ALL),
    ("daemon.bound", ("load_all",), "hand_over", _ALL),
    ("daemon.examining", ("load_all",), "hand_over", _KILL | {"EMFILE": ()}),
    ("daemon.adopting", ("load_all",), "hand_over", {"kill": (), "kill:2": (), "stop": ()}),
    ("daemon.ending", ("load_all",), "hand_over", _KILL),
    ("daemon.freeing", ("load_all",), "stop", _KILL),
    # a loader process
    ("worker.probing", (), "load", _CRASH),
    ("worker.reserving", (), "load", _CRASH | _FULL),
    ("worker.reading", (), "load", {"EIO:2": ("BadFile",), "restart": ()}),
    ("worker.chunk", (), "load", {"kill:2": ("LoaderCrashed",), "stop:2": (), "restart:2": ()}),
    ("worker.chunk", (), "cast", {"kill:2": ("LoaderCrashed",), "stop:2": ()}),
    ("worker.answering", (), "load_all", _CRASH),
    ("worker.answered", (), "load", {"kill": (), "stop": ()}),
    # the user's own process
    ("client.opening", (), "load", _OWN),
    ("client.welcomed", (), "load", _OWN),
    ("client.granted", (), "load", _OWN),
    ("client.granted", (), "load_all", {"kill:2": (), "int:2": _CTRL_C}),
    ("client.opening_segment", (), "load", _OWN | {"ENOENT": (), "EMFILE": ("NoRoom",)}),
    ("client.mapped", (), "load", _OWN),
    ("client.releasing", ("load",), "drop", _KILL | {"restart": ()}),
    ("client.written", ("publish",), "rewrite", _OWN),
    ("client.sealing", ("publish",), "rewrite", _OWN),
    ("client.sealed", ("publish",), "rewrite", _OWN),
    ("client.aborting", ("publish",), "give_up", _OWN),
    ("client.opening_segment", (), "publish", {"ENOENT": (), "EMFILE": ("NoRoom",)}),
    ("client.opening_segment", (), "publish", {"ENOENT:2": (), "EMFILE:2": ("NoRoom",)}),
    ("client.mapped", (), "publish", {"kill:2": (), "restart:2": (), "int:2": _CTRL_C}),
    ("client.mapped", ("publish",), "rewrite", _OWN),
    ("client.packing", ("load",), "send", _OWN),
    ("client.lent", ("load",), "send", _OWN),
    ("client.redeemed", ("load",), "send", _OWN),
    ("client.forked", ("load",), "fork", _KILL | {"restart": ()}),
    ("client.collecting", (), "gather", _OWN | {"EIO": ("ArraydError",)}),
    ("client.appended", (), "write", {"kill": (), "kill:5": (), "int:5": _CTRL_C}),
    ("client.counted", (), "write", {"kill:2": (), "int:2": _CTRL_C, "EIO:2": ("ArraydError",)}),
    ("client.saving", (), "pack", {"kill": (), "int": _CTRL_C}),
    ("client.packed", (), "pack", {"kill": ()}),
    ("client.renaming", (), "gather", _OWN | {"ENOSPC": ("ArraydError",)}),
]
"""Point, the steps before, the step that passes it, and for each action what the user meets."""
