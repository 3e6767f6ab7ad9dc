"""The metrics of a daemon that runs."""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import arrayd
from arrayd.errors import NoSuchBlock
from tests.support.daemons import PATIENCE, Daemon


def test_a_file_for_node_exporter(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """It is there soon after the start, and goes with the daemon."""
    daemon = start_daemon("--budget", "16M", "--metrics-textfile", str(tmp_path))
    path, end = tmp_path / "arrayd.prom", time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    assert re.search(r"(?m)^arrayd_budget_bytes 1.6777216e\+07$", path.read_text())
    daemon.stop()
    assert list(tmp_path.iterdir()) == []


def port_of(daemon: Daemon) -> int:
    """Return where it gives its metrics, as its log says."""
    found = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", daemon.log)
    assert found is not None, daemon.log
    return int(found[1])


def ask(port: int, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    """Return an answer and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Return what Prometheus would read: values by name and labels, these by their names."""
    answer, body = ask(port, "/metrics")
    text = body.decode()
    assert answer.status == 200, text
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, *one.labels.values()): one.value for one in samples}


def look_at_the_page(port: int, path: Path) -> None:
    """Check the web page of a daemon that has an array of that file, which is held."""
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
    for asset, kind in {**kinds, "/api/status": "application/json"}.items():
        answer, body = ask(port, asset)
        assert (answer.status, len(body) > 0) == (200, True)
        assert (answer.getheader("Content-Type") or "").startswith(kind)
        assert answer.getheader("Content-Security-Policy") == "default-src 'self'"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("X-Frame-Options") == "DENY"
        assert answer.getheader("Cache-Control") == "no-store"
        assert ask(port, asset, "HEAD")[1] == b""
        assert ask(port, asset, "POST")[0].status == 405
    assert ask(port, "/../page.js")[0].status == ask(port, "/page.html")[0].status == 404
    shown = json.loads(ask(port, "/api/status")[1])
    assert str(path) not in json.dumps(shown)
    (block,) = shown["blocks"]
    assert (block["state"], block["shape"], block["dtype"]) == ("held", [1000], "int64")
    assert (block["format"], block["holders"], block["user"]) == ("npy", 2, 1)
    assert shown["memory"]["held"] == block["size"] == shown["history"]["states"]["held"][-1]


def test_what_happens_is_counted(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A load, a hit, a block that is held, an error: each is where it belongs."""
    daemon = start_daemon("--budget", "16M", "--workers", "1", "--metrics-listen", "127.0.0.1:0")
    port = port_of(daemon)
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1000))
    with arrayd.connect(daemon.endpoint) as one, arrayd.connect(daemon.endpoint) as other:
        kept = one.get(path), other.get(path)
        with pytest.raises(NoSuchBlock):
            one.info("name:none")
        end = time.monotonic() + PATIENCE
        while True:  # what is measured is a second old at most
            seen = scrape(port)
            if seen["arrayd_sessions",] == 2 and ("arrayd_errors_total", "NoSuchBlock") in seen:
                break
            assert time.monotonic() < end, seen
            time.sleep(0.05)
        assert seen["arrayd_loads_total", "npy", "ok"] == 1
        assert seen["arrayd_load_bytes_total", "npy"] == 8000
        assert seen["arrayd_load_duration_seconds_count", "npy"] == 1
        assert seen["arrayd_lookups_total", "miss"] == 1
        assert seen["arrayd_blocks", "held"] == 1
        assert seen["arrayd_block_bytes", "held"] >= 8000
        assert seen["arrayd_requests_total", "ok", "get"] >= 1
        assert seen["arrayd_requests_total", "error", "info"] == 1
        assert seen["arrayd_request_duration_seconds_count", "get"] >= 1
        look_at_the_page(port, path)
        del kept


def test_a_passed_socket(start_daemon: Callable[..., Daemon]) -> None:
    """Metrics come by the socket that a unit has made; the daemon makes no other."""
    script = (
        "import os, socket, sys; one = socket.create_server(('127.0.0.1', 0)); "
        "os.dup2(one.fileno(), 100); os.dup2(100, 3); os.closerange(4, 200); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='metrics'); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    daemon = start_daemon("--budget", "16M", wrapper=(sys.executable, "-c", script))
    assert scrape(port_of(daemon))["arrayd_budget_bytes",] == 16 << 20
