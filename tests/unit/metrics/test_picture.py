"""What the web page shows of a core without a shell; and what it never shows."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

import pytest

from arrayd.source import Source
from arrayd.wire.grant import Spec
from arrayd_server.core import stream_report
from arrayd_server.core.model import BlockMember, State
from arrayd_server.core.streams import Streams
from arrayd_server.identity import BlockIdentity
from arrayd_server.metrics import history, picture, sums
from arrayd_server.metrics.history import MemoryHistory, UserNumbers
from arrayd_server.metrics.measurements import Measurements
from arrayd_server.metrics.meter import Meter
from arrayd_server.metrics.picture import Picture
from arrayd_server.metrics.sums import BlockSums, StreamSums, Sums, Survey
from arrayd_server.metrics.web_page import ASSETS, asset
from tests.support.core_files import File
from tests.support.core_script import World
from tests.support.stream_script import opened
from tests.support.stream_world import StreamWorld


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions and a budget of 100 bytes."""
    return World()


def drawer(world: World) -> tuple[Picture, Any]:
    """Return what takes its pictures, and what measures it."""
    streams = Streams(world.registry, b"own", 1)
    survey, counts = Survey(world.registry, streams), Meter().counts

    async def measured() -> Measurements:
        return Measurements(await survey.take(10.0), counts, 4.0, 0, 0.0)

    return Picture(world.registry, streams, MemoryHistory()), measured


def take(world: World) -> dict[str, Any]:
    """Return what is shown of it."""
    one, measured = drawer(world)
    shown: dict[str, Any] = json.loads(picture.text(asyncio.run(one.take(measured))))
    return shown


def test_blocks_with_states_and_holders(world: World) -> None:
    """Largest first; what is kept for the next load is in the sums alone."""
    held = world.load(b"a", File("held", 10))
    world.cache(File("pinned", 20), math.inf)
    world.cache(File("idle", 5))
    shown = take(world)
    rows = [(one["size"], one["state"], one["holders"]) for one in shown["blocks"]]
    assert rows == [(20, "pinned", 0), (10, "held", 1), (5, "idle", 0)]
    assert shown["blocks"][1]["number"] == world.registry.blocks.table[held.segment].number
    assert shown["blocks"][1]["idle"] is None
    assert shown["blocks"][2]["idle"] >= 0
    assert (shown["budget"], shown["charged"], shown["uptime"]) == (100, 35, 6.0)
    assert shown["memory"] == {**dict.fromkeys(sums.STATES, 0), "pinned": 20, "held": 10, "idle": 5}
    assert (shown["sessions"], shown["holds"], shown["blocks_more"]) == (2, 1, 0)


def test_the_smaller_ones_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slices the blocks come in, the largest are found."""
    monkeypatch.setattr(picture, "MAX_BLOCKS", 2)
    monkeypatch.setattr(picture, "PART", 1)
    monkeypatch.setattr(sums, "SLICE", 2)
    for size in (7, 3, 9, 1, 8):
        world.cache(File(f"f{size}", size))
    shown = take(world)
    assert [one["size"] for one in shown["blocks"]] == [9, 8]
    assert shown["blocks_more"] == 3


def test_spare_pages_are_no_blocks_to_show(world: World) -> None:
    """They are neither listed nor counted as more."""
    block = world.registry.blocks.table[world.cache(File("old", 10))]
    world.cache(File("new", 5))
    block.state = State.SPARE
    world.registry.blocks.spares[block.segment] = block
    shown = take(world)
    assert [one["size"] for one in shown["blocks"]] == [5]
    assert (shown["blocks_more"], shown["memory"]["recycled"]) == (0, 10)


def test_a_load_has_progress(world: World) -> None:
    """Rows, and the seconds that are left if it goes on like that."""
    world.get(b"a", File("coming", 30))
    world.finish(next(iter(world.work)))
    (job,) = world.registry.jobs.table.values()
    (load,) = take(world)["loads"]
    assert (load["size"], load["stage"], load["waiters"]) == (30, "loading", 1)
    assert load["left"] is None
    job.done, job.total = 1, 4
    block = world.registry.blocks.table[job.segment or ""]
    row = picture.of_job(job, world.registry, block.since + 2.0)
    assert (row["block"], row["done"], row["total"], row["left"]) == (block.number, 1, 4, 6.0)


def test_no_name_is_shown(world: World) -> None:
    """Neither of files nor of users, programs, processes, published blocks or fields."""
    block = world.registry.blocks.table[world.load(b"a", File("idle", 5)).segment]
    world.get(b"b", File("secret", 30))
    block.identity = BlockIdentity(Source("/secret/secret.npy"), "secret.npy")
    block.name, block.user = "secret", 4321
    block.spec = Spec((2,), [("secret", "<i4")], "C", 4)
    (session, *_) = world.registry.sessions.values()
    object.__setattr__(session.peer, "program", "secret")
    text = json.dumps(take(world))
    assert "secret" not in text
    assert "4321" not in text
    assert block.segment not in text.replace('"', " ").split()
    shown = picture.of_block(block, {}, UserNumbers(), 0.0)
    assert (shown["dtype"], shown["format"], shown["user"]) == ("structure of 4 bytes", "npy", 2)


@pytest.mark.parametrize(
    ("descr", "words"),
    [
        ("<f8", "float64"),
        (">i2", ">i2"),
        ({"ml_dtypes": "bfloat16", "itemsize": 2}, "bfloat16"),
        ({"names": ["x"], "formats": ["<f8"]}, "structure of 8 bytes"),
        (("<f8", (3,)), "structure of 8 bytes"),
    ],
)
def test_dtypes(descr: Any, words: str) -> None:
    """As NumPy writes them; fields are left out."""
    assert picture.dtype_words(Spec((1,), descr, "C", 8)) == words


def test_contents_of_other_kinds(world: World) -> None:
    """What a client has written, small files together, and a name that says no format."""
    block = world.registry.blocks.table[world.cache(File("x", 5))]
    block.identity = BlockIdentity(Source("/a/b.unknown"), "b")
    assert picture.of_block(block, {}, UserNumbers(), 0.0)["format"] == ""
    block.published = True
    assert picture.of_block(block, {}, UserNumbers(), 0.0)["format"] == "put"
    block.members = [BlockMember(n, None, None, 0, 1) for n in range(3)]
    shown = picture.of_block(block, {}, UserNumbers(), 0.0)
    assert (shown["arrays"], shown["shape"], shown["dtype"]) == (3, None, "")


def test_who_asks_soon_gets_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is good for a while; then it is another."""
    one, measured = drawer(world)

    async def main() -> None:
        first, same = await asyncio.gather(one.take(measured), one.take(measured))
        assert first is same
        monkeypatch.setattr(one, "_good_until", 0.0)
        assert await one.take(measured) is not first

    asyncio.run(main())


