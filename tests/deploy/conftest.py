"""Programs that check deployment files. Where one is missing its tests are skipped; with REQUIRE_TOOLS set they fail."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


def program(name: str, package: str) -> str:
    """The path of a program; skips the test, or fails it, when Debian's `package` is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        sentence = f"{name} is not installed (Debian's {package})"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path


@pytest.fixture(scope="session")
def kubectl() -> str:
    return program("kubectl", "kubernetes-client")


@pytest.fixture(scope="session")
def haproxy() -> str:
    return program("haproxy", "haproxy")


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool", "prometheus")
