"""Who sends references, with which pickler: unsealed arrays, libraries, private mappings."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest

import arrayd
from arrayd.system import pagemap
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind, only_block, save
from tests.system.test_references import SMALL, late, message, name_of, run, same, session


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give the very session in which this process redeems references."""
    yield from session(daemon)


# ---- an unsealed array -----------------------------------------------------------------------


def test_unsealed_by_every_pickler(client: arrayd.Client) -> None:
    """What its receiver writes is in the block, whatever the pickler and its protocol."""
    count = pickle.HIGHEST_PROTOCOL + 1
    with client.create((count + 1, 1000), "i8") as out:
        for protocol in range(count):
            got = pickle.loads(pickle.dumps(out[protocol], protocol))
            got[:] = protocol
        got = pickle.loads(message([out]))[0]
        got[-1] = count
        del got
    np.testing.assert_array_equal(out, np.arange(count + 1)[:, None] * np.ones(1000))
    assert len(pickle.dumps(out)) > out.nbytes, "sealed, a plain pickle holds the values"
    del out
    leaves_nothing_behind(client)


def test_what_cannot_be_lent_is_not_pickled(client: arrayd.Client) -> None:
    """Unsealed but given up, or released: an error, for a copy would be written in vain."""
    with pytest.raises(RuntimeError), client.create(10) as out:
        raise RuntimeError
    with pytest.raises(arrayd.NoSuchBlock):
        pickle.dumps(out)
    with pytest.raises(arrayd.NoSuchBlock), client.create(10) as out:
        client.release(out)
        pickle.dumps(out[2:])
    del out


def test_what_nobody_could_write_is_pickled_by_value(client: arrayd.Client) -> None:
    """Read-only views of an unsealed array, its copies and empty parts."""
    with client.create(10) as out:
        out[:] = 7
        view = out[2:]
        view.flags.writeable = False
        for sent in (view, out + 1, out[:0], out.copy()):
            got = pickle.loads(pickle.dumps(sent))
            assert type(got) is np.ndarray
            np.testing.assert_array_equal(got, np.asarray(sent))
        assert only_block(client).lends == 0
    del out, view, sent


# ---- the libraries ---------------------------------------------------------------------------

PICKLED = """
import io, pickle, sys
import numpy as np{first}, arrayd
sys.path.insert(0, sys.argv[1])
x = arrayd.put(np.arange(1_000_000))
import {module} as module
{dumps}
sent = dumps([x])
assert len(sent) < 1024, len(sent)
[got] = pickle.loads(sent)
assert isinstance(got, arrayd.SharedArray) and got.sum() == x.sum()
assert len(pickle.dumps(x)) > x.nbytes
"""

LIBRARIES = {
    "pathos": ("multiprocess.reduction", "dumps = module.ForkingPickler.dumps"),
    "joblib": (
        "joblib.pool",
        """def dumps(value):
    file = io.BytesIO()
    module.CustomizablePickler(file, {}).dump(value)
    return file.getvalue()""",
    ),
    "dask": ("dask.multiprocessing", "dumps = module._dumps"),
}

DASK = """
from functools import partial
import cloudpickle
_dumps = partial(cloudpickle.dumps, protocol=5)
"""


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("order", ["library first", "arrayd first"])
def test_a_library(daemon: Daemon, tmp_path: Path, name: str, order: str) -> None:
    """Its own messages are references, whichever of the two is imported first.

    Two of them are played here, by what they are made of: `multiprocess` is multiprocessing
    under another name, and Dask's scheduler has a cloudpickle in `_dumps`.
    """
    (tmp_path / "multiprocess").symlink_to(Path(multiprocessing.__file__).parent)
    (tmp_path / "cloudpickle").symlink_to(Path(joblib.__file__).parent / "externals/cloudpickle")
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "__init__.py").touch()
    (tmp_path / "dask" / "multiprocessing.py").write_text(DASK)
    module, dumps = LIBRARIES[name]
    first = f"; import sys; sys.path.insert(0, sys.argv[1])\nimport {module}"
    first = first if order == "library first" else ""
    run(PICKLED.format(first=first, module=module, dumps=dumps), daemon, str(tmp_path))


DISTRIBUTED = """
class Dispatch:
    def __init__(self):
        self.known = {}

    def register(self, kind, function):
        self.known[kind] = function

    def dispatch(self, kind):
        return next(self.known[base] for base in kind.__mro__ if base in self.known)

dask_serialize = Dispatch()
"""

SERIALIZED = """
import pickle, sys
import numpy as np, arrayd
sys.path.insert(0, sys.argv[1])
from distributed.protocol.serialize import dask_serialize
dask_serialize.register(np.ndarray, lambda x, context: (context, x))

def send(x):
    try:
        return dask_serialize.dispatch(type(x))(x, context="c")
    except NotImplementedError:
        return pickle.dumps(x)

with arrayd.create(1000) as out:
    got = pickle.loads(send(out[5:]))
    got[0] = 7
    del got
assert out[5] == 7
context, values = send(out)
assert context == "c" and type(values) is np.ndarray and values[5] == 7
"""


def test_distributed(daemon: Daemon, tmp_path: Path) -> None:
    """The serializer that dask.distributed has for arrays gets no unsealed one: it is pickled."""
    (tmp_path / "distributed" / "protocol").mkdir(parents=True)
    (tmp_path / "distributed" / "protocol" / "serialize.py").write_text(DISTRIBUTED)
    run(SERIALIZED, daemon, str(tmp_path))


PARALLEL = """
import joblib, numpy as np, arrayd

def look(shared, row):
    shared[row] += row
    return type(shared).__name__

with arrayd.create((8, 100_000)) as out:
    with joblib.Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        seen = parallel(joblib.delayed(look)(out, row) for row in range(8))
assert (out[:, 0] == np.arange(8)).all()
assert set(seen) == {"SharedArray"}
"""


def test_parallel_processes_fill_one_array(client: arrayd.Client, daemon: Daemon) -> None:
    """The multiprocessing backend of joblib writes to the block, not to a copy."""
    run(PARALLEL, daemon)
    leaves_nothing_behind(client)


# ---- copy-on-write ---------------------------------------------------------------------------


def test_an_untouched_private_array_is_a_reference(client: arrayd.Client, tmp_path: Path) -> None:
    """``mode="c"``: it arrives private and writeable, as it was sent; nothing comes back."""
    values = save(tmp_path / "x.npy", np.arange(40_000.0).reshape(200, 200))
    x = client.get(tmp_path / "x.npy", mode="c")
    assert x.sum() == values.sum()
    for sent in (x, x[::-2, 3:], x.T):
        assert len(message(sent)) < SMALL
        got = pickle.loads(message(sent))
        assert same(got, sent)
        assert name_of(got) == name_of(x)
        got[:] = -1
    np.testing.assert_array_equal(x, values)
    np.testing.assert_array_equal(client.get(tmp_path / "x.npy"), values)
    del x, got, sent


def test_what_was_written_goes_by_value(client: arrayd.Client, tmp_path: Path) -> None:
    """One written page is enough, and counts for the views that show it alone."""
    values = save(tmp_path / "x.npy", np.arange(40_000.0))
    x = client.get(tmp_path / "x.npy", mode="c")
    x[20_000] = -1
    values[20_000] = -1
    for sent, kind in ((x, np.ndarray), (x[19_990:], np.ndarray), (x[:10_000], arrayd.SharedArray)):
        got = pickle.loads(message(sent))
        assert type(got) is kind
        np.testing.assert_array_equal(got, np.asarray(sent))
    del x, sent, got


def test_a_private_array_is_loaded_again(client: arrayd.Client, tmp_path: Path) -> None:
    """It is private and writeable then, too."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    got = pickle.loads(late(client, [client.get(tmp_path / "x.npy", mode="c")]))
    got[0] = 7
    np.testing.assert_array_equal(got[1:], values[1:])
    del got


def test_without_the_kernels_word_it_was_written(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc says nothing, or may have missed a page, the values are sent."""
    save(tmp_path / "x.npy", np.arange(1000.0))
    x = client.get(tmp_path / "x.npy", mode="c")
    monkeypatch.setattr(pagemap, "written", lambda *_: True)
    assert type(pickle.loads(message(x))) is np.ndarray
    monkeypatch.undo()
    assert pagemap.written((1 << 63) - (1 << 20), 4096)
    del x
