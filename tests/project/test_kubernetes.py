"""The manifests for Kubernetes: what they must have for pods of a node to share arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from arrayd.system.launch import SYSTEM_ENDPOINT
from arrayd_server import config

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"

SHARED = {"/dev/shm": "/dev/shm", "/run/arrayd": "/run/arrayd", "/data": "/data"}
"""What daemon and pods have at the same place as the node: blocks, socket, files."""


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a manifest by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / name).read_text())}


@pytest.fixture
def daemon() -> dict[str, Any]:
    """Return the specification of the daemon's pods."""
    spec: dict[str, Any] = objects("daemonset.yaml")["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def mounted(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, str]:
    """Return which folder of the node a container has at each of its places."""
    volumes = {one["name"]: one.get("hostPath", {}).get("path") for one in pod["volumes"]}
    places = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
    return {place: path for place, path in places.items() if path is not None}


def test_daemon_and_programs_have_the_same_places(daemon: dict[str, Any]) -> None:
    """Of the node, and each at the same path; the daemon writes /dev/shm and its socket."""
    pod = objects("pod.yaml")["Pod"]["spec"]
    assert mounted(daemon, daemon["containers"][0]) == SHARED
    assert mounted(pod, pod["containers"][0]) == SHARED
    writes = {
        one["mountPath"]
        for one in daemon["containers"][0]["volumeMounts"]
        if not one.get("readOnly")
    }
    assert writes == {"/dev/shm", "/run/arrayd"}


def test_the_daemon_sees_its_clients(daemon: dict[str, Any]) -> None:
    """It has the node's PID namespace, a user of its own, no right beyond, and a limit to heed."""
    (container,) = daemon["containers"]
    assert daemon["hostPID"] is True
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    (prepares,) = daemon["initContainers"]
    assert f"-o {context['runAsUser']} -g {context['runAsGroup']}" in " ".join(prepares["command"])
    memory = {container["resources"][what]["memory"] for what in ("limits", "requests")}
    assert len(memory) == 1
    assert f"USER {context['runAsUser']}:" in (FOLDER / "Dockerfile").read_text()


def test_all_name_the_same_socket(daemon: dict[str, Any]) -> None:
    """The options, the probes and the program of the example."""
    (container,) = daemon["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"][-1] == SYSTEM_ENDPOINT
    (program,) = objects("pod.yaml")["Pod"]["spec"]["containers"]
    assert program["env"] == [{"name": "ARRAYD_ENDPOINT", "value": SYSTEM_ENDPOINT}]


def test_the_options_are_valid(daemon: dict[str, Any], tmp_path: Path) -> None:
    """As ``arrayd config check`` finds; the file is where the daemon is told to look."""
    options = objects("daemonset.yaml")["ConfigMap"]
    (name,) = options["data"]
    file = tmp_path / name
    file.write_text(options["data"][name])
    assert config.problems(file) == []
    assert config.Config.load(["--config", str(file)]).endpoint == SYSTEM_ENDPOINT
    volume = next(one for one in daemon["volumes"] if one["name"] == "options")
    assert volume["configMap"]["name"] == options["metadata"]["name"]
    assert daemon["containers"][0]["args"] == ["serve", "--config", f"/etc/arrayd/{name}"]


def test_a_replaced_pod_hands_over(daemon: dict[str, Any]) -> None:
    """It ends by the signal that keeps the blocks, and never runs beside the next one."""
    assert "\nSTOPSIGNAL SIGUSR1\n" in (FOLDER / "Dockerfile").read_text()
    spec = objects("daemonset.yaml")["DaemonSet"]["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
