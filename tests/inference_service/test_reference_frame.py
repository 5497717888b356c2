"""A fixed reference frame in the engine, against the original network run plainly on inputs built here."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_tools.networks.random_weights import random_unet_weights
from avatar_tools.networks.unet import unet_graph
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import CUDA, Device, find_devices
from inference_service.engines.engine import NO_PICTURES, Engine, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

from .conftest import MakeAvatar, network

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
GPU = Device(gpu_id=0, name="a GPU that is not there", providers=((CUDA, {}),))
OPTIONS = OnnxSection(intra_op_threads=1)


def crop(avatar: Avatar, frame: int) -> NDArray[np.uint8]:
    """[320, 320, 3]: the rectangle at 328 x 328, without its margin."""
    rect = avatar.rects[frame]
    part = cv2.imread(str(avatar.frame_paths[frame]))[rect.y1 : rect.y2, rect.x1 : rect.x2]
    return cv2.resize(part, (328, 328), interpolation=cv2.INTER_CUBIC)[4:324, 4:324]


def network_input(avatar: Avatar, frame: int, reference: int) -> NDArray[np.float32]:
    """[6, 320, 320]: the reference's crop as it is, the frame's with the family's rectangle filled black."""
    masked = cv2.rectangle(crop(avatar, frame).copy(), (5, 5, 310, 305), (0, 0, 0), -1)
    return np.concatenate([image.transpose(2, 0, 1).astype(np.float32) / 255 for image in (crop(avatar, reference), masked)])


def plainly(avatar: Avatar, visual: NDArray[np.float32], sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The avatar's own file in ONNX Runtime, frame by frame."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(avatar.network_path), options, providers=["CPUExecutionProvider"])
    names = {value.shape[1]: value.name for value in session.get_inputs()}
    batch = session.get_inputs()[0].shape[0]
    times = batch if isinstance(batch, int) else 1
    feeds = [
        {names[6]: np.repeat(picture[None], times, 0), names[32]: np.repeat(window.reshape(1, 32, 16, 16), times, 0)}
        for picture, window in zip(visual, sound, strict=True)
    ]
    return np.stack([session.run(None, feed)[0][0] for feed in feeds])


def windows(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).uniform(0, 4, (count, 16, 512)).astype(np.float32)


def served(engine: Engine, frames: list[int], sound: NDArray[np.float32], sent: NDArray[np.float32] = NO_PICTURES) -> np.ndarray:
    engine.bank.ensure(frames)
    output = engine.run(EngineInput(sound, np.array(frames, np.int64), sent, want_float=True, want_uint8=True))
    assert output.mouths_float is not None
    truncated = np.clip(output.mouths_float * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output.mouths_uint8, truncated)
    return output.mouths_float


@pytest.mark.parametrize("fixed", ["batch", 1, 2], ids=["any batch", "batch of one", "batch of two"])
@pytest.mark.parametrize("reference", [None, 0, 3])
def test_mouths_are_those_of_the_plain_network(make_avatar: MakeAvatar, reference: int | None, fixed: int | str) -> None:
    avatar = make_avatar(model=network(batch=fixed, scale=-0.5), reference_frame=reference)
    frames, sound = [4, 3, 0, 1, 1, 2, 4], windows(7)
    visual = np.stack([network_input(avatar, frame, frame if reference is None else reference) for frame in frames])
    made = served(OnnxEngine(avatar, CPU, OPTIONS), frames, sound)
    np.testing.assert_allclose(made, plainly(avatar, visual, sound), atol=2e-6)


def test_the_reference_does_change_the_mouths(make_avatar: MakeAvatar) -> None:
    sound = windows(1)
    avatars = [make_avatar(f"reference{frame}", reference_frame=frame) for frame in (0, 1)]
    one, other = (served(OnnxEngine(avatar, CPU, OPTIONS), [2], sound) for avatar in avatars)
    assert np.abs(one - other).max() > 0.1


def test_pictures_that_a_caller_sent_stay_as_they_are(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar(reference_frame=1)
    engine, sound = OnnxEngine(avatar, CPU, OPTIONS), windows(4)
    sent = np.random.default_rng(5).uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    own = np.stack([network_input(avatar, frame, 1) for frame in (3, 0)])
    wanted = plainly(avatar, np.concatenate([own, sent]), sound)
    np.testing.assert_allclose(served(engine, [3, 0], sound, sent), wanted, atol=2e-6)
    np.testing.assert_allclose(served(engine, [], sound[2:], sent), wanted[2:], atol=2e-6)


def test_a_batch_gives_the_bytes_of_single_frames(make_avatar: MakeAvatar) -> None:
    engine, sound = OnnxEngine(make_avatar(reference_frame=2), CPU, OPTIONS), windows(5)
    together = served(engine, [4, 3, 2, 1, 0], sound)
    for place, frame in enumerate([4, 3, 2, 1, 0]):
        np.testing.assert_array_equal(served(engine, [frame], sound[place : place + 1])[0], together[place])


@pytest.mark.parametrize("on_device", [False, True], ids=["crops sent along", "crops on the device"])
def test_crops_for_a_gpu_bring_the_reference_along(
    make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    """The network runs on the CPU here; the crops are fed as to a GPU, whose memory is played by the CPU's."""
    avatar = make_avatar(reference_frame=3)
    plain = OnnxEngine(avatar, CPU, OPTIONS)
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    engine.bank = CropBank(avatar, GPU)
    on_cpu = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", lambda array, *_: on_cpu(array))
    if on_device:
        engine.bank.fill()
    frames, sound = [4, 0, 3, 1], windows(4)
    np.testing.assert_array_equal(served(engine, frames, sound), served(plain, frames, sound))


def test_the_reference_is_made_with_the_first_frames_and_once(make_avatar: MakeAvatar) -> None:
    bank = OnnxEngine(make_avatar(reference_frame=2), CPU, OPTIONS).bank
    assert bank.missing([4]) == [4, 2]
    bank.ensure([4])
    assert bank.missing([4, 2, 1]) == [1]


def test_a_reference_that_cannot_be_read_is_found_at_loading(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar(reference_frame=3)
    avatar.frame_paths[3].write_bytes(avatar.frame_paths[3].read_bytes()[:-400])
    engine = OnnxEngine(avatar, CPU, OPTIONS)
    with pytest.raises(BrokenAvatar, match=r"frame_000003\.jpg"):
        engine.warm_up()


@pytest.mark.slow
def test_the_full_size_network_too(make_avatar: MakeAvatar) -> None:
    """Its graph is rewritten for the CPU; floats differ in their last bits."""
    avatar = make_avatar(model=unet_graph(random_unet_weights(4)), reference_frame=1)
    frames, sound = [0, 4, 2], windows(3)
    visual = np.stack([network_input(avatar, frame, 1) for frame in frames])
    np.testing.assert_allclose(served(OnnxEngine(avatar, CPU, OPTIONS), frames, sound), plainly(avatar, visual, sound), atol=5e-4)
