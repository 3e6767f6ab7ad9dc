"""Messages that no client sends: valid ones bent out of shape, and bytes that never were any.

All chance comes from one `random.Random`, so that a seed tells the whole story.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from arrayd.common import proc
from arrayd.wire import protocol
from arrayd.wire.codec import pack
from arrayd.wire.requests import FIELDS

Message = dict[Any, Any]

_OFTEN = dict.fromkeys(FIELDS, 10.0) | {"hello": 20.0, "bye": 1.0, "stop": 0.0}
"""How often which request is made; a session that has ended has little to say."""


@dataclass
class World:
    """What a peer can know of, its own and others'.

    Parameters
    ----------
    nonces
        Of its sessions, of another process's, and none at all.
    segments
        Its own, others', and what is none.
    paths
        Of files.
    """

    nonces: list[bytes]
    segments: list[str]
    paths: list[str]
    tokens: list[bytes] = field(default_factory=lambda: [b"", b"t" * 8, b"t" * 99])
    seqs: list[int] = field(default_factory=lambda: [0, 1, 2**40, 2**63 - 1, -1])


class Wild:
    """A source of messages.

    Parameters
    ----------
    chance
        Of everything.
    world
        What messages speak of; it may grow.
    """

    def __init__(self, chance: random.Random, world: World) -> None:
        self._chance = chance
        self._world = world
        self._numbers = iter(range(10, 1 << 30))
        self._mutations: dict[str, Callable[[Message], list[bytes]]] = {
            "valid": lambda message: [pack(message)],
            "random bytes": self._random,
            "flipped bits": self._flipped,
            "cut": self._cut,
            "field dropped": self._dropped,
            "field retyped": self._retyped,
            "field doubled": self._doubled,
            "surplus": self._surplus,
            "nested deep": self._nested,
            "giant length": self._giant_length,
            "weird keys": self._weird_keys,
            "spliced": self._spliced,
            "version": self._version,
            "nonce": self._nonce,
            "frames": self._frames,
        }

    def next(self, nonce: bytes) -> tuple[str, list[bytes]]:
        """Return the kind and the frames of a message in the name of a session."""
        kind = self._chance.choice(list(self._mutations))
        if self._chance.random() < 0.3:
            kind = "valid"  # so that there is something to lose
        return kind, self._mutations[kind](self.valid(nonce))

    # ---- valid ---------------------------------------------------------------------------

    def valid(self, nonce: bytes, *, also_hello: bool = True) -> Message:
        """Return a request that a client might send, about things of others as well.

        Without a hello nothing stays, however late it is heard.
        """
        often = _OFTEN if also_hello else {**_OFTEN, "hello": 0.0}
        op = self._chance.choices(list(often), list(often.values()))[0]
        fields: Message = getattr(self, f"_{op}", dict)()
        return {"v": protocol.VERSION, "id": next(self._numbers), "s": nonce, "op": op, **fields}

    def _hello(self) -> Message:
        holds = self._chance.choices(self._world.segments, k=self._chance.choice([0, 0, 1, 3]))
        pid, latest = self._any([os.getpid(), 1, 0, -1, 2**40]), self._any([0, 1, 2**53 - 1])
        return hello(holds=holds, pid=pid, latest=latest)

    def _get(self) -> Message:
        items = [self._item() for _ in range(self._any([0, 1, 1, 2, 9]))]
        pin, wait = self._any([None, 0, 0.01]), self._any([None, 0, 0.01])
        return {"items": items, "pin": pin, "wait": wait, "progress": self._any([True, None])}

    def _prefetch(self) -> Message:
        return {"items": [self._item()]}

    def _info(self) -> Message:
        return self._item()

    def _cancel(self) -> Message:
        return {"request": self._chance.randrange(10, 1000)}

    def _release(self) -> Message:
        count = self._any([0, 1, 1, 5])
        return {"holds": [[self._segment(), self._any(self._world.seqs)] for _ in range(count)]}

    def _lend(self) -> Message:
        return {"segment": self._segment(), "token": self._any(self._world.tokens)}

    def _redeem(self) -> Message:
        return self._lend()

    def _create(self) -> Message:
        return {
            "shape": self._any([[], [0], [3], [100, 3], [1] * 70, [2**62, 2**62], [1 << 16]]),
            "descr": self._any(["<f8", "|S9", "|V0", [["a", "<i4"], ["b", "<f8"]], "|O"]),
            "order": self._any(["C", "F"]),
            "name": self._any([None, None, "n1", "n2", "", "x" * 300, "../\n\0\udcff"]),
            "keep": self._chance.random() < 0.1,
            "replace": self._any([True, False]),
            "wait": self._any([None, 0]),
        }

    def _seal(self) -> Message:
        return {"segment": self._segment()}

    def _abort(self) -> Message:
        return self._seal()

    def _evict(self) -> Message:
        if self._chance.random() < 0.5:
            return {"block": self._any([self._segment(), 1, 2**63])}
        return {"source": self._item()["source"]}

    def _item(self) -> Message:
        source: Message = {"path": self._any(self._world.paths)}
        if self._chance.random() < 0.3:
            source = {"name": self._any(["n1", "n2", "mine", "draft", "nobody", ""])}
        if self._chance.random() < 0.2:
            source[self._any(["rows", "dtype", "format", "options", "order"])] = self.value()
        return {"source": source, "stat": self._any([None, None, [1, 2, 3, 4, 5]])}

    def _segment(self) -> str:
        return self._chance.choice(self._world.segments)

    def _any(self, values: list[Any]) -> Any:
        return self._chance.choice(values)

    # ---- bent ----------------------------------------------------------------------------

    def value(self, depth: int = 3) -> Any:
        """Return a value of any type that msgpack has."""
        leaves: list[Any] = [
            *(None, True, 0, -1, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), 1e308),
            *("", "x", "\udcff\udc80", "\0", "arrayd-", "x" * 300, b"", b"\xff" * 16),
            *(b"x" * 300, self._segment()),
        ]
        if depth == 0 or self._chance.random() < 0.6:
            return self._any(leaves)
        count = self._any([0, 1, 2, 12])
        if self._chance.random() < 0.5:
            return [self.value(depth - 1) for _ in range(count)]
        return {self._any([0, "x", b"x", "path", None, 1.5]): self.value(depth - 1)}

    def _random(self, _: Message) -> list[bytes]:
        length = self._any([0, 1, 2, 9, 100, 5000])
        return [
            self._any([b"", b"\x85", b"\xde\x00\x05", b"\xc1"]) + self._chance.randbytes(length)
        ]

    def _flipped(self, message: Message) -> list[bytes]:
        frame = bytearray(pack(message))
        for _ in range(self._any([1, 1, 2, 8])):
            frame[self._chance.randrange(len(frame))] ^= 1 << self._chance.randrange(8)
        return [bytes(frame)]

    def _cut(self, message: Message) -> list[bytes]:
        frame = pack(message)
        return [frame[: self._chance.randrange(len(frame))]]

    def _dropped(self, message: Message) -> list[bytes]:
        del message[self._any(list(message))]
        return [pack(message)]

    def _retyped(self, message: Message) -> list[bytes]:
        message[self._any(list(message))] = self.value()
        return [pack(message)]

    def _doubled(self, message: Message) -> list[bytes]:
        """Have a key twice: what counts is the latter."""
        key = self._any(list(message))
        frame = pack(message)
        return [bytes([frame[0] + 1]) + frame[1:] + pack(key) + pack(self.value())]

    def _surplus(self, message: Message) -> list[bytes]:
        return [pack(message) + self._chance.randbytes(self._any([1, 3, 99]))]

    def _nested(self, message: Message) -> list[bytes]:
        key, levels = pack(self._any(list(message))), self._any([23, 24, 25, 500, 2000, 20_000])
        frame = pack(message)
        opening = self._any([b"\x91", b"\x81\xa1x", b"\x81\x01"]) * levels
        return [bytes([frame[0] + 1]) + frame[1:] + key + opening + b"\x01"]

    def _giant_length(self, message: Message) -> list[bytes]:
        """Claim 2**32 - 1 elements in a container or string that has few."""
        frame, kind = pack(message), self._any([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
        giant = kind + struct.pack(">I", self._any([2**32 - 1, 2**31, 1 << 24]))
        at = self._chance.randrange(len(frame))
        return [frame[:at] + giant + frame[at:]]

    def _weird_keys(self, message: Message) -> list[bytes]:
        weird = {self._any([0, b"op", 1.5, None, -1]): self.value() for _ in range(3)}
        return [pack({**message, **weird})]

    def _spliced(self, message: Message) -> list[bytes]:
        one, two = pack(message), pack(self.valid(self._any(self._world.nonces)))
        cut = self._chance.randrange(min(len(one), len(two)))
        return [one[:cut] + two[cut:]]

    def _version(self, message: Message) -> list[bytes]:
        message["v"] = self._any([0, 2, -1, 2**64 - 1, "1", None, 1.5, True, [1], "x" * 5000])
        return [pack(message)]

    def _nonce(self, message: Message) -> list[bytes]:
        message["s"] = self._any([*self._world.nonces, b"", b"x" * 15, b"x" * 17, "x" * 16, None])
        return [pack(message)]

    def _frames(self, message: Message) -> list[bytes]:
        frame = pack(message)
        shapes = [[frame, b""], [b"", frame], [frame] * 2, [b""] * 50, [b"", b"", frame]]
        return self._chance.choice(shapes)


def hello(**fields: Any) -> Message:
    """Return the fields of a hello from this proc."""
    known = {"pid": os.getpid(), "start": 0, "program": "hostile", "holds": [], "latest": 0}
    return {**known, "shm": proc.shared_memory(), **fields}
