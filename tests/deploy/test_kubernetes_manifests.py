"""The Kubernetes manifests, rendered by kubectl: valid by Kubernetes' own schemas, and true to the services that they run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from compositing_service.settings import CompositingSettings
from gateway_service.settings import GatewaySettings
from inference_service.settings import InferenceSettings
from service_kit.life import CLOSE_SECONDS
from service_kit.listening import METRICS_PORT_OFFSET
from service_kit.settings import load_settings

OVERLAYS = ("cpu", "gpu", "tls", "monitoring", "shared-limits")
HARDWARE = ("cpu", "gpu")
VERSIONS = ("1.28", "1.32", "1.36")
NOT_KUBERNETES_OWN = {"cert-manager.io", "monitoring.coreos.com"}

# As long as CoreDNS keeps an answer by default.
DNS_CACHE_S = 30
TLS_CONNECTION_BYTES = 64 << 10

Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def rendered(kubectl: str, repository: Path) -> dict[str, list[Manifest]]:
    overlays = repository / "deploy/kubernetes/overlays"
    assert sorted(path.name for path in overlays.iterdir()) == sorted(OVERLAYS)
    return {name: render(kubectl, overlays / name) for name in OVERLAYS}


def render(kubectl: str, folder: Path) -> list[Manifest]:
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name)


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every workload's name and its pods' template."""
    for workload in of_kind(manifests, "Deployment", "StatefulSet", "Job"):
        yield workload["metadata"]["name"], workload["spec"]["template"]


