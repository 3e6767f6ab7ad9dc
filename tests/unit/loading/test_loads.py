"""The parts of a load on their way to the pool: few at a time, each once, none after a cancel."""

from __future__ import annotations

from typing import Any, cast

import pytest

from arrayd.errors import ArraydError, LoadError
from arrayd.source import Source
from arrayd.wire.grant import Spec
from arrayd_server import identity
from arrayd_server.core.model import BlockMember
from arrayd_server.loading.loads import PARTS_WAITING, Callbacks, Loads
from arrayd_server.loading.member_loads import MAX_FILES, MemberLoads
from arrayd_server.loading.messages import FilledPart, FoundFile, FoundSizes, LoadedFiles
from arrayd_server.loading.tasks import Task
from arrayd_server.loading.worker_pool import Pool

PARTS = 3 * PARTS_WAITING


class _Pool:
    """Keeps the tasks that it is given."""

    def __init__(self, *, behind: bool = False, limit: int = 1) -> None:
        self.tasks: list[Task] = []
        self.behind, self.limit = behind, limit

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def cancel(self, job: int) -> None:
        self.tasks = [task for task in self.tasks if task.job != job]


def _found() -> FoundFile:
    parts = tuple((row, row + 1, (0, 1, row, row + 1)) for row in range(PARTS))
    return FoundFile(
        shape=(PARTS,),
        file_dtype="<f8",
        descr="<f8",
        itemsize=8,
        file_order="C",
        order="C",
        rows=PARTS,
        parts=parts,
        detail=(128, 0, 8, 0, PARTS, 1, ""),
        member=None,
        identity=("/file.npy", 1, 2, 3, 4, 5),
        apart=False,
        format="npy",
    )


def _probed(pool: _Pool, ends: list[object]) -> Loads:
    """Return loads of which one, of job 7, has been probed; what becomes of it is put in `ends`."""

    def ignored(_: int, *result: Any) -> None:
        """Take what no test asks for."""

    def filled(_: int, lost: int) -> None:
        ends.append(lost)

    def failed(_: int, error: ArraydError) -> None:
        ends.append(error)

    callbacks = Callbacks(ignored, ignored, ignored, filled, failed, ignored, ignored)
    loads = Loads(cast(Pool, pool), callbacks)
    loads.probe(7, identity.of_source(Source.of("/file.npy"), (1, 2, 3, 4, 5)))
    pool.tasks.pop().on_result(_found().to_wire())
    return loads


def test_the_pool_gets_few_parts_at_a_time_and_each_once() -> None:
    """As many tasks as `PARTS_WAITING` wait in the pool, until all parts are filled."""
    pool, ends = _Pool(), list[object]()
    _probed(pool, ends).fill(7, "/dev/shm/segment", [])
    seen = list[object]()
    while pool.tasks:
        assert len(pool.tasks) == min(PARTS_WAITING, PARTS - len(seen))
        assert not ends
        task = pool.tasks.pop(0)
        seen.append(task.wire["part"])
        task.on_result(FilledPart(1).to_wire())
    assert seen == list(_found().parts)
    assert ends == [PARTS]


def test_no_part_is_handed_out_after_the_end() -> None:
    """When one part fails or the load is cancelled, no other part of it is begun."""
    for cancels in (False, True):
        pool, ends = _Pool(), list[object]()
        loads, error = _probed(pool, ends), LoadError("broken")
        loads.fill(7, "/dev/shm/segment", [])
        first, late = pool.tasks[:2]
        if cancels:
            loads.cancel(7)
        else:
            first.on_result(error)
        late.on_result(FilledPart().to_wire())
        assert not pool.tasks
        assert ends == ([] if cancels else [error])


@pytest.mark.parametrize(("behind", "messages"), [(False, 2), (True, 1)])
def test_small_files_go_in_few_messages(behind: bool, messages: int) -> None:
    """Two workers have something to do; but where others wait there are fewer messages."""
    pool, ends = _Pool(behind=behind), list[Any]()
    ignored = lambda *_: None  # noqa: E731
    loads = MemberLoads(cast(Pool, pool), ignored, lambda *call: ends.append(call[-1]), ignored)
    sources = [Source.of(f"/{n}.npy") for n in range(2 * MAX_FILES)]
    origins = [identity.of_source(one, (1, 2, 64, 4, 5)) for one in sources]
    members = [BlockMember(n, one, None, 64 * n, 64) for n, one in enumerate(origins)]
    loads.fill(7, "/dev/shm/segment", members)
    assert len(pool.tasks) == messages
    files = [file for task in pool.tasks for file in task.wire["files"]]
    assert [path for path, *_ in files] == [one.path for one in sources]
    for task in pool.tasks:
        assert not ends
        found = tuple((n, 0, 0, b"k") for n in range(len(task.wire["files"])))
        task.on_result(LoadedFiles((Spec((8,), "<f8", "C", 8),), found).to_wire())
    assert [list(found) for found in ends] == [list(range(2 * MAX_FILES))]


