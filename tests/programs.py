"""Programs of the distribution that judge what is not Python. Where one is missing its tests are skipped; with REQUIRE_TOOLS set
they fail."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """The path of a program; skips the test, or fails it, when Debian's `package` is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed (Debian's {package})")
    return path


def missing(sentence: str) -> NoReturn:
    """Skips the test, or fails it where all programs must be there."""
    if os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(sentence)
    pytest.skip(sentence)
