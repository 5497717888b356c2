"""Programs that check deployment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import program

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
