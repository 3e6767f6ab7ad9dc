"""A fuzzer of the wire: a hostile peer beside an honest one, and what that one sees of it.

``python -m tests.faults.hostile_peers SECONDS [SEED]`` by hand; CI runs it short. The peer
may do what every process of this user may, but for `stop`: it takes holds, publishes, evicts
what nobody uses. It must not reach what the honest client holds.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from arrayd.errors import ArraydError, ProtocolMismatch
from arrayd.wire import protocol
from arrayd.wire.codec import pack
from arrayd.wire.requests import Request, parse_request
from tests.faults import zmtp
from tests.faults.honest import HELD, IDLE, write_files
from tests.faults.wild import Wild, World, hello
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import Puppet, PuppetError, Stage

ROOT = Path(__file__).parents[2]
FLAGS = ("--budget", "64M", "--workers", "2")

_SHAKE = zmtp.GREETING + zmtp.ready()
_MESSAGES = 250  # in a batch
_NONE = ("", "none", "../../etc/passwd", "arrayd-0000000000-00000000-1")
_FOREIGN = 4 + len(_NONE)  # segments that are not ours
_OPEN = 40  # raw connections that are left open at a time


def bystander(stage: Stage, daemon: Daemon, folder: Path) -> Puppet:
    """Start an honest client, ``h`` in its process; its files are in `folder`."""
    write_files(folder)
    prelude = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    honest = stage(daemon, f"{prelude}\nfrom tests.faults.honest import Honest")
    honest(f"h = Honest({daemon.endpoint!r}, {str(folder)!r})")
    return honest


def private_kib(pid: int) -> int:
    """Return the anonymous memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("a process without memory")


