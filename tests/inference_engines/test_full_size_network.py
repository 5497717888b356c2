"""The family's network at its full size, whose many layers may round differently in runs of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.models.model import ModelLoader
from inference_service.settings import GpuSection, OnnxSection

from ..inference_service.conftest import MakeAvatar
from .conftest import Kind, run, windows

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


@pytest.mark.gpu
@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
def test_captured_graphs_of_two_streams_give_the_mouths_of_plain_runs(make_avatar: MakeAvatar, *, float16: bool) -> None:
    """Two avatars run in turn; their weights go to the same place, and their crops are in one arena."""
    device = find_devices(GpuSection(enabled=True), OnnxSection())[0]
    options = OnnxSection(cuda_graphs=True, cuda_streams_per_worker=2)
    shared, arena = SharedSessions(options), CropArena(device, 64 * CROP_BYTES)
    avatars = [make_avatar(f"a{seed}", model=UNET.graph(random_weights(UNET, seed))) for seed in range(2)]
    plain = [OnnxEngine(avatar, device, OnnxSection(), float16=float16) for avatar in avatars]
    captured = [OnnxEngine(avatar, device, options, shared=shared, arena=arena, float16=float16) for avatar in avatars]
    for engine in [*plain, *captured]:
        engine.warm_up()
        engine.bank.fill()
    for turn, place in enumerate([0, 1, 1, 0, 0, 1]):
        frames, sound = [(turn + step) % 5 for step in range(FRAMES)], windows(FRAMES, turn)
        expected, _ = run(plain[place], frames, sound)
        np.testing.assert_allclose(run(captured[place], frames, sound)[0], expected, atol=1e-3)
