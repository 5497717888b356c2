"""Services in Kubernetes: each accepts its settings, answers its probes and shows a certificate that the other side wants."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compositing_service.settings import CompositingSettings
from gateway_service.settings import GatewaySettings
from inference_service.settings import InferenceSettings
from service_kit.life import CLOSE_SECONDS
from service_kit.listening import METRICS_PORT_OFFSET
from service_kit.settings import load_settings

from .kubernetes_overlays import HARDWARE, Manifest, container, named, of_kind, pods, secrets_in_readme


@pytest.mark.parametrize("overlay", HARDWARE)
@pytest.mark.parametrize("workload", ["inference", "compositing", "gateway"])
@pytest.mark.parametrize("tls", [False, True])
def test_services_accept_their_settings(
    rendered: dict[str, list[Manifest]], repository: Path, tmp_path: Path, overlay: str, workload: str, tls: bool
) -> None:
    kinds = {"inference": InferenceSettings, "compositing": CompositingSettings, "gateway": GatewaySettings}
    manifests = rendered[overlay]
    template = next(template for name, template in pods(manifests) if name == workload)
    one = template["spec"]["containers"][0]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    settings = named(manifests, "ConfigMap", volumes["settings"]["configMap"]["name"])["data"]
    mount = next(mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "settings")
    assert one["args"] == ["serve", workload, "--config", f"{mount}/{workload}.yaml"]
    config = tmp_path / "settings.yaml"
    config.write_text(settings[f"{workload}.yaml"])
    environ = {entry["name"]: entry["value"] for entry in one.get("env", ())}
    if tls:
        environ |= named(rendered["tls"], "ConfigMap", f"tls-of-{workload}")["data"]
    keys: dict[str, str] = named(manifests, "ConfigMap", f"keys-of-{workload}")["data"]
    mounts = {mount["mountPath"]: volumes[mount["name"]].get("secret") for mount in one["volumeMounts"]}
    for file in map(Path, keys.values()):
        assert file.name in secrets_in_readme(repository)[mounts[str(file.parent)]["secretName"]]
    environ |= keys
    loaded = load_settings(kinds[workload], config=config, environ=environ)
    models = [mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "models"]
    assert models == ([str(loaded.models_root)] if hasattr(loaded, "models_root") else [])
    life = loaded.server.drain_seconds + loaded.server.grace_seconds + CLOSE_SECONDS
    assert life < template["spec"]["terminationGracePeriodSeconds"]
    assert loaded.auth.is_on


def test_pods_that_share_limits_accept_their_settings(rendered: dict[str, list[Manifest]], repository: Path) -> None:
    one = container(rendered["gpu"], "compositing")
    assert {"configMapRef": {"name": "limits-of-compositing", "optional": True}} in one["envFrom"]
    environ: dict[str, str] = named(rendered["shared-limits"], "ConfigMap", "limits-of-compositing")["data"]
    store = load_settings(CompositingSettings, config=None, environ=environ).quotas.store
    assert store.url == "redis://valkey:6379/0"
    assert store.password_file == Path("/etc/lipsync-keys/own/store.password")
    made = secrets_in_readme(repository)
    assert made["store-users"] == {"users.acl"}
    assert "store.password" in made["compositing-key"]
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(rendered["shared-limits"], "NetworkPolicy")}
    [source] = policies["valkey"]["ingress"]
    assert [each["podSelector"]["matchLabels"] for each in source["from"]] == [{"app.kubernetes.io/name": "compositing"}]
    assert not policies["valkey"]["egress"]


@pytest.mark.parametrize("overlay", HARDWARE)
@pytest.mark.parametrize("workload", ["inference", "compositing", "gateway", "front", "inference-balancer"])
def test_probes_ask_what_the_service_answers(rendered: dict[str, list[Manifest]], overlay: str, workload: str) -> None:
    one = container(rendered[overlay], workload)
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    ready, live = ("/ready", "/live") if "haproxy" in one["image"] else ("/health/ready", "/health/live")
    assert one["readinessProbe"]["httpGet"] == {"path": ready, "port": "http"}
    assert one["livenessProbe"]["httpGet"] == {"path": live, "port": "http"}
    assert "startupProbe" in one
    if "haproxy" not in one["image"]:
        assert ports["http"] == ports.get("grpc", ports.get("browsers")) + METRICS_PORT_OFFSET


def test_certificates_bear_the_names_that_the_other_side_wants(rendered: dict[str, list[Manifest]]) -> None:
    certificates = {spec["secretName"]: spec for spec in (one["spec"] for one in of_kind(rendered["tls"], "Certificate"))}
    secrets = {
        name: {volume["name"]: volume["secret"]["secretName"] for volume in template["spec"]["volumes"] if "secret" in volume}
        for name, template in pods(rendered["gpu"])
    }
    settings = {
        name: named(rendered["tls"], "ConfigMap", f"tls-of-{name}")["data"] for name in ("inference", "compositing", "gateway")
    }
    for client, server in (
        ("front", "compositing"),
        ("inference-balancer", "inference"),
        ("compositing", "inference-balancer"),
        ("front", "gateway"),
        ("gateway", "gateway"),
        ("gateway", "front"),
    ):
        shown, asked = certificates[secrets[client]["tls"]], certificates[secrets[server]["tls"]]
        assert "client auth" in shown["usages"]
        assert "server auth" in asked["usages"]
        assert server in asked["dnsNames"]
        if server in settings:
            assert shown["dnsNames"] == [client]
            allowed = yaml.safe_load(settings[server]["LIPSYNC_TLS__ALLOWED_CLIENT_NAMES"])
            assert allowed == (["front", "gateway"] if server == "gateway" else [client])
    assert certificates[secrets["front"]["callers-tls"]]["usages"] == ["server auth"]
