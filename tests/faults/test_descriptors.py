"""The daemon runs out of descriptors: it goes on, and serves newcomers when some are free."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import arrayd
from tests.faults.hostile_peers import FLAGS, bystander
from tests.faults.latency import flood
from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage, wait_until

LIMIT = 256

NEWCOMER = """
with arrayd.connect() as session:
    total = int(session.put(np.arange(4)).sum())
total
"""

HOGS = {"mute connections": "new clients wait", "connections": "new clients wait", "hellos": ""}
"""What takes the daemon's descriptors, or its sessions, and what it says of that."""


@pytest.fixture
def tight(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that may open `LIMIT` files."""
    return start_daemon(*FLAGS, wrapper=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))


@pytest.fixture
def honest(tight: Daemon, puppets: Stage, tmp_path: Path) -> Iterator[Puppet]:
    """Give an honest client that is there before anybody else; it must end well."""
    client = bystander(puppets, tight, tmp_path)
    yield client
    assert client("h.finish()") == []


def opened(daemon: Daemon) -> int:
    """Return how many descriptors a daemon has."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


def alive(daemon: Daemon) -> bool:
    """Say whether the daemon runs."""
    return daemon.process is not None and daemon.process.poll() is None


@pytest.mark.parametrize("hog", HOGS)
def test_a_hog_takes_the_connections(
    tight: Daemon, honest: Puppet, puppets: Stage, hog: str
) -> None:
    """Who is there is served on; who comes waits or is told, and is served when the hog goes."""
    before = opened(tight)
    late = puppets(tight)
    with flood(hog, tight, processes=8):
        assert honest("h.client.evict(h.folder / 'idle.npy') and h.serve()") == []
        wait_until(lambda: HOGS[hog] in tight.log, "the hog has what there is")
        late.send(NEWCOMER)
        assert honest("h.look() + h.serve()") == []
        assert opened(tight) <= LIMIT
        assert alive(tight), tight.log
    try:
        assert late.reply() == 6
    except arrayd.DaemonError as error:
        assert "takes no more" in str(error)
    wait_until(lambda: not honest("h.strangers()"), "nothing is left of the hog")
    wait_until(lambda: opened(tight) < before + 8, "its descriptors are free again")
    assert late(NEWCOMER) == 6


def test_the_limit_falls_below_what_is_open(tight: Daemon, honest: Puppet, puppets: Stage) -> None:
    """A limit that is lowered at run time ends nobody; raised again, newcomers are served."""
    late = puppets(tight)
    resource.prlimit(tight.pid, resource.RLIMIT_NOFILE, (10, LIMIT))
    late.send(NEWCOMER)
    wait_until(lambda: "new clients wait" in tight.log, "the newcomer knocks")
    assert honest("h.look()") == []
    assert honest("int(h.client.get(h.folder / 'idle.npy')[0])") == 2
    assert honest("h.client._session.send_releases() or h.look()") == []
    assert alive(tight), tight.log
    resource.prlimit(tight.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    assert late.reply() == 6
    assert honest("h.look() + h.serve()") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_restart_under_a_hog(tight: Daemon, honest: Puppet, number: signal.Signals) -> None:
    """A daemon that is started anew among hogs adopts everything, and serves when they go."""
    honest("h.land()")  # a reference on its way is forgotten with the daemon
    segments = honest("h.segments")
    with flood("connections", tight, processes=2):
        tight.end(number)
        tight.start()
        assert set(segments) <= set(tight.segments)
        assert alive(tight), tight.log
    wait_until(lambda: not honest("h.strangers()"), "nothing is left of the hogs")
    assert honest("h.look() + h.serve()") == []
