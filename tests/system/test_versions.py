"""Two versions at once: daemon, clients and loaders of this arrayd and of a newer one.

See `arrayd.wire.records` for the policy, and `newer.py` for what the newer one does otherwise.
"""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd import reduction
from arrayd.errors import NoSuchBlock, ProtocolMismatch
from arrayd.results.lost import LostArray
from arrayd.session.session import unwrap
from arrayd_server.segments import adoption
from arrayd_server.segments.scope import Scope
from tests.support import newer
from tests.support.daemons import Daemon
from tests.support.processes import PRELUDE, Stage, block_of, only_block, save
from tests.system.test_clean import clean_after
from tests.system.test_references import message

RECORDS = np.array([(1, 2.5), (3, 4.5)], [("a", "<i4"), ("b", "<f8")])

FLAGS = ("--budget", "64M", "--workers", "2")


def wrapper(kind: str = "says more") -> tuple[str, ...]:
    """Return what makes a daemon's command one of a newer arrayd."""
    return (sys.executable, newer.__file__, kind)


def prelude(kind: str = "says more") -> str:
    """Return what makes a puppet a client of a newer arrayd."""
    return f"{PRELUDE}\nimport newer; newer.become({kind!r})"


EVERYTHING = """
kept = arrayd.put(np.arange(5), "kept", keep=True)
x = arrayd.get(PATH, cast="f4", rows=slice(1, 3))
one, two = arrayd.get_many([PATH, "name:kept"])
info, status = arrayd.info(PATH), arrayd.status()
states = {block.source: (block.state, block.pinned) for block in status.blocks}
said = [x.tolist(), one.tolist(), two.tolist(), info.shape, str(info.dtype), states, str(status)]
del x, one, two
said + [arrayd.evict(PATH)]
"""


def check_everything(say: Callable[[str], Any], path: Path, pid: int) -> None:
    """Have a client do what clients do, and compare."""
    values = save(path, np.arange(12.0).reshape(3, 4))
    part, one, two, shape, dtype, states, text, evicted = say(f"PATH = {str(path)!r}{EVERYTHING}")
    assert part == values[1:3].tolist()
    assert one == values.tolist()
    assert two == [0, 1, 2, 3, 4]
    assert (list(shape), dtype) == ([3, 4], "float64")
    assert states["name:kept"] == ["held", True]
    assert states[str(path)] == ["held", False]
    assert f"pid {pid}" in text
    assert evicted.keys() == {"blocks", "bytes", "arrays"}