def container(manifests: list[Manifest], workload: str) -> Manifest:
    return next(template for name, template in pods(manifests) if name == workload)["spec"]["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_fits_the_schemas(rendered: dict[str, list[Manifest]], overlay: str, version: str) -> None:
    assert rendered[overlay]
    for manifest in rendered[overlay]:
        if manifest["apiVersion"].partition("/")[0] in NOT_KUBERNETES_OWN:
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", HARDWARE)
def test_what_pods_refer_to_is_there(rendered: dict[str, list[Manifest]], repository: Path, overlay: str) -> None:
    manifests = rendered[overlay] + rendered["tls"] + rendered["shared-limits"]
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    there |= {("Secret", manifest["spec"]["secretName"]) for manifest in of_kind(manifests, "Certificate")}
    there |= {("Secret", name) for name in secrets_in_readme(repository)}
    for name, template in pods(manifests):
        for volume in template["spec"]["volumes"]:
            for field, kind, key in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if field in volume:
                    assert (kind, volume[field][key]) in there, f"{name}: {volume}"
        for source in template["spec"]["containers"][0].get("envFrom", ()):
            assert ("ConfigMap", source["configMapRef"]["name"]) in there
    for manifest in of_kind(manifests, "StatefulSet"):
        assert ("Service", manifest["spec"]["serviceName"]) in there


@pytest.mark.parametrize("overlay", HARDWARE)
def test_services_budgets_and_policies_select_pods_and_their_ports(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    manifests = rendered[overlay]
    labels = {name: template["metadata"]["labels"] for name, template in pods(manifests)}
    ports = {name: container(manifests, name).get("ports", ()) for name in labels}
    for service in of_kind(manifests, "Service"):
        (chosen,) = [name for name in labels if fits(service["spec"]["selector"], labels[name])]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in {known["name"] for known in ports[chosen]}
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert [name for name in labels if fits(budget["spec"]["selector"]["matchLabels"], labels[name])]
    for workload in of_kind(manifests, "Deployment", "StatefulSet"):
        assert fits(workload["spec"]["selector"]["matchLabels"], labels[workload["metadata"]["name"]])


@pytest.mark.parametrize("overlay", [*HARDWARE, "shared-limits"])
def test_pods_have_no_rights(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    for name, template in pods(rendered[overlay]):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        # Else a Service called lipsync-anything would put LIPSYNC_… into the environment, which services take for settings.
        assert spec["enableServiceLinks"] is False
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            models = [mount for mount in one["volumeMounts"] if mount["name"] == "models"]
            assert all(mount.get("readOnly") for mount in models) or name == "first-avatar"


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


def secrets_in_readme(repository: Path) -> dict[str, set[str]]:
    """The files of each secret that the README makes by hand."""
    text = (repository / "deploy/kubernetes/README.md").read_text()
    return {
        name: {Path(file).name for file in re.findall(r"--from-file=(\S+)", files)}
        for name, files in re.findall(r"^kubectl -n lipsync create secret generic (\S+) (.*)$", text, re.MULTILINE)
    }


def test_inference_has_a_gpu_or_none(rendered: dict[str, list[Manifest]]) -> None:
    gpu, cpu = (container(rendered[overlay], "inference") for overlay in ("gpu", "cpu"))
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == gpu["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert gpu["image"].startswith("lipsync-inference-gpu:")
    assert {"name": "LIPSYNC_GPUS__ENABLED", "value": "true"} in gpu["env"]
    assert "nvidia.com/gpu" not in str(cpu)
    assert cpu["image"].startswith("lipsync-inference-cpu:")


@pytest.mark.parametrize(
    ("workload", "metrics"),
    [
        ("gateway", ["cpu", "lipsync_gateway_sessions"]),
        ("compositing", ["cpu", "lipsync_running_calls", "lipsync_sessions"]),
        ("inference", ["cpu", "lipsync_inference_load"]),
    ],
)
def test_autoscalers_go_by_processor_time_and_by_what_pods_have_to_do(
    rendered: dict[str, list[Manifest]], workload: str, metrics: list[str]
) -> None:
    autoscaler = named(rendered["gpu"], "HorizontalPodAutoscaler", workload)["spec"]
    target = autoscaler["scaleTargetRef"]
    assert "replicas" not in named(rendered["gpu"], target["kind"], target["name"])["spec"]
    assert container(rendered["gpu"], target["name"])["resources"]["requests"]["cpu"]
    cpu, *own = autoscaler["metrics"]
    assert [cpu["resource"]["name"], *(metric["pods"]["metric"]["name"] for metric in own)] == metrics
    given = {rule["name"].get("as", rule["name"]["matches"].strip("^$")) for rule in adapter_rules(rendered)}
    assert given >= set(metrics[1:])


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


def adapter_rules(rendered: dict[str, list[Manifest]]) -> list[dict[str, Any]]:
    """The rules for prometheus-adapter."""
    (data,) = [
        manifest["data"] for manifest in of_kind(rendered["monitoring"], "ConfigMap") if "adapter" in manifest["metadata"]["name"]
    ]
    (text,) = data.values()
    rules: list[dict[str, Any]] = yaml.safe_load(text)
    return rules


def adapter_query(rule: dict[str, Any]) -> str:
    """The query as the adapter asks it about one pod."""
    values = {"<<.Series>>": rule["seriesQuery"].partition("{")[0], "<<.LabelMatchers>>": 'pod="a"', "<<.GroupBy>>": "pod"}
    text: str = rule["metricsQuery"]
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def test_the_adapters_rules_say_what_pods_have_to_do(rendered: dict[str, list[Manifest]], promtool: str, tmp_path: Path) -> None:
    """Asked by Prometheus' own tool: 18 sessions where 900 frames a second can be made are half of what new ones may take."""
    queries = {
        rule["name"].get("as", rule["name"]["matches"].strip("^$")): adapter_query(rule) for rule in adapter_rules(rendered)
    }
    series = {
        "lipsync_running_calls": 30, "lipsync_sessions": 20, "lipsync_gateway_sessions": 7, "lipsync_inference_sessions": 18,
        "lipsync_inference_capacity_frames_per_second": 1000, "lipsync_inference_processor_load": 0.18,
    }  # fmt: skip
    wanted = {"lipsync_running_calls": 10, "lipsync_sessions": 20, "lipsync_gateway_sessions": 7, "lipsync_inference_load": 0.5}
    unmeasured = series | {"lipsync_inference_capacity_frames_per_second": 0, "lipsync_inference_processor_load": 0}
    busy = series | {"lipsync_inference_processor_load": 0.9}
    cases = [
        (series, wanted),
        (unmeasured, wanted | {"lipsync_inference_load": 0}),
        (busy, wanted | {"lipsync_inference_load": 1}),
    ]
    tests = [
        {
            "interval": "10s",
            "input_series": [{"series": f'{name}{{pod="a"}}', "values": f"{value}x12"} for name, value in given.items()],
            "promql_expr_test": [
                {"expr": queries[name], "eval_time": "2m", "exp_samples": [{"labels": '{pod="a"}', "value": value}]}
                for name, value in results.items()
            ],
        }
        for given, results in cases
    ]
    assert queries.keys() == wanted.keys()
    file = tmp_path / "adapter.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", HARDWARE)
def test_old_pods_stay_until_new_ones_are_known(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    looked_up = {
        service["metadata"]["name"] for service in of_kind(rendered[overlay], "Service") if "clusterIP" in service["spec"]
    }
    assert looked_up == {"inference", "inference-balancer", "compositing", "gateway"}
    for workload in of_kind(rendered[overlay], "Deployment", "StatefulSet"):
        if workload["metadata"]["name"] in looked_up:
            assert workload["spec"]["minReadySeconds"] > DNS_CACHE_S


def test_the_job_does_not_stand_in_the_way_of_the_next_version(rendered: dict[str, list[Manifest]]) -> None:
    (job,) = of_kind(rendered["gpu"], "Job")
    assert job["spec"]["activeDeadlineSeconds"] + job["spec"]["ttlSecondsAfterFinished"] < 1000


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


@pytest.mark.parametrize("name", ["front", "inference-balancer"])
def test_the_balancers_memory_holds_all_connections_that_they_take(
    rendered: dict[str, list[Manifest]], repository: Path, name: str
) -> None:
    text = (repository / f"deploy/kubernetes/base/haproxy/{name}.cfg").read_text()
    number = {key: int(value) for key, value in re.findall(r"^    (fd-hard-limit|tune\.\S+) (\d+)$", text, re.MULTILINE)}
    each = TLS_CONNECTION_BYTES + number["tune.bufsize"]
    limit = container(rendered["gpu"], name)["resources"]["limits"]["memory"]
    assert number["fd-hard-limit"] // 2 * each < int(limit.removesuffix("Gi")) << 30


def test_the_manuals_own_files_fit(kubectl: str, repository: Path, tmp_path: Path) -> None:
    manual = (repository / "deploy/kubernetes/README.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    shutil.copytree(repository / "deploy", tmp_path / "deploy")
    folder = tmp_path / "deploy/kubernetes/overlays/mine"
    folder.mkdir()
    for block in blocks:
        name = re.match(r"# (\S+)\n", block)
        (folder / (name[1] if name else "kustomization.yaml")).write_text(block)
    manifests = render(kubectl, folder)
    pod = yaml.safe_load((folder / "avatars.yaml").read_text())
    for manifest in [*manifests, pod]:
        if manifest["apiVersion"].partition("/")[0] not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    images = [one["image"] for _, template in pods(manifests) for one in template["spec"]["containers"]]
    assert all(image.startswith(("registry.example/", "haproxy:")) for image in images)
    assert pod["spec"]["containers"][0]["image"] in images
    assert named(manifests, "Service", "front")["spec"]["type"] == "LoadBalancer"
    assert named(manifests, "PersistentVolumeClaim", "models")["spec"]["storageClassName"] == "nfs"
    assert named(manifests, "Certificate", "callers")["spec"]["dnsNames"] == ["lipsync.example"]
    assert of_kind(manifests, "ServiceMonitor")
    kustomization = folder / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("  - mine.yaml\n", "  - mine.yaml\n  - open.yaml\n"))
    of_keys = [each for each in of_kind(render(kubectl, folder), "ConfigMap") if each["metadata"]["name"].startswith("keys-of-")]
    assert [each.get("data") or {} for each in of_keys] == [{}] * 3


@pytest.mark.parametrize("overlay", HARDWARE)
def test_only_compositing_reaches_inference(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    workloads = ("front", "gateway", "compositing", "inference", "inference-balancer", "first-avatar")

    def reach(port: str) -> set[tuple[str, str]]:
        return {
            (source, target)
            for source in (*workloads, "somebody")
            for target in workloads
            if source != target and allowed(rendered[overlay], source, target, port)
        }

    assert reach("browsers") == {("somebody", "front"), ("front", "gateway")}
    assert reach("grpc") == {
        ("somebody", "front"),
        ("gateway", "front"),
        ("front", "compositing"),
        ("compositing", "inference-balancer"),
        ("compositing", "inference"),
        ("inference-balancer", "inference"),
    }


def allowed(manifests: list[Manifest], source: str, target: str, port: str) -> bool:
    """True if the policies let pods of `source` connect to that port of pods of `target`. `somebody` is outside the cluster."""
    specs = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    labels = {name: template["metadata"]["labels"] for name, template in pods(manifests)}
    numbers = {known["name"]: known["containerPort"] for known in container(manifests, target).get("ports", ())}

    def admits(rule: Manifest, side: str, other: str) -> bool:
        if not any(entry["port"] in {port, numbers.get(port)} for entry in rule["ports"]):
            return False
        peers = [peer["podSelector"] for peer in rule.get(side, ()) if "podSelector" in peer]
        return side not in rule or (other in labels and any(selects(peer, labels[other]) for peer in peers))

    def opens(kind: str, side: str, of: str, other: str) -> bool:
        rules = [
            rule
            for spec in specs
            if kind in spec["policyTypes"] and selects(spec["podSelector"], labels[of])
            for rule in spec.get(kind.lower()) or ()
        ]
        return any(admits(rule, side, other) for rule in rules)

    leaves = source not in labels or opens("Egress", "to", source, target)
    return leaves and opens("Ingress", "from", target, source)


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return fits(selector.get("matchLabels", {}), labels) and all(
        labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", ())
    )


def fits(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


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
