"""The Kubernetes manifests, rendered by kubectl: valid by Kubernetes' own schemas and complete, and pods that have no rights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from .kubernetes_overlays import HARDWARE, OVERLAYS, Manifest, container, fits, named, of_kind, pods, render, secrets_in_readme

VERSIONS = ("1.28", "1.32", "1.36")
NOT_KUBERNETES_OWN = {"cert-manager.io", "monitoring.coreos.com"}


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


def test_inference_has_a_gpu_or_none(rendered: dict[str, list[Manifest]]) -> None:
    gpu, cpu = (container(rendered[overlay], "inference") for overlay in ("gpu", "cpu"))
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == gpu["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert gpu["image"].startswith("lipsync-inference-gpu:")
    assert {"name": "LIPSYNC_GPUS__ENABLED", "value": "true"} in gpu["env"]
    assert "nvidia.com/gpu" not in str(cpu)
    assert cpu["image"].startswith("lipsync-inference-cpu:")


def test_the_job_does_not_stand_in_the_way_of_the_next_version(rendered: dict[str, list[Manifest]]) -> None:
    (job,) = of_kind(rendered["gpu"], "Job")
    assert job["spec"]["activeDeadlineSeconds"] + job["spec"]["ttlSecondsAfterFinished"] < 1000


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
