"""A call whose timeout ends while there is no daemon blames the daemon, and not the file."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import raised, save


def test_a_timeout_where_nobody_listens(daemon: Daemon, tmp_path: Path) -> None:
    """It is a LoadTimeout, as it was promised, and says that no daemon is there, not the file."""
    save(tmp_path / "x.npy", np.arange(3))
    endpoint = f"{daemon.endpoint}-elsewhere"
    said = rf"not there in time .* No arrayd daemon answers at {endpoint} after 0.3 s\. Start one"
    with arrayd.connect(endpoint) as nobody:
        for ask in (nobody.get, nobody.info):
            error, _ = raised(partial(ask, tmp_path / "x.npy", timeout=0.3))
            assert isinstance(error, arrayd.LoadTimeout)
            assert re.search(said, str(error)), error


def test_a_timeout_while_the_daemon_is_gone(daemon: Daemon, tmp_path: Path) -> None:
    """The same of one that was there before; of one that answers, nothing is said."""
    save(tmp_path / "x.npy", np.arange(3))
    with arrayd.connect(daemon.endpoint) as one:
        error, _ = raised(partial(one.get, "name:nobody-publishes-it", timeout=0.3))
        assert isinstance(error, arrayd.LoadTimeout)
        assert "daemon" not in str(error)
        daemon.kill()
        error, _ = raised(partial(one.get, tmp_path / "x.npy", timeout=0.3))
        daemon.start()
    assert isinstance(error, arrayd.LoadTimeout)
    assert f"No arrayd daemon answers at {daemon.endpoint} after 0.3 s" in str(error)