@pytest.mark.parametrize(
    "found",
    [7, "abcd", [7], [[0, 0, 0]], [[0, 0, 0, "text"]], [[0, 0, 0, b"k"], [1, 0, True, b"k"]]],
    ids=repr,
)
def test_small_files_that_are_none(found: Any) -> None:
    """What a loader says it has found may make no sense; then the files are loaded one by one."""
    pool, ends = _Pool(), list[Any]()
    ignored = lambda *_: None  # noqa: E731
    loads = MemberLoads(cast(Pool, pool), ignored, lambda *call: ends.append(call[-1]), ignored)
    origin = identity.of_source(Source.of("/a.npy"), (1, 2, 64, 4, 5))
    loads.fill(7, "/dev/shm/segment", [BlockMember(0, origin, None, 0, 64)])
    spec = {"shape": [8], "descr": "<f8", "order": "C", "itemsize": 8}
    pool.tasks.pop().on_result({"specs": [spec], "found": found})
    assert ends == [{}]


@pytest.mark.parametrize("answers", ["whole", "none of the second", "nonsense", "an error"])
def test_small_files_are_measured(answers: str) -> None:
    """By few messages; what a loader does not say, or says without sense, is no file's size."""
    pool, sizes, nothing = _Pool(), list[Any](), lambda *_: None
    loads = MemberLoads(cast(Pool, pool), lambda *call: sizes.append(call[-1]), nothing, nothing)
    count = MAX_FILES + 2
    origins = [identity.of_source(Source.of(f"/{n}.txt"), (1, 2, 64, 4, 5)) for n in range(count)]
    members = [BlockMember(n, one, None, 0, 0) for n, one in enumerate(origins)]
    loads.measure(7, members)
    first, second = pool.tasks
    assert [path for path, _ in second.wire["files"]] == ["/32.txt", "/33.txt"]
    first.on_result(FoundSizes(tuple((n, 8 + n, b"x") for n in range(MAX_FILES))).to_wire())
    assert sizes == []
    said: dict[str, Any] = {
        "whole": FoundSizes(((0, 40, b"a"), (1, 41, b"b"))).to_wire(),
        "none of the second": FoundSizes(((0, 40, b"a"),)).to_wire(),
        "nonsense": {"sizes": [[0, 40, b"a"], [2, 8, b"b"]]},
        "an error": LoadError("it crashed"),
    }
    second.on_result(said[answers])
    found = {n: 8 + n for n in range(MAX_FILES)}
    if answers in ("whole", "none of the second"):
        found[32] = 40
    if answers == "whole":
        found[33] = 41
    assert sizes == [found]
    pool.tasks.clear()
    there = [members[n] for n in found]
    loads.fill(7, "/dev/shm/segment", there)
    packed = [one for task in pool.tasks for one in task.wire["found"]]
    assert packed == [b"x"] * MAX_FILES + [b"a", b"b"][: len(found) - MAX_FILES]


@pytest.mark.parametrize(
    ("loaders", "count", "each"), [(8, 32, 4), (8, 40, 5), (2, 9, 5), (1, 9, 9)]
)
def test_each_loader_measures_some(loaders: int, count: int, each: int) -> None:
    """A file may take milliseconds: all loaders have something to do, and before what fills."""
    pool = _Pool(limit=loaders)
    nothing = lambda *_: None  # noqa: E731
    loads = MemberLoads(cast(Pool, pool), nothing, nothing, nothing)
    origins = [identity.of_source(Source.of(f"/{n}.txt"), (1, 2, 64, 4, 5)) for n in range(count)]
    loads.measure(7, [BlockMember(n, one, None, 0, 0) for n, one in enumerate(origins)])
    assert [len(task.wire["files"]) for task in pool.tasks][:-1] == [each] * (-(-count // each) - 1)
    assert sum(len(task.wire["files"]) for task in pool.tasks) == count
    assert all(task.urgent for task in pool.tasks)