def test_a_newer_daemon(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """Serves a client of this version: what it says more is not heard."""
    daemon = start_daemon(*FLAGS, wrapper=wrapper())
    check_everything(puppets(daemon), tmp_path / "x.npy", daemon.pid)
    with arrayd.connect(daemon.endpoint) as client:
        assert client.status().version == newer.VERSION
        assert client.status().extra == newer.ACCOUNT
        assert client.status().blocks[0].extra == newer.ACCOUNT


def test_a_newer_client(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """Is served by a daemon of this version, which ignores its hints, and tells its version."""
    new = puppets(daemon, prelude())
    check_everything(new, tmp_path / "x.npy", daemon.pid)
    with arrayd.connect(daemon.endpoint) as client:
        versions = {one.pid: one.version for one in client.status().sessions}
    assert versions[new.pid] == newer.VERSION != arrayd.__version__


SEND = "from multiprocessing.reduction import ForkingPickler as P; bytes(P.dumps(x)).hex()"

REDEEM = "import pickle; y = pickle.loads(bytes.fromhex({!r})); [repr(type(y)), y.tolist()]"


@pytest.mark.parametrize("of", ["daemon", "newer daemon"])
def test_references_between_versions(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path, of: str
) -> None:
    """What a client of the one sends, one of the other redeems, whoever's the daemon is."""
    daemon = start_daemon(*FLAGS, wrapper=() if of == "daemon" else wrapper())
    values = save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    old, new = puppets(daemon), puppets(daemon, prelude())
    for sender, receiver in ((old, new), (new, old)):
        sender(f"x = arrayd.get({str(tmp_path / 'x.npy')!r})[::2, 1:]")
        sent = bytes.fromhex(sender(SEND))
        assert len(sent) < values.nbytes + 1024
        assert b"news" in sent or sender is old
        kind, got = receiver(REDEEM.format(sent.hex()))
        assert "SharedArray" in kind
        assert got == values[::2, 1:].tolist()


def meta_of(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return the metadata of a segment."""
    return adoption.read(f"{Scope(daemon.endpoint).directory}/{name}", name).meta


def hand_over(daemon: Daemon, to: tuple[str, ...]) -> None:
    """End a daemon, and start its successor of the other version."""
    daemon.stop(signal.SIGUSR1)
    daemon.wrapper = to
    daemon.start()


def test_hand_over_there_and_back(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """Blocks of the newer one are this one's, and the newer one's again: nothing is lost.

    What the newer one has said in their metadata is still there, though written anew.
    """
    daemon = start_daemon(*FLAGS, wrapper=wrapper())
    values = save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    holder = puppets(daemon, prelude())
    holder(f"x = arrayd.get({str(tmp_path / 'x.npy')!r}); y = arrayd.put([1, 2, 3], 'named')")
    with arrayd.connect(daemon.endpoint) as client:
        client.release(client.put(RECORDS, "kept", keep=True))
        named = client.get("name:named")
        segment = block_of(named).name
        before = meta_of(daemon, segment)
        assert before["news"] == before["spec"]["news"] == before["origin"]["news"] == newer.NEWS

        hand_over(daemon, ())
        assert client.get("name:kept").tolist() == RECORDS.tolist()
        assert block_of(client.get(tmp_path / "x.npy")).name == holder("x.block.name")
        client.put([4, 5], "named", replace=True, keep=True)
        anew = meta_of(daemon, segment)
        assert (before.pop("name"), anew.pop("name")) == ("named", None)
        assert anew == before

        hand_over(daemon, wrapper())
        assert client.get("name:kept").tolist() == RECORDS.tolist()
        assert client.get("name:named").tolist() == [4, 5]
        assert block_of(client.get(tmp_path / "x.npy")).name == holder("x.block.name")
        assert named.tolist() == holder("y.tolist()") == [1, 2, 3]
        assert holder("x.tolist()") == values.tolist()
        assert holder("arrayd.get('name:kept').tolist()") == [list(row) for row in RECORDS.tolist()]
        assert "not usable" not in daemon.log
        assert "left alone" not in daemon.log


@pytest.mark.parametrize("kind", ["layout", "metadata"])
def test_a_newer_version_is_left_alone(start_daemon: Callable[..., Daemon], kind: str) -> None:
    """By start, hand-over, kill, stop and `arrayd clean`, said once; then it is found again."""
    daemon = start_daemon(*FLAGS)
    with arrayd.connect(daemon.endpoint) as client:
        client.release(client.put([1, 2, 3], "older", keep=True))
        hand_over(daemon, wrapper(kind))
        client.release(client.put(RECORDS, "kept", keep=True))
        assert client.get("name:older").tolist() == [1, 2, 3], "the newer one reads the older's"
        (name,) = (block.segment for block in client.status().blocks if block.name == "kept")
        before = Path(f"/dev/shm/{name}").read_bytes()
        daemon.stop(signal.SIGUSR1)
        daemon.wrapper = ()
        for runs, number in enumerate((signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM), 1):
            daemon.start()
            with pytest.raises(NoSuchBlock):
                client.get("name:kept")
            assert daemon.log.count(f"{name} is left alone: ") == runs
            daemon.end(number)
            assert f"left {name}: " in clean_after(daemon.endpoint)
            assert Path(f"/dev/shm/{name}").read_bytes() == before
        daemon.wrapper = wrapper(kind)
        daemon.start()
        assert client.get("name:kept").tolist() == RECORDS.tolist()


ASKED = (
    "arrayd.get(PATH, pin=1)",  # which asks, whatever the index says
    "arrayd.get_many([PATH], pin=1)",
    "arrayd.prefetch(PATH)",
    "arrayd.info(PATH)",
    "arrayd.evict(PATH)",
)


@pytest.mark.parametrize("kind", ["asks more", "wants more"])
def test_what_must_be_understood(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path, kind: str
) -> None:
    """Is refused with the remedy where it is not; nothing is done."""
    save(tmp_path / "x.npy", np.arange(3))
    client.release(client.get(tmp_path / "x.npy"))
    new = puppets(daemon, prelude(kind))
    new(f"PATH = {str(tmp_path / 'x.npy')!r}")
    for code in (*ASKED, *(["arrayd.put([1], 'x')"] if kind == "asks more" else [])):
        with pytest.raises(ProtocolMismatch, match=r"missing comes from a newer.*arrayd stop"):
            new(code)
    block = only_block(client)
    assert (block.state, block.name) == ("idle", None)


def test_a_reference_that_is_not_understood(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """Brings the error to whoever uses it, and harms nobody who unpickles it."""
    save(tmp_path / "x.npy", np.arange(3))
    new = puppets(daemon, PRELUDE)
    new(f"x = arrayd.get({str(tmp_path / 'x.npy')!r}); import newer; newer.become('wants more')")
    lost = pickle.loads(bytes.fromhex(new(SEND)))
    assert isinstance(lost, LostArray)
    with pytest.raises(ProtocolMismatch, match="missing comes from a newer"):
        lost.sum()


def test_what_only_a_newer_one_can_mean(client: arrayd.Client) -> None:
    """A mode, or a kind of answer, that this one has not is told as such."""
    sent = message(client.put([1, 2, 3]))
    lost = pickle.loads(sent.replace(b"\x8c\x01r\x94", b"\x8c\x01R\x94"))
    assert isinstance(lost, LostArray)
    with pytest.raises(ProtocolMismatch, match="mode 'R'"):
        lost.sum()
    with pytest.raises(ProtocolMismatch, match="newer"):
        unwrap({"v": 1, "id": 1, "i": 0, "redirect": "ipc:///elsewhere"})


def test_a_reference_of_the_first_version() -> None:
    """Unpickled, it is an object of that name in which nothing is where it was: that is told."""
    named = pickle.loads(b"carrayd.reduction\nReference\n.")
    lost = reduction.redeem(named.__new__(named))
    assert isinstance(lost, LostArray)
    with pytest.raises(ProtocolMismatch, match="no Reference that this arrayd understands"):
        lost.sum()
