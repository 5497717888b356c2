"""The family's network at its full size, whose many layers may round differently in runs of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_tools.benchmark_avatar import build_benchmark
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.models.model import ModelLoader
from inference_service.settings import GpuSection, OnnxSection

from .conftest import Kind, windows

FRAMES = 12
pytestmark = pytest.mark.slow


def test_a_frame_has_the_same_bytes_at_any_place_of_any_batch(tmp_path: Path, kind: Kind) -> None:
    avatar = build_benchmark(tmp_path, frame_count=8)
    engine = kind.open(avatar)
    engine.bank.fill()
    sound, frames = windows(FRAMES), np.arange(FRAMES, dtype=np.int64) % avatar.frame_count

    def mouths(order: list[int]) -> list[bytes]:
        output = engine.run(EngineInput(sound[order], frames[order], NO_PICTURES, want_float=False, want_uint8=True))
        assert output.mouths_uint8 is not None
        return [mouth.tobytes() for mouth in output.mouths_uint8]

    places = list(range(FRAMES))
    together = mouths(places)
    assert mouths(places[::-1]) == together[::-1]
    for size in (1, 3, 8):
        assert [mouth for start in range(0, FRAMES, size) for mouth in mouths(places[start : start + size])] == together


@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=pytest.mark.gpu)], ids=["CPU", "GPU"])
def test_a_row_is_the_same_in_any_number_of_rows(tmp_path: Path, gpu: bool) -> None:
    avatar = build_benchmark(tmp_path, frame_count=1)
    device = find_devices(GpuSection(enabled=gpu), OnnxSection())[0]
    features = ModelLoader(OnnxSection()).features(AvatarCatalog(tmp_path).audio_encoder_path(avatar), device)
    sound = np.random.default_rng(4).normal(0, 0.1, 16000).astype(np.float32)
    together = features.rows(sound, first_row=-3, row_count=25)
    for size in (1, 4, 16):
        parts = [features.rows(sound, first_row=row, row_count=min(size, 22 - row)) for row in range(-3, 22, size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
