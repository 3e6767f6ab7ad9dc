"""A world of the core with users who have quotas: Ann and Bob, who are of one group, and root."""

from __future__ import annotations

from typing import Any

from arrayd.wire.grant import Grant
from arrayd_server.core.model import Draft, Peer
from arrayd_server.core.quotas import NO_LIMITS, Limits, Owner, Quotas
from tests.support.core_files import SPEC, File
from tests.support.core_script import World

LAB = 60010
ANN = Peer(60001, 11, "py", 11, foreign=True, groups=frozenset({60001, LAB}))
BOB = Peer(60002, 12, "py", 12, foreign=True, groups=frozenset({60002, LAB}))
OWN, ROOT = 7, Peer(0, 13, "py", 13, foreign=True, groups=frozenset({0, LAB}))
ANNS, BOBS, LABS = Owner(False, ANN.uid), Owner(False, BOB.uid), Owner(True, LAB)


def quotas(others: Limits = NO_LIMITS, **named: Limits) -> Quotas:
    """Return quotas of ``bob``, ``lab``, ``root``, ``own``, and of each other user."""
    owners = {"bob": BOBS, "lab": LABS, "root": Owner(False, 0), "own": Owner(False, OWN)}
    entries = {owners[name]: "@lab" if name == "lab" else name for name in named}
    limits = {owners[name]: one for name, one in named.items()}
    return Quotas(limits, entries, others, frozenset({0, OWN}), OWN if "own" in named else None)


def founded() -> World:
    """Return a world with sessions of Ann and Bob, who are of one group, and of root."""
    town = World(1000)
    town.naive.evicting = True  # some blocks go though there is room
    town.hello(b"ann", ANN.pid, peer=ANN)
    town.hello(b"bob", BOB.pid, peer=BOB)
    town.hello(b"root", ROOT.pid, peer=ROOT)
    return town


def limit(town: World, others: Limits = NO_LIMITS, **named: Limits) -> None:
    """Let quotas be others."""
    town.registry.blocks.change_quotas(quotas(others, **named))


def has(town: World, owner: Owner) -> tuple[int, int]:
    """Return the bytes and blocks that count in a quota."""
    one = town.registry.blocks.accounts.has(owner)
    return one.bytes, one.blocks


def got(town: World, nonce: bytes, what: File, pin: float = 0.0) -> Any:
    """Return the answer to a request for a file."""
    to = town.get(nonce, what, pin=pin)
    town.work_off()
    answer = town.answer(to)
    if isinstance(answer, Grant):
        town.kernel.attach(answer.segment, nonce)
    return answer


def kept(town: World, nonce: bytes, size: int) -> Any:
    """Return the answer to one who wants to write a block that is to be kept."""
    draft = Draft(SPEC, size, "name:x", "x", True)
    to = town.asker(nonce, draft)
    town.do(town.registry.create, to, draft, 1.0, town.now)
    town.work_off()
    return town.answer(to)
