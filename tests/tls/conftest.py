"""Two authorities that know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .authority import Authority, Pair


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that both sides trust."""
    return Authority.make(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that nobody trusts, with the same names."""
    return Authority.make(tmp_path_factory.mktemp("tls") / "strange")


@pytest.fixture
def issue(authority: Authority, tmp_path: Path) -> Callable[..., Pair]:
    """`issue(end=-DAY)`: a certificate of `authority`, see Authority.issue."""
    made = iter(range(1000))
    return lambda **wanted: authority.issue(tmp_path / f"issued-{next(made)}", **wanted)
