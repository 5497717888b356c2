"""The wrapped graph against the frame path written out in numpy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Mask
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput, EngineOutput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

from .conftest import MIX, MakeAvatar, foreign_model, network

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
OPTIONS = OnnxSection(intra_op_threads=1)
NO_FRAMES = np.empty(0, np.int64)


def reference(pictures: NDArray[np.float32], windows: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float64]:
    """What the small network gives, in float64."""
    mixed = np.einsum("oi,nihw->nohw", MIX[:, :, 0, 0].astype(np.float64), pictures.astype(np.float64))
    mean = windows.reshape(len(windows), -1).astype(np.float64).mean(axis=1)
    return 1 / (1 + np.exp(-(mixed + scale * mean[:, None, None, None])))


def network_pictures(avatar: Avatar, frame: int, mask: tuple[int, int, int, int] = (5, 5, 310, 305)) -> NDArray[np.float32]:
    """[6, 320, 320] as the research script makes them."""
    rect = avatar.rects[frame]
    crop = cv2.resize(
        cv2.imread(str(avatar.frame_paths[frame]))[rect.y1 : rect.y2, rect.x1 : rect.x2],
        (328, 328),
        interpolation=cv2.INTER_CUBIC,
    )
    inner = crop[4:324, 4:324].copy()
    masked = cv2.rectangle(inner.copy(), mask, (0, 0, 0), -1)
    planes = [image.transpose(2, 0, 1).astype(np.float32) / 255.0 for image in (inner, masked)]
    return np.concatenate(planes)


def batch(windows: NDArray[np.float32], frames: list[int], pictures: NDArray[np.float32] = NO_PICTURES) -> EngineInput:
    return EngineInput(windows, np.array(frames, np.int64), pictures, want_float=True, want_uint8=True)


def windows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 4, (count, 16, 512)).astype(np.float32)


@pytest.mark.parametrize("fixed", ["batch", 1, 2], ids=["any batch", "batch of one", "batch of two"])
def test_frames_are_those_of_the_straightforward_path(make_avatar: MakeAvatar, fixed: int | str) -> None:
    avatar = make_avatar(model=network(batch=fixed, scale=-0.5))
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    sound, frames = windows(3), [4, 0, 2]
    engine.bank.ensure(frames)
    output = engine.run(batch(sound, frames))
    expected = reference(np.stack([network_pictures(avatar, frame) for frame in frames]), sound, scale=-0.5)
    assert output.mouths_float is not None
    assert output.mouths_uint8 is not None
    np.testing.assert_allclose(output.mouths_float, expected, atol=2e-6)
    truncated = np.clip(output.mouths_float * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output.mouths_uint8, truncated)
    assert output.finite.all()


def test_the_mask_is_the_avatars_own(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar(mask=Mask(5, 5, 310, 315))
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    engine.bank.ensure([1])
    output = engine.run(batch(windows(1), [1]))
    expected = reference(network_pictures(avatar, 1, (5, 5, 310, 315))[None], windows(1))
    assert output.mouths_float is not None
    np.testing.assert_allclose(output.mouths_float, expected, atol=2e-6)


def test_sent_pictures_and_own_frames_run_together(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar()
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    engine.bank.ensure([3])
    sent = np.random.default_rng(1).uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    sound = windows(3)
    output = engine.run(batch(sound, [3], sent))
    expected = reference(np.concatenate([network_pictures(avatar, 3)[None], sent]), sound)
    assert output.mouths_float is not None
    np.testing.assert_allclose(output.mouths_float, expected, atol=2e-6)
    alone = engine.run(batch(sound[1:], [], sent))
    assert alone.mouths_float is not None
    np.testing.assert_array_equal(alone.mouths_float, output.mouths_float[1:])


def test_a_batch_gives_the_bytes_of_single_frames(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar()
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    engine.bank.fill()
    sound, frames = windows(5), [0, 1, 2, 3, 4]
    together = engine.run(batch(sound, frames)).mouths_float
    assert together is not None
    for place, frame in enumerate(frames):
        single = engine.run(batch(sound[place : place + 1], [frame])).mouths_float
        assert single is not None
        np.testing.assert_array_equal(single[0], together[place])


def test_a_frame_that_is_not_finite_is_told_from_the_others(make_avatar: MakeAvatar) -> None:
    engine = OnnxEngine(make_avatar(), CPU, OPTIONS)
    engine.bank.ensure([0, 1])
    sound = windows(2)
    sound[1, 3, 3] = np.inf
    sound[1, 3, 4] = -np.inf
    assert engine.run(batch(sound, [0, 1])).finite.tolist() == [True, False]


def test_crops_are_made_only_when_asked_for(make_avatar: MakeAvatar) -> None:
    bank = OnnxEngine(make_avatar(), CPU, OPTIONS).bank
    assert bank.missing([3, 1, 3]) == [3, 1]
    bank.ensure([3])
    assert bank.missing([3, 1]) == [1]
    assert bank.memory_bytes == 3 * 320 * 320


def broken_weights() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].dims[1] = 5  # the convolution no longer fits its input
    return model


@pytest.mark.parametrize(
    "model",
    [network().SerializeToString()[:-100], b"no network", b"", foreign_model(), broken_weights()],
    ids=["truncated", "text", "empty", "foreign", "inconsistent"],
)
def test_a_network_that_cannot_be_served_is_a_broken_avatar(make_avatar: MakeAvatar, model: onnx.ModelProto | bytes) -> None:
    with pytest.raises(BrokenAvatar) as raised:
        OnnxEngine(make_avatar(model=model), CPU, OPTIONS)
    assert "/" not in str(raised.value)


@pytest.mark.parametrize(("fixed", "sizes"), [("batch", [1, 7]), (1, [1]), (3, [1])])
def test_warming_up_runs_each_size_that_the_network_sees(
    make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch, fixed: int | str, sizes: list[int]
) -> None:
    engine = OnnxEngine(make_avatar(model=network(batch=fixed)), CPU, OPTIONS, max_batch=7)
    seen: list[int] = []

    def run(given: EngineInput) -> EngineOutput:
        seen.append(len(given.windows))
        return OnnxEngine.run(engine, given)

    monkeypatch.setattr(engine, "run", run)
    engine.warm_up()
    assert seen == sizes
