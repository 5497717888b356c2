"""The Kubernetes manifests as kubectl renders them, and where things are in them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

OVERLAYS = ("cpu", "gpu", "tls", "monitoring", "shared-limits")
HARDWARE = ("cpu", "gpu")

Manifest = dict[str, Any]


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


def fits(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


def secrets_in_readme(repository: Path) -> dict[str, set[str]]:
    """The files of each secret that the README makes by hand."""
    text = (repository / "deploy/kubernetes/README.md").read_text()
    return {
        name: {Path(file).name for file in re.findall(r"--from-file=(\S+)", files)}
        for name, files in re.findall(r"^kubectl -n lipsync create secret generic (\S+) (.*)$", text, re.MULTILINE)
    }
