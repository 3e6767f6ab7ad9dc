"""The dashboard and the alerts of deploy/: what they ask for is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arrayd_server.metrics.sums import STATES
from arrayd_server.metrics.table import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "arrayd.rules.yml"
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "arrayd.json").read_text())
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]

GIVEN = {"job", "instance", "le"}
"""Labels that Prometheus gives itself."""


def targets() -> Iterator[dict[str, str]]:
    """Yield what each line of the dashboard is drawn of."""
    for panel in BOARD["panels"]:
        yield from panel["targets"]


EXPRESSIONS = [*(one["expr"] for one in targets()), *(rule["expr"] for rule in ALERTS)]


def unknown(expression: str) -> list[str]:
    """Return which metrics and labels of an expression nobody exports."""
    names = set(re.findall(r"\barrayd_\w+", expression))
    histogram = {name: re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    kinds = {name: METRICS.get(name) or METRICS.get(histogram[name]) for name in names}
    missing = [name for name, metric in kinds.items() if metric is None]
    known = {label for metric in kinds.values() if metric for label in metric.labels} | GIVEN
    used = set(re.findall(r"(\w+)=~?\"", expression))
    for words in re.findall(r"(?:by|without) \(([^)]*)\)", expression):
        used |= set(words.replace(" ", "").split(","))
    return missing + sorted(used - known)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_exported(expression: str) -> None:
    """Each metric of the dashboard and of the alerts is in the table, with these labels."""
    assert unknown(expression) == []
    for states in re.findall(r"state=~\"([^\"]*)\"", expression):
        assert set(states.split("|")) <= set(STATES)


def test_what_is_not_exported_is_found() -> None:
    """The check above can fail."""
    assert unknown('rate(arrayd_none_total{who="x"}[1m])') == ["arrayd_none_total", "who"]
    assert unknown("sum by (user) (arrayd_block_bytes)") == ["user"]


def test_the_dashboard_is_complete() -> None:
    """Panels have numbers of their own, a unit, a word on what they show, and do not overlap."""
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
    for one in targets():
        shown = set(re.findall(r"{{(\w+)}}", one["legendFormat"]))
        assert all(label in one["expr"] for label in shown)


def test_each_alert_says_what_to_do() -> None:
    """A summary, which names the machine, and a remedy."""
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "remedy"}
        assert "$labels.instance" in rule["annotations"]["summary"]


def test_promtool_accepts_the_alerts() -> None:
    """``promtool check rules``, where there is one."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout
