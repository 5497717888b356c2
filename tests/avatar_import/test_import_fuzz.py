"""Files with anything in them: read, or refused in a sentence, never anything else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.errors import AvatarError
from avatar_kit.features import open_features
from avatar_kit.safe_files import FileProblem
from avatar_tools.importing.landmarks import read_array, read_points
from avatar_tools.importing.models import open_model
from avatar_tools.importing.sources import open_folder
from avatar_tools.importing.videos import open_video

from .conftest import jpeg, lms_text, network, points, write_video


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def frames_of(path: Path) -> list[object]:
    return list(open_folder(path.parent, inside=path.parent).files())


SEEDS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.lms": (lms_text(points(0, kind=float)).encode(), read_points),
    "landmarks.npy": (npy(np.stack([points(index, 68, kind=float) for index in range(3)])), read_array),
    "aud_ave.npy": (npy(np.ones((2, 512), np.float32)), open_features),
    "aud_ave.bin": (bytes(4096), open_features),
    "net.onnx": (network(1, reshape=True).SerializeToString(), lambda path: open_model(path, "network")),
    "0.jpg": (jpeg(0), frames_of),
}


@pytest.mark.parametrize("name", SEEDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_file_with_bytes_changed_cut_or_added(tmp_path: Path, name: str, data: st.DataObject) -> None:
    seed, read = SEEDS[name]
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = tmp_path / name
    path.write_bytes(content)
    with contextlib.suppress(FileProblem, AvatarError):
        read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(data=st.data())
def test_a_video_with_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.mp4"
    content = bytearray((whole if whole.exists() else write_video(whole)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.mp4"
    path.write_bytes(content)
    with contextlib.suppress(FileProblem):
        clip = open_video(path)
        assert len(list(clip.files())) == clip.count