@dataclass
class Fuzzer:
    """A hostile peer, which is this process.

    Parameters
    ----------
    daemon, honest
        What it attacks, and who must not suffer; see `bystander`.
    folder
        Of the honest client's files.
    seed
        Of all chance.
    """

    daemon: Daemon
    honest: Puppet
    folder: Path
    seed: int
    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    peak: int = 0  # KiB

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._path = self.daemon.endpoint.removeprefix("ipc://")
        self._raw: deque[socket.socket] = deque()
        self._victim = bytes.fromhex(self.honest("h.nonce"))
        self._segments: list[str] = self.honest("h.segments")
        self._spoke_as: set[bytes] = set()
        self._context = zmq.Context()

    def run(self, seconds: float) -> None:
        """Attack for so long, or until something is wrong."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.violations:
            self.attack()
            self.judge()

    def close(self) -> None:
        """Go away."""
        zmtp.close_all(self._raw)
        self._context.destroy(linger=0)

    def attack(self) -> None:
        """Open sessions, send what there is to send, and leave."""
        own = [self._chance.randbytes(16) for _ in range(3)]
        world = self._world(own)
        wild = Wild(self._chance, world)
        socks = [self._dial(nonce) for nonce in own]
        try:
            for _ in range(_MESSAGES):
                self._send(wild, own, self._chance.choice(socks))
                self._read(socks, world)
            self._farewell(own[0], socks, world)
        finally:
            for sock in socks:
                sock.close()
            self._hang_up(0)

    def _world(self, own: list[bytes]) -> World:
        paths = [f"{self.folder}/{name}" for name in (HELD, IDLE, "missing.npy", "")]
        segments = [*self._segments, *_NONE]
        return World(
            [*own, *own, self._victim, bytes(16)], segments, [*paths, "/", "x\0y", "r.npy"]
        )

    def _dial(self, nonce: bytes) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.SNDTIMEO, 10_000)
        sock.connect(self.daemon.endpoint)
        sock.send(pack(_hello_of(nonce)))
        return sock

    # ---- attack --------------------------------------------------------------------------

    def _send(self, wild: Wild, own: list[bytes], sock: zmq.Socket[bytes]) -> None:
        if self._chance.random() < 0.05:
            self._send_raw(pack(wild.valid(self._chance.choice(own), also_hello=False)))
            return
        kind, frames = wild.next(self._chance.choice(own))
        said = [_read_request(frame) for frame in frames]
        if any(request.op == "stop" for request in said if request):
            return
        self._spoke_as.update(request.nonce for request in said if request)
        self.cases[kind] += 1
        if len(frames) == 1:
            sock.send(frames[0])
        else:  # whoever sends more than one is hung up on
            last = zmtp.frame(frames.pop())
            self._dial_raw(_SHAKE + b"".join(zmtp.frame(f, zmtp.MORE) for f in frames) + last)

    def _send_raw(self, message: bytes) -> None:
        """Send bytes that are no ZMTP, or not all of it, and leave the connection open or not."""
        kind, data = self._chance.choice(
            [
                ("no greeting", self._chance.choice([b"GET / HTTP/1.1\r\n\r\n", bytes(100)])),
                ("old greeting", self._chance.choice([b"\x01\x00", b"\x05\x00abcd", b"\xff" * 10])),
                ("half handshake", _SHAKE[: self._chance.randrange(len(_SHAKE))]),
                ("half frame", _SHAKE + zmtp.header(1000) + bytes(500)),
                ("giant frame", _SHAKE + zmtp.header(self._size()) + bytes(500)),
                ("flipped ZMTP", self._flipped(_SHAKE + zmtp.header(len(message))) + message),
                ("commands", _SHAKE + self._commands() + zmtp.frame(message)),
                ("identity", self._as_somebody() + zmtp.frame(message)),
                ("half message", _SHAKE + zmtp.frame(message, zmtp.MORE) * 9),
            ]
        )
        self.cases[f"ZMTP: {kind}"] += 1
        self._dial_raw(data)

    def _dial_raw(self, data: bytes) -> None:
        self._hang_up(_OPEN)
        with contextlib.suppress(OSError):
            self._raw.append(zmtp.dial(self._path))
            self._raw[-1].sendall(data)

    def _size(self) -> int:
        return self._chance.choice([2**64 - 1, 2**63 - 1, 2**40, protocol.MAX_FRAME, 70_000])

    def _flipped(self, data: bytes) -> bytes:
        bent = bytearray(data)
        for _ in range(self._chance.choice([1, 1, 3])):
            bent[self._chance.randrange(len(bent))] ^= 1 << self._chance.randrange(8)
        return bytes(bent)

    def _commands(self) -> bytes:
        names = [b"PING", b"PONG", b"SUBSCRIBE", b"ERROR", b"READY", b"HELLO", b"", b"\xff" * 255]
        count = self._chance.choice([1, 2, 50])
        body = self._chance.choice([b"", b"\0\1ctx", b"\xff\xff" + bytes(16), bytes(5000)])
        return b"".join(zmtp.command(self._chance.choice(names), body) for _ in range(count))

    def _as_somebody(self) -> bytes:
        name = self._chance.choice([b"same", b"\0\0\0\0\1", b"x" * 255, self._chance.randbytes(5)])
        kind = self._chance.choice([b"DEALER", b"REQ", b"ROUTER", b"PUB", b"SUB", b"", b"what"])
        return zmtp.GREETING + zmtp.ready(kind, name)

    def _hang_up(self, most: int) -> None:
        while len(self._raw) > most:
            self._raw.popleft().close()

    # ---- listen --------------------------------------------------------------------------

    def _read(self, socks: list[zmq.Socket[bytes]], world: World) -> None:
        for sock in socks:
            while int(sock.getsockopt(zmq.EVENTS)) & int(zmq.POLLIN):
                self._note(protocol.decode(sock.recv()), world)

    def _note(self, answer: dict[str, Any], world: World) -> None:
        """Count an answer, and learn from it."""
        body = answer.get("ok")
        if "err" in answer:
            code, message = answer["err"]["code"], answer["err"]["message"]
            self.outcomes[code] += 1
            if "bug" in message:
                self.violations.append(f"{code}: {message}")
        else:
            self.outcomes[next((k for k in answer if k not in ("v", "id", "i")), "empty")] += 1
        if isinstance(body, dict) and "segment" in body:
            world.segments.append(body["segment"])
            world.seqs.append(body["seq"])

    def _farewell(self, nonce: bytes, socks: list[zmq.Socket[bytes]], world: World) -> None:
        """Take what is on its way, end all sessions, and wait until all is read."""
        for sock in socks:
            self._wait_for(sock, world)
        sock = socks[0]
        sock.send(pack(_hello_of(nonce)))
        for segment in set(world.segments[_FOREIGN:]):
            for token in world.tokens:
                fields = {"segment": segment, "token": token}
                sock.send(protocol.request(nonce, 2, "redeem", **fields))
            self._read(socks, world)
        for each in {nonce, *self._spoke_as}:
            sock.send(protocol.request(each, 3, "bye"))
        self._spoke_as.clear()
        self._wait_for(sock, world)

    def _wait_for(self, sock: zmq.Socket[bytes], world: World) -> None:
        """Ask, again if need be, for a status: what came before is read by then."""
        end, marker = time.monotonic() + PATIENCE, self._chance.randrange(1 << 40, 1 << 50)
        while time.monotonic() < end:
            sock.send(protocol.request(bytes(16), marker, "status"))
            while sock.poll(500):
                answer = protocol.decode(sock.recv(), answer=True)
                if answer["id"] == marker:
                    return
                self._note(answer, world)
        self.violations.append("a peer that said goodbye gets no status")

    # ---- judge ---------------------------------------------------------------------------

    def judge(self) -> None:
        """Ask the honest client what it sees, and the daemon how it is."""
        assert self.daemon.process is not None
        if self.daemon.process.poll() is not None:
            self.violations.append(f"the daemon ended:\n{self.daemon.log[-3000:]}")
            return
        self.peak = max(self.peak, private_kib(self.daemon.pid))
        self.ask_honest("h.look()")
        self._await_end()
        self.ask_honest("h.sweep()")
        self.ask_honest("h.renew() or h.serve()")
        if "Traceback" in self.daemon.log:
            self.violations.append(self.daemon.log[-3000:])

    def ask_honest(self, code: str) -> None:
        """Have the honest client look; that a call of its fails is a violation, too."""
        try:
            self.violations += self.honest(code) or []
        except (ArraydError, PuppetError) as error:
            self.violations.append(f"{code}: {error}")

    def _await_end(self) -> None:
        """Wait until nothing is left of us after our goodbye."""
        end = time.monotonic() + PATIENCE
        while found := self.honest("h.strangers()"):
            if time.monotonic() > end:
                self.violations += [f"left of a hostile peer: {one}" for one in found]
                return
            time.sleep(0.01)

    def __str__(self) -> str:
        cases, outcomes = (
            "\n".join(f"  {count:9,} {name}" for name, count in counter.most_common())
            for counter in (self.cases, self.outcomes)
        )
        return (
            f"seed {self.seed}: {self.cases.total():,} cases\n{cases}\n"
            f"answers\n{outcomes}\npeak RssAnon {self.peak / 1024:.0f} MiB; "
            f"{len(self.violations)} violations"
        )


def _read_request(frame: bytes) -> Request | None:
    try:
        return parse_request(protocol.decode(frame))
    except (protocol.Garbage, ProtocolMismatch):
        return None


def _hello_of(nonce: bytes) -> dict[str, Any]:
    return {"v": protocol.VERSION, "id": 1, "s": nonce, "op": "hello", **hello()}


def latencies(honest: Puppet, seconds: float) -> dict[str, list[float]]:
    """Return what the honest client measures: median and 95th percentile, in microseconds."""
    measured: dict[str, list[float]] = honest(f"h.latency({seconds})")
    return measured


def _compare(fuzzer: Fuzzer, idle: dict[str, list[float]]) -> None:
    """Print what the honest client measures under attack beside what it measured before."""
    fuzzer.honest.send("h.latency(3)")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        fuzzer.attack()
    busy = fuzzer.honest.reply()
    fuzzer.judge()
    for name, (median, late) in idle.items():
        sys.stdout.write(
            f"{name}: median {median:.0f} us, x {busy[name][0] / median:.1f} under attack; "
            f"p95 {late:.0f} us, x {busy[name][1] / late:.1f}\n"
        )


def main() -> int:
    """Attack by hand; return 1 if anything was violated."""
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        daemon = Daemon(folder, FLAGS)
        stack.callback(daemon.discard)
        daemon.start()
        stage = Stage(f"{folder}/stage")
        stack.callback(stage.close)
        honest = bystander(stage, daemon, folder)
        fuzzer = Fuzzer(daemon, honest, folder, seed)
        stack.callback(fuzzer.close)
        idle = latencies(honest, 1.0)
        fuzzer.run(float(sys.argv[1]))
        if not fuzzer.violations:
            _compare(fuzzer, idle)
        fuzzer.ask_honest("h.finish()")
        sys.stdout.write("\n".join([*fuzzer.violations, str(fuzzer), ""]))
        return 1 if fuzzer.violations else 0


if __name__ == "__main__":
    os.environ.pop("ARRAYD_ENDPOINT", None)
    sys.exit(main())
