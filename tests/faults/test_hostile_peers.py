"""Hostile peers: they reach nothing of others, cost bounded memory, and delay nobody for long."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from arrayd.wire import protocol
from arrayd_server.service.handlers import MAX_IN_FLIGHT, SHARE
from tests.faults import zmtp
from tests.faults.floods import KINDS
from tests.faults.hostile_peers import FLAGS, Fuzzer, bystander
from tests.faults.latency import UNCHECKED, flood, suffer
from tests.faults.wild import hello
from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage, wait_until

PEAK, REST = 300, 100
"""MiB of private memory that a flood may make the daemon take, and keep when it is over."""

SLOWER, SLOW = 10, 30_000
"""How much slower an honest get may become, unless it takes less than these microseconds."""


@pytest.fixture
def attacked(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon at full speed: the rules are not verified at each event."""
    return start_daemon(*UNCHECKED)


@pytest.fixture
def honest(attacked: Daemon, puppets: Stage) -> Puppet:
    """Give an honest client of it; see `Honest`."""
    folder = attacked.directory / "files"
    folder.mkdir()
    return bystander(puppets, attacked, folder)


def fuzz(daemon: Daemon, puppets: Stage, folder: Path, seed: int, seconds: float) -> Fuzzer:
    """Fuzz a daemon beside an honest client, which must end well."""
    honest = bystander(puppets, daemon, folder)
    fuzzer = Fuzzer(daemon, honest, folder, seed)
    try:
        fuzzer.run(seconds)
    finally:
        fuzzer.close()
    fuzzer.ask_honest("h.finish()")
    return fuzzer


def test_nothing_of_others_is_reached(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """Whatever a peer says, what others hold, wrote, published and lent stays as it was."""
    fuzzer = fuzz(start_daemon(*FLAGS), puppets, tmp_path, seed=1, seconds=5)
    assert fuzzer.violations == [], str(fuzzer)
    assert fuzzer.cases.total() > 500, str(fuzzer)
    assert fuzzer.outcomes["ok"] > 50, str(fuzzer)
    assert fuzzer.outcomes["AccessDenied"] > 0, "no stolen nonce was tried"


SECONDS = {"endless": 1.0}
"""How long each flood of a group lasts, if not `_SHORT`."""

_SHORT = 0.4

GROUPS = {
    "requests": ("statuses", "gets", "infos", "missing files", "prefetches"),
    "states": ("names", "one name", "creates", "lends", "hellos"),
    "unread": ("unread statuses", "unread gets", "unread infos", "slow readers"),
    "large": ("large garbage", "large lists", "large releases", "large hellos"),
    "endless": ("endless message", "endless crumbs", "half frames", "pings"),
    "connections": ("mute connections", "knocks"),
}


def test_every_flood_is_tried() -> None:
    """No kind of flood is forgotten in the groups below."""
    assert {kind for kinds in GROUPS.values() for kind in kinds} == {*KINDS} - {
        "burnt CPU",
        "connections",  # has a test of its own
    }


@pytest.mark.parametrize("group", GROUPS)
def test_a_flood_is_bounded(attacked: Daemon, honest: Puppet, group: str) -> None:
    """The daemon's memory stays bounded, honest calls are served, and nothing is left."""
    for kind in GROUPS[group]:
        row = suffer(kind, attacked, honest, SECONDS.get(group, _SHORT))
        assert row.wrong == [], row
        assert row.peak < row.before + PEAK, row
        assert row.after < row.before + REST, row
        assert row.ratio("get") < SLOWER or row.busy["get"][0] < SLOW, row
    assert honest("h.finish()") == []


def test_three_thousand_connections(attacked: Daemon, honest: Puppet) -> None:
    """Thousands of sessions in a few processes cost little, and go with their processes."""
    descriptors = Path(f"/proc/{attacked.pid}/fd")
    before = len(list(descriptors.iterdir()))
    with flood("connections", attacked, processes=3):
        assert honest("h.look() + h.serve()") == []
        assert honest("len(h.client.status().sessions)") > 100
    wait_until(lambda: not honest("h.strangers()"), "the sessions go")
    wait_until(lambda: len(list(descriptors.iterdir())) < before + 10, "the descriptors go")
    assert honest("h.finish()") == []


@pytest.mark.parametrize("name", ["one", "{}-{}"])
def test_a_session_has_its_share(attacked: Daemon, honest: Puppet, name: str) -> None:
    """What one session waits for is bounded, be it one name or many; others are served."""
    nonce, items, cost = secrets.token_bytes(16), protocol.MAX_ITEMS, 1 if name == "one" else 2
    most = MAX_IN_FLIGHT // (SHARE + 1) // cost  # for all that is in flight is its own
    with zmtp.join(attacked.endpoint.removeprefix("ipc://")) as sock:
        sock.sendall(zmtp.frame(protocol.request(nonce, 1, "hello", **hello())))
        assert "ok" in protocol.decode(zmtp.read_message(sock), answer=True)
        for number in range(most // items + 1):
            wanted = [{"source": {"name": name.format(number, i)}} for i in range(items)]
            fields = {"items": wanted, "pin": None, "wait": 1000.0, "progress": False}
            sock.sendall(zmtp.frame(protocol.request(nonce, 2 + number, "get", **fields)))
        answer = protocol.decode(zmtp.read_message(sock), answer=True)
        taken = (answer["id"] - 2) * items + answer["i"]
        assert most - 1 <= taken <= most
        assert "ask again when some are done" in str(answer)
        assert honest("h.look() + (h.renew() or h.serve())") == []
        sock.sendall(zmtp.frame(protocol.request(nonce, 1 << 40, "bye")))
        wait_until(lambda: not honest("h.strangers()"), "nothing of it is left")
    assert honest("h.finish()") == []
