"""The services that the documents' examples call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .place import Place, serving


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("checkout")) as found:
        yield found
