"""`LostArray`: the error reaches whoever uses what did not arrive, and nobody else."""

from __future__ import annotations

import copy
import multiprocessing as mp
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd.results.lost import LostArray
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind
from tests.system.test_references import message, session

# From Python 3.12 on; that a fork among threads works is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

ONES = np.ones(3)

USES: dict[str, Callable[[Any], Any]] = {
    "an element": lambda x: float(x[0]),
    "a number": float,
    "its shape": lambda x: x.shape,
    "whether it has one": lambda x: hasattr(x, "shape"),
    "a method": lambda x: x.sum(),
    "its length": len,
    "its elements": list,
    "whether it is true": bool,
    "text": "{}".format,
    "a written element": lambda x: x.__setitem__(0, 1),
    "a written attribute": lambda x: setattr(x, "shape", (3,)),
    "asarray": np.asarray,
    "array": np.array,
    "ascontiguousarray": np.ascontiguousarray,
    "a reduction": np.sum,
    "a ufunc": np.sqrt,
    "a function": lambda x: np.concatenate([x, ONES]),
    "an array of it": lambda x: np.array([x, x]),
    "copied to": lambda x: np.copyto(ONES, x),
    "assigned": lambda x: ONES.__setitem__(slice(None), x),
    "left": lambda x: x + 1,
    "right": lambda x: ONES - x,
    "product": lambda x: ONES @ x,
    "compared": lambda x: x == 1,
    "compared from": lambda x: np.greater(ONES, x),
}


@pytest.mark.parametrize("use", USES)
def test_any_use_raises(use: str) -> None:
    """Whatever is done with it raises its own error, each time; nothing is read as empty."""
    lost = LostArray(arrayd.NoSuchBlock("it is gone", number=1))
    for _ in range(2):
        with pytest.raises(arrayd.NoSuchBlock, match="it is gone") as caught:
            USES[use](lost)
        assert caught.value.details == {"number": 1}


def test_it_goes_on_as_it_is() -> None:
    """It can be looked at, copied, sent on and released; it is no array."""
    lost = LostArray(arrayd.SourceChanged("x.npy changed"))
    for same in (pickle.loads(pickle.dumps(lost)), copy.copy(lost), copy.deepcopy([lost])[0]):
        assert repr(same) == "<LostArray: SourceChanged: x.npy changed>"
        with pytest.raises(arrayd.SourceChanged):
            same.sum()
    assert not isinstance(lost, np.ndarray)
    assert {lost: 1}[lost] == 1
    arrayd.release(lost)  # type: ignore[arg-type]  # a user has been promised an array


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give the very session in which this process redeems references."""
    yield from session(daemon)


class Message:
    """Something that pickles as a message that was made before."""

    def __init__(self, sent: bytes) -> None:
        self.sent = sent

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.sent,)


def total(shared: Any) -> float:
    """Use what has arrived."""
    return float(shared.sum())


def as_it_is(shared: Any) -> Any:
    """Send back what has arrived."""
    return shared


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_is_an_exception_of_the_task(client: arrayd.Client, method: str) -> None:
    """In Pool and ProcessPoolExecutor; the worker lives on, and so does who reads the results."""
    sent_before = message(client.put(np.arange(10)))
    pickle.loads(sent_before)
    leaves_nothing_behind(client)
    sent = Message(sent_before)
    context: Any = mp.get_context(method)
    with context.Pool(1) as pool:
        (before,) = [worker.pid for worker in pool._pool]
        tasks = pool.imap(total, [np.ones(1), sent, np.ones(2)])
        assert tasks.next(timeout=60) == 1
        with pytest.raises(arrayd.NoSuchBlock, match="is gone"):
            tasks.next(timeout=60)
        assert tasks.next(timeout=60) == 2
        back = pool.apply_async(as_it_is, (sent,)).get(timeout=60)
        assert isinstance(back, LostArray)
        assert [worker.pid for worker in pool._pool] == [before]
        pool.close()
        pool.join()
    with ProcessPoolExecutor(1, context) as executor:
        with pytest.raises(arrayd.NoSuchBlock, match="is gone"):
            executor.submit(total, sent).result(timeout=60)
        assert executor.submit(total, np.ones(3)).result(timeout=60) == 3
