"""The balancers in Kubernetes: HAProxy takes their files, and they have places and memory for what they balance."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from .kubernetes_overlays import Manifest, container, named

TLS_CONNECTION_BYTES = 64 << 10


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("name", ["front", "inference-balancer"])
def test_haproxy_accepts_its_configuration(
    haproxy: str, repository: Path, certificates: Path, tmp_path: Path, name: str, tls: bool
) -> None:
    text = (repository / f"deploy/kubernetes/base/haproxy/{name}.cfg").read_text()
    config = tmp_path / "haproxy.cfg"
    for folder in ("/etc/lipsync-tls", "/etc/lipsync-callers-tls"):
        text = text.replace(folder, str(certificates))
    config.write_text(text)
    environ = {**os.environ, "POD_NAMESPACE": "lipsync", "CLUSTER_DOMAIN": "cluster.local"} | (
        {"LIPSYNC_TLS": "1"} if tls else {}
    )
    done = subprocess.run([haproxy, "-c", "-f", config], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    assert "WARNING" not in done.stderr


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt and tls-combined.pem, as cert-manager would mount them."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    subprocess.run([*command, "-keyout", folder / "tls.key", "-out", folder / "ca.crt"], check=True, capture_output=True)
    (folder / "tls-combined.pem").write_bytes((folder / "ca.crt").read_bytes() + (folder / "tls.key").read_bytes())
    return folder


@pytest.mark.parametrize("workload", ["gateway", "compositing"])
def test_the_front_has_places_for_all_pods_that_there_may_be(
    rendered: dict[str, list[Manifest]], repository: Path, workload: str
) -> None:
    most = named(rendered["gpu"], "HorizontalPodAutoscaler", workload)["spec"]["maxReplicas"]
    deployment = named(rendered["gpu"], "Deployment", workload)
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "25%"}
    front = (repository / "deploy/kubernetes/base/haproxy/front.cfg").read_text()
    places = re.findall(rf'server-template \w+ (\d+) "{workload}\.', front)
    assert {int(number) for number in places} == {most * 5 // 4}


@pytest.mark.parametrize("name", ["front", "inference-balancer"])
def test_the_balancers_memory_holds_all_connections_that_they_take(
    rendered: dict[str, list[Manifest]], repository: Path, name: str
) -> None:
    text = (repository / f"deploy/kubernetes/base/haproxy/{name}.cfg").read_text()
    number = {key: int(value) for key, value in re.findall(r"^    (fd-hard-limit|tune\.\S+) (\d+)$", text, re.MULTILINE)}
    each = TLS_CONNECTION_BYTES + number["tune.bufsize"]
    limit = container(rendered["gpu"], name)["resources"]["limits"]["memory"]
    assert number["fd-hard-limit"] // 2 * each < int(limit.removesuffix("Gi")) << 30