def sums_of(at: float, users: dict[int, int], held: int = 1000) -> Sums:
    """Return sums of which a history is made."""
    blocks = BlockSums()
    blocks.nbytes["held"] = held
    blocks.users.update(users)
    nothing = StreamSums(0, 0, 0, 0, 0, 0.0)
    return Sums(at, 5000, held, blocks, 0, 0, 0, 0, 0, {}, {}, nothing)


def test_an_hour_is_remembered() -> None:
    """Older samples go; the latest is added when it is shown, once."""
    one = MemoryHistory()
    for number in range(history.SAMPLES + 10):
        one.add(sums_of(15.0 * number, {}))
    latest = sums_of(1e6, {}, held=7)
    shown = history.shown(one.samples(one.sample(latest)))
    assert len(shown["at"]) == history.SAMPLES + 1
    assert (shown["at"][0], shown["at"][-1]) == (150.0, 1e6)
    assert shown["states"]["held"][-2:] == [1000, 7]
    assert list(shown["states"]) == list(sums.STATES)
    one.add(latest)
    assert history.shown(one.samples(one.sample(latest)))["at"].count(1e6) == 1


def test_users_are_numbers() -> None:
    """In the order in which they come; those with little are summed, whoever they are."""
    one = MemoryHistory()
    one.add(sums_of(1.0, {4321: 100, 77: 300}))
    shown = history.shown(one.samples(one.sample(sums_of(2.0, {77: 200}))))
    assert shown["users"] == {"1": [600, 800], "2": [300, 200], "3": [100, 0]}
    many = {uid: 10 + uid for uid in range(history.KEPT_USERS + 5)}
    sample = one.sample(sums_of(3.0, many, held=10_000))
    assert sum(sample.users.values()) == 10_000
    assert sample.users[history.OTHERS] == sum(sorted(many.values())[:5])
    lines = history.shown(one.samples(sample))["users"]
    assert len(lines) == history.SHOWN_USERS + 1
    assert sum(line[-1] for line in lines.values()) == 10_000


def test_a_stream_without_its_names() -> None:
    """Where it is in its epoch, and how many read from it."""
    world = StreamWorld()
    client = opened(world)
    assert world.wait(client) is None
    (stream,) = world.streams.table.streams.values()
    shown = picture.of_stream(stream)
    assert shown["state"] == stream_report.state(stream)
    assert (shown["consumers"], shown["waiting"]) == (1, 1)
    assert (shown["epoch"], shown["row"], shown["rows"]) == (0, 0, stream.plan.rows)
    assert set(shown) == {
        *("number", "state", "epoch", "row", "rows", "slots", "bytes_read", "consumers", "waiting")
    }


def test_the_page_knows_every_state() -> None:
    """Its script has a colour for each, and its text is markup only where it is fixed."""
    script = asset("/page.js").body.decode()
    for state in sums.STATES:
        assert re.search(rf'\["{state}", "c\d"', script), state
    assert not re.search("innerHTML|outerHTML|insertAdjacent|document.write|eval", script)


def test_nothing_comes_from_elsewhere() -> None:
    """What the page asks for is here; styles and scripts in its markup would be refused."""
    page = asset("/").body.decode()
    wanted = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sorted(wanted) == ["api/status", "page.css", "page.js"]
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", page)
    assert "<noscript>" in page
    for path in ASSETS:
        text = asset(path).body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search("https?://|@import|url\\(", text), path
