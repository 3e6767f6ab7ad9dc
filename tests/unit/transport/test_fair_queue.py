"""Who is heard next, and what may be kept for whom, with the clock set by hand."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd_server.transport.fair_queue import LONG_TURN, OTHERS_SEEN, FairQueue, ProcessQueue


class Clients:
    """Processes with connections that always have one more message, and the time."""

    def __init__(self, max_buffered: int = 1000) -> None:
        self.queue: FairQueue[str] = FairQueue(max_buffered)
        self.now = 100.0

    def add(
        self, name: str, connections: int = 1, *, user: str | None = None, wake: bool = True
    ) -> ProcessQueue[str]:
        """Add a process of a user."""
        process = self.queue.process(name, user)
        for number in range(connections):
            self.queue.join(process, f"{name}{number}")
            if wake:
                self.queue.wake(process, f"{name}{number}")
        return process

    def turn(self, cost: float, *, more: bool = True) -> str | None:
        """Hear one message that takes `cost` seconds; return which connection had it."""
        process = self.queue.next(self.now)
        if process is None:
            return None
        connection = self.queue.take(process)
        if more:
            self.queue.wake(process, connection)
        self.now += cost
        self.queue.charge(process, cost, self.now)
        return connection


@pytest.fixture
def clients() -> Clients:
    """Give some, of whom nobody is there yet."""
    return Clients()


def test_nobody_waits(clients: Clients) -> None:
    """Without anything to hear there is no turn, and none to come."""
    clients.add("a", wake=False)
    assert clients.turn(0.001) is None
    assert clients.queue.resume_at() is None


@settings(deadline=None, derandomize=True, max_examples=50)
@given(costs=st.lists(st.integers(1, 20), min_size=2, max_size=5))
def test_equal_shares(costs: list[int]) -> None:
    """Whatever a message of each costs, each gets the same time, give or take one message."""
    clients = Clients()
    spent: dict[str, float] = defaultdict(float)
    cost = {f"p{i}-0": units * LONG_TURN / 20 for i, units in enumerate(costs)}
    for name in cost:
        clients.add(name[:-1])
    for _ in range(1000):
        process = clients.queue.next(clients.now)
        assert process is not None
        connection = next(iter(process.ready))
        clients.turn(cost[connection])
        spent[connection] += cost[connection]
    assert max(spent.values()) - min(spent.values()) <= max(cost.values()) + 1e-9


def test_shares_are_of_processes(clients: Clients) -> None:
    """Ten connections get no more than one, and are heard in turn among themselves."""
    clients.add("a", 10)
    clients.add("b")
    heard = [clients.turn(0.001) for _ in range(40)]
    shares = Counter(str(one)[0] for one in heard)
    assert abs(shares["a"] - shares["b"]) <= 1
    own = [one for one in heard if one != "b0"]
    assert own == [f"a{number % 10}" for number in range(len(own))]


def test_an_occasional_request_waits_for_one_message(clients: Clients) -> None:
    """Whoever comes into a flood is heard next."""
    clients.add("flood", 50)
    rare = clients.add("rare", wake=False)
    for _ in range(20):
        for _ in range(30):
            clients.turn(0.001)
        clients.queue.wake(rare, "rare0")
        heard = {clients.turn(0.001, more=False), clients.turn(0.001)}
        assert "rare0" in heard


def test_silence_is_no_credit(clients: Clients) -> None:
    """Whoever was silent for long is not heard alone when it comes back."""
    clients.add("a")
    late = clients.add("b", wake=False)
    for _ in range(1000):
        clients.turn(0.001)
    clients.queue.wake(late, "b0")
    heard = Counter(clients.turn(0.001) for _ in range(20))
    assert abs(heard["a0"] - heard["b0"]) <= 2


def test_a_long_turn_is_followed_by_a_pause(clients: Clients) -> None:
    """Whoever takes long leaves as long to the others, though they have used more."""
    clients.add("slow")
    clients.add("quick")
    quick = clients.queue.process("quick")
    while clients.turn(0.001) != "quick0":
        pass
    quick.used = 10.0
    assert clients.turn(0.5) == "slow0"
    end = clients.now + 0.5
    while clients.now < end - 1e-9:
        assert clients.turn(0.001) == "quick0"
    assert clients.turn(0.001) == "slow0"


def test_whoever_is_alone_does_not_pause(clients: Clients) -> None:
    """When no other was heard for a while, there is nobody to leave time to."""
    slow = clients.add("slow")
    clients.turn(0.001)
    clients.now += OTHERS_SEEN
    for _ in range(5):
        assert clients.turn(0.5) == "slow0"
    assert slow.paused_until < clients.now


def test_when_all_pause(clients: Clients) -> None:
    """The first end of a pause is told, so that the loop may sleep until then."""
    for name, until in (("a", 103.0), ("b", 102.0)):
        clients.add(name).paused_until = until
    assert clients.turn(0.001) is None
    assert clients.queue.resume_at() == 102.0
    clients.now = 102.0
    assert clients.turn(0.001) == "b0"


def test_who_keeps_most_is_hung_up_on(clients: Clients) -> None:
    """The largest connection of the process with the largest sum, not the largest of all."""
    many, one = clients.add("many", 3), clients.add("one")
    queue = clients.queue
    queue.buffer(one, "one0", 500)
    for number, nbytes in enumerate((100, 300, 90)):
        queue.buffer(many, f"many{number}", nbytes)
    assert (queue.buffered, queue.excess()) == (990, None)
    queue.buffer(many, "many2", 200)
    assert queue.excess() == "many1"
    queue.leave(many, "many1")
    assert (queue.buffered, queue.excess()) == (800, None)


def test_who_has_left_is_not_heard(clients: Clients) -> None:
    """A connection that is gone has no turn, and a process without one is forgotten."""
    process = clients.add("a", 2)
    clients.queue.leave(process, "a0")
    assert clients.turn(0.001, more=False) == "a1"
    clients.queue.prune()
    assert clients.queue.process("a") is process
    clients.queue.wake(process, "a1")
    clients.queue.leave(process, "a1")
    assert clients.turn(0.001) is None
    clients.queue.prune()
    assert clients.queue.process("a") is not process


def test_coming_again_ends_no_pause(clients: Clients) -> None:
    """Who hangs up and connects again is the same as before."""
    process = clients.add("a")
    process.paused_until = clients.now + 1
    clients.queue.leave(process, "a0")
    clients.add("a")
    assert clients.turn(0.001) is None


def test_shares_are_of_users_first(clients: Clients) -> None:
    """Bob's ten processes, one of them with ten connections, get no more than Ann's one."""
    for number in range(10):
        clients.add(f"b{number}-", 10 if not number else 1, user="bob")
    clients.add("a", user="ann")
    heard = [str(clients.turn(0.001)) for _ in range(400)]
    assert abs(Counter(one[0] for one in heard)["a"] - 200) <= 1
    of_bobs = Counter(one.partition("-")[0] for one in heard if one[0] == "b")
    assert max(of_bobs.values()) - min(of_bobs.values()) <= 1


def test_a_user_whose_processes_take_turns_at_long_messages(clients: Clients) -> None:
    """Each is Bob's, who leaves half of the time to Ann with her little; alone he has all."""
    for number in range(10):
        clients.add(f"b{number}-", user="bob")
    clients.add("a", user="ann")
    spent = Counter[str]()
    long = 10 * LONG_TURN
    for _ in range(2000):
        process = clients.queue.next(clients.now)
        if process is None:
            resume = clients.queue.resume_at()
            assert resume is not None and resume > clients.now
            clients.now = resume
            continue
        cost = LONG_TURN / 10 if next(iter(process.ready)) == "a0" else long
        spent[str(clients.turn(cost))[0]] += round(cost / LONG_TURN * 10)
    assert spent["b"] <= spent["a"] + 200
    alone = Clients()
    alone.add("b", user="bob")
    assert [alone.turn(long) for _ in range(5)] == ["b0"] * 5


def test_who_hoards_is_a_user(clients: Clients) -> None:
    """Bob's ten processes keep most of what may be kept, though Ann's one has more than any."""
    for number in range(10):
        clients.queue.buffer(clients.add(f"b{number}-", user="bob"), f"b{number}-0", 90 + number)
    clients.queue.buffer(clients.add("a", user="ann"), "a0", 200)
    assert clients.queue.excess() == "b9-0"


def test_users_are_forgotten(clients: Clients) -> None:
    """Of a user without a connection nothing is left."""
    process = clients.add("b", user="bob")
    clients.queue.leave(process, "b0")
    assert clients.turn(0.001) is None
    clients.queue.prune()
    assert not clients.queue._users and not clients.queue._processes
