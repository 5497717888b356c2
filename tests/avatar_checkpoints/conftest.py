"""Files of the form that PyTorch writes, made with and without it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import pytest

WriteArchive = Callable[..., Path]


@pytest.fixture
def write_archive(tmp_path: Path) -> WriteArchive:
    """write_archive(name, content, ...) -> a zip archive laid out as PyTorch's, whose pickle holds the content."""

    def write(
        name: str, content: Any, *, compression: int = zipfile.ZIP_STORED, members: Iterable[tuple[str, bytes]] = ()
    ) -> Path:
        path = tmp_path / name
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, body in [("archive/data.pkl", data), *members]:
                archive.writestr(member, body)
        return path

    return write
