"""The text that Prometheus reads."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from arrayd.wire.grant import Spec
from arrayd_server.core import bounds
from arrayd_server.core.model import Block, State
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.metrics import exposition, meter
from arrayd_server.metrics.measurements import Measurements
from arrayd_server.metrics.sums import Survey
from arrayd_server.metrics.table import METRICS
from arrayd_server.metrics.textfile import Textfile
from arrayd_server.service.handlers import HANDLERS

BLOCKS = 10_000


def busy() -> Measurements:
    """Return those of a daemon with 10,000 blocks that has seen everything that there is."""
    registry = Registry("r{}".format, 1 << 40, bounds.GIVEN)
    for number in range(BLOCKS):
        spec = Spec((1,), "<f8", "C", 8)
        block = Block(f"s{number}", number, spec, 4096, None, State.SEALED, 0.0, 0.0)
        block.user = number
        registry.blocks.add(block)
    one = meter.Meter()
    for verb in (*HANDLERS, "hello"):
        for outcome in (meter.OK, meter.ERROR, meter.DROPPED):
            one.counts.requests[verb, outcome] += 1
    for verb in (*meter.TIMED, meter.OTHER):
        seconds = meter.Distribution(meter.REQUEST_BOUNDS)
        seconds.add(1.0)
        one.counts.request_seconds[verb] = seconds
    for number in range(100):
        for outcome in ("ok", "error", "cancelled"):
            one.load_ended(f"format{number}", outcome, 1, 8, 1.0)
        one.counts.errors[f"Error{min(number, meter.MAX_CODES)}"] += 1
    sums = asyncio.run(Survey(registry, Streams(registry, b"own", 1)).take(0.0))
    return Measurements(sums, one.counts, 0.0, 0, 0.01)


@pytest.fixture(scope="module")
def text() -> str:
    """Return the text of it."""
    return exposition.text(busy())[0].decode()


def test_there_are_few_series(text: str) -> None:
    """Less than 300, however many blocks, users and made-up names there are."""
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert 200 < len(series) < 300


def test_it_has_what_the_table_has(text: str) -> None:
    """Each metric with its kind, help and labels, and those of the process; nothing else."""
    found = text_string_to_metric_families(text)
    families = {family.name: family for family in found}
    ours = {name for name in families if not name.startswith("process_")}
    assert ours == {name.removesuffix("_total") for name in METRICS}
    assert "process_resident_memory_bytes" in families
    for name, metric in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert family.type == metric.kind.replace("info", "gauge")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == set(metric.labels), name


def test_labels_name_nobody() -> None:
    """No metric has a user, a path or a process as a label."""
    labels = {label for metric in METRICS.values() for label in metric.labels}
    told = {"version", "protocol", "state", "verb", "outcome", "result", "format", "reason", "code"}
    assert labels == told


def test_open_metrics_is_given_to_who_asks() -> None:
    """By the Accept header of Prometheus; a strict parser has nothing to say."""
    text, kind = exposition.text(busy(), "application/openmetrics-text;version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    found = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    assert list(found)


def test_promtool_has_nothing_to_say(text: str) -> None:
    """``promtool check metrics`` on the text, where there is one."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Readable for others, with nothing beside it; removed at the end."""
    file = Textfile(tmp_path)
    for text in (b"one\n", b"two\n"):
        file.write(text)
        assert [path.name for path in tmp_path.iterdir()] == ["arrayd.prom"]
        assert file.path.read_bytes() == text
        assert file.path.stat().st_mode & 0o777 == 0o644
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The error is the system's; no draft is left."""
    (tmp_path / "arrayd.prom").mkdir()
    with pytest.raises(OSError, match=r"arrayd\.prom"):
        Textfile(tmp_path).write(b"x\n")
    assert [path.name for path in tmp_path.iterdir()] == ["arrayd.prom"]
    with pytest.raises(FileNotFoundError):
        Textfile(tmp_path / "none").write(b"x\n")
