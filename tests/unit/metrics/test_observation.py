"""The measuring of a daemon, and what it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arrayd.errors import MissingDependency
from arrayd_server.core.streams import Streams
from arrayd_server.metrics import observation
from arrayd_server.metrics.observation import Observation
from arrayd_server.metrics.textfile import Textfile
from tests.support.core_files import File
from tests.support.core_script import World


async def observe(world: World, folder: Path | None, until: Callable[[], bool]) -> Observation:
    """Observe a core until something is so."""
    one = Observation(asyncio.get_running_loop(), folder)
    one.begin(world.registry, Streams(world.registry, b"own", 1), lambda: 3)
    while not until():
        await asyncio.sleep(0.001)
    return one


def test_what_is_measured_is_good_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks within a second gets the same; then it is measured again."""
    world = World()

    async def main() -> None:
        one = await observe(world, None, lambda: True)
        first, same = await asyncio.gather(one.measured(), one.measured())
        assert first is same
        assert (first.garbage, first.sums.charged) == (3, 0)
        monkeypatch.setattr(one, "_good_until", 0.0)
        world.cache(File("x", 10))
        assert (await one.measured()).sums.charged == 10
        one.close()

    asyncio.run(main())


def test_a_file_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once, until it is another fault; when it can be written, it is."""
    monkeypatch.setattr(observation, "INTERVAL", 0.001)
    folder, tries = tmp_path / "none", []
    write = Textfile.write

    def counted(self: Textfile, text: bytes) -> None:
        tries.append(len(text))
        write(self, text)

    monkeypatch.setattr(Textfile, "write", counted)

    async def main() -> None:
        one = await observe(World(), folder, lambda: len(tries) > 2)
        folder.mkdir()
        while not (folder / "arrayd.prom").exists():
            await asyncio.sleep(0.001)
        one.close()

    asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records]
    path = folder / "arrayd.prom"
    assert lines == [f"the metrics cannot be written to {path}: No such file or directory"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "arrayd_server.metrics.exposition", None)
    with pytest.raises(MissingDependency, match=r"pip install 'arrayd\[metrics\]'"):
        observation.renderer()


def test_without_metrics_the_package_is_not_needed() -> None:
    """A daemon does not import it unless it is to measure."""
    script = "import sys, arrayd_server.program; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
