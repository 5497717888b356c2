"""Programs that check deployment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import program

from .kubernetes_overlays import OVERLAYS, Manifest, render

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def kubectl() -> str:
    return program("kubectl", "kubernetes-client")


@pytest.fixture(scope="session")
def haproxy() -> str:
    return program("haproxy", "haproxy")


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool", "prometheus")


@pytest.fixture(scope="session")
def rendered(kubectl: str, repository: Path) -> dict[str, list[Manifest]]:
    overlays = repository / "deploy/kubernetes/overlays"
    assert sorted(path.name for path in overlays.iterdir()) == sorted(OVERLAYS)
    return {name: render(kubectl, overlays / name) for name in OVERLAYS}
