"""The lives of a job and of a block, as tables: every step that may happen, and when it does.

Only `set_stage` and `set_state` change a stage or a state, and a step that stands in no table is
a bug: it raises AssertionError. None is the time before a life, and the time after it. The README
shows `drawing()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

from arrayd_server.core.model import Block, Job, Stage, State

Steps = Mapping[Enum | None, Mapping[Enum | None, str]]

STAGES: Steps = {
    None: {
        Stage.PROBING: "a file is requested that is neither in memory nor on its way",
        Stage.AWAITING: "a name is waited for that no block has yet",
        Stage.QUEUED: "a client wants to write a block; small files are asked for together",
        Stage.WRITING: "an unfinished block was adopted, or its unlink was refused",
    },
    Stage.PROBING: {
        Stage.QUEUED: "the size is known",
        None: "another job or a block in memory serves it; it failed; nobody waits any more; its "
        "members are loaded alone",
    },
    Stage.AWAITING: {None: "the name was published; nobody waits any more"},
    Stage.QUEUED: {
        Stage.FILLING: "there is room for a load",
        Stage.MAKING: "there is room for a block that a client writes",
        Stage.PROBING: "its user may have no more: once more for another one who waits",
        None: "there was no room in time; nobody waits any more; its members are loaded alone",
    },
    Stage.FILLING: {
        Stage.SEALING: "all rows are loaded",
        Stage.PROBING: "the kernel had no pages: once more from the start",
        None: "it failed; nobody waits any more; its members are loaded alone",
    },
    Stage.MAKING: {
        Stage.WRITING: "the segment is there",
        Stage.QUEUED: "the kernel had no pages: once more",
        None: "it failed; the client is gone",
    },
    Stage.WRITING: {
        Stage.SEALING: "its writer asks for the seal",
        None: "its writer gave it up, or is gone and nobody maps it",
    },
    Stage.SEALING: {
        Stage.WRITING: "somebody can still write to it: its writer may try again",
        None: "the block is sealed; it failed; the client is gone",
    },
}

STATES: Steps = {
    None: {
        State.LOADING: "a load was given room",
        State.WRITING: "a client's block was given room, or an unfinished one was adopted",
        State.SEALED: "it was adopted",
        State.SPARE: "a block went, and left its pages",
    },
    State.LOADING: {State.SEALED: "loaded", State.UNLINKED: "its job ended or begins anew"},
    State.WRITING: {State.SEALED: "written", State.UNLINKED: "its job ended or begins anew"},
    State.SEALED: {State.UNLINKED: "evicted, or of no use any more"},
    State.UNLINKED: {
        State.SEALED: "somebody maps it: the unlink was refused",
        State.WRITING: "the same, and it was not finished",
        None: "the kernel has its pages back, or a spare has them",
    },
    State.SPARE: {
        State.UNLINKED: "no load came for it in time, or its room is needed",
        None: "a load has its pages",
    },
}


def set_stage(job: Job, stage: Stage) -> None:
    """Move a job to another stage."""
    check_step(job.stage, stage)
    job.stage = stage


def set_state(block: Block, state: State) -> None:
    """Move a block to another state."""
    check_step(block.state, state)
    block.state = state


def check_step(old: Enum | None, new: Enum | None) -> None:
    """Assert that a table has the step from `old` to `new`."""
    table = STAGES if isinstance(old or new, Stage) else STATES
    assert new in table.get(old, {}), f"no such step: from {old} to {new}"


def drawing() -> str:
    """Return both tables as text."""
    return "\n".join(["A job", *_lines(STAGES), "", "A block", *_lines(STATES)])


def _lines(table: Steps) -> Iterator[str]:
    for old, steps in table.items():
        start = "(new)" if old is None else old.name
        for new, why in steps.items():
            end = "(end)" if new is None else new.name
            yield f"  {start:8} -> {end:8}  {why}"
            start = ""
