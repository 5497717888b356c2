"""ONNX Runtime's own part: its batches, the CPU form of the full-size network, crops on their way to a GPU, devices."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import CUDA, Device, DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.outputs import Mouths, PixelOutputs
from inference_service.graphs import wrapping
from inference_service.settings import GpuSection, OnnxSection

from ..inference_service.conftest import MakeAvatar, network
from .conftest import CPU, OPTIONS, crop, linear_network, network_input, on_cpu, run, windows

GPU = Device(gpu_id=0, name="a GPU that is not there", providers=((CUDA, {}),))
GPU_BUILD = CUDA in onnxruntime.get_available_providers()


def plainly(avatar: Avatar, visual: NDArray[np.float32], sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The avatar's own file in ONNX Runtime, frame by frame."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(avatar.network_path), options, providers=["CPUExecutionProvider"])
    names = {value.shape[1]: value.name for value in session.get_inputs()}
    feeds = [
        {names[6]: picture[None], names[32]: window.reshape(1, 32, 16, 16)} for picture, window in zip(visual, sound, strict=True)
    ]
    return np.stack([session.run(None, feed)[0][0] for feed in feeds])


@pytest.mark.slow
def test_the_full_size_network_gives_what_its_file_gives(make_avatar: MakeAvatar) -> None:
    """Its graph is rewritten for the CPU; floats differ in their last bits."""
    avatar = make_avatar(model=UNET.graph(random_weights(UNET, 4)), reference_frame=1)
    frames, sound = [0, 4, 2], windows(3)
    visual = np.stack([network_input(avatar, frame, reference=1) for frame in frames])
    np.testing.assert_allclose(run(on_cpu(avatar), frames, sound)[0], plainly(avatar, visual, sound), atol=5e-4)


def test_the_graph_for_a_gpu_makes_the_pixels_that_the_cpu_makes(make_avatar: MakeAvatar) -> None:
    """The graph runs on the CPU here, with values on both sides of 0..1 and one that is not finite."""
    avatar, sound, frames = make_avatar(model=linear_network()), windows(3) - 2, [1, 0, 1]
    sound[2, 3, 3:5] = np.inf, -np.inf
    floats, _ = run(on_cpu(avatar), frames[:2], sound[:2])
    model, wrapped = wrapping.wrap_network(avatar.network_path, avatar.mask, for_cpu=False, fixed_reference=False)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    binding, outputs = session.io_binding(), PixelOutputs(wrapped.mouths_float, 3)
    binding.bind_cpu_input(wrapping.BANK, np.stack([crop(avatar, frame).transpose(2, 0, 1) for frame in (0, 1)]))
    binding.bind_cpu_input(wrapping.SLOTS, np.array(frames, np.int64))
    binding.bind_cpu_input(wrapping.SENT_PICTURES, NO_PICTURES)
    binding.bind_cpu_input(wrapped.windows, sound.reshape(3, 32, 16, 16))

    def made(*, want_float: bool, want_uint8: bool) -> Mouths:
        batch = EngineInput(sound, np.array(frames, np.int64), NO_PICTURES, want_float=want_float, want_uint8=want_uint8)
        outputs.bind(binding, batch)
        session.run_with_iobinding(binding)
        mouths = Mouths(3, want_float=want_float, want_uint8=want_uint8)
        outputs.take(mouths, slice(0, 3))
        return mouths

    both, pixels = made(want_float=True, want_uint8=True), made(want_float=False, want_uint8=True)
    assert both.floats is not None
    assert both.pixels is not None
    assert pixels.pixels is not None
    np.testing.assert_allclose(both.floats[:2], floats, atol=2e-6)
    truncated = np.clip(both.floats[:2] * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(both.pixels[:2], truncated)
    np.testing.assert_array_equal(pixels.pixels[:2], truncated)
    assert both.finite.tolist() == pixels.finite.tolist() == [True, True, False]


def newer_network() -> onnx.ModelProto:
    model = network()
    model.ir_version = 99
    return model


def test_a_network_newer_than_the_runtime_is_a_broken_avatar(make_avatar: MakeAvatar) -> None:
    with pytest.raises(BrokenAvatar, match=r"^network.onnx: .*Unsupported model IR version: 99, max supported IR version: "):
        on_cpu(make_avatar(model=newer_network()))


@pytest.mark.parametrize(
    ("seconds_a_frame", "room", "short_room"),
    [(1.0, 4, 1), (0.0099, 4, 2), (0.0051, 4, 3), (0.0019, 5, 5), (0.0009, 11, 11), (1e-9, 16, 16)],
)
def test_a_quick_network_has_room_for_more(
    make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch, seconds_a_frame: float, room: int, short_room: int
) -> None:
    engine = on_cpu(make_avatar())
    assert (engine.room, engine.short_room) == (4, 1), "nothing is known yet"
    passed = iter([0.0, 2 * seconds_a_frame])
    monkeypatch.setattr("time.perf_counter", lambda: next(passed))
    run(engine, [0, 1], windows(2))
    assert (engine.room, engine.short_room) == (room, short_room)


def test_a_short_batch_is_whole_runs_of_the_network(make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is exported with a fixed batch takes as long for fewer frames."""
    engine = on_cpu(make_avatar(model=network(batch=2)))
    passed = iter([0.0, 2 * 0.0061])
    monkeypatch.setattr("time.perf_counter", lambda: next(passed))
    run(engine, [0, 1], windows(2))
    assert (engine.room, engine.short_room, engine.run_frames) == (4, 2, 2)


def test_a_configured_batch_is_kept_to(make_avatar: MakeAvatar) -> None:
    engine = OnnxEngine(make_avatar(), CPU, OPTIONS, max_batch=6)
    run(engine, [0, 1], windows(2))
    assert engine.room == 6


def test_crops_that_a_run_brings_along_to_a_gpu_have_the_reference_among_them(make_avatar: MakeAvatar) -> None:
    """The network runs on the CPU here; the crops are fed as to a GPU without an arena."""
    avatar = make_avatar(reference_frame=3)
    plain, engine = on_cpu(avatar), OnnxEngine(avatar, CPU, OPTIONS)
    engine.bank = CropBank(avatar, GPU)
    frames, sound = [4, 0, 3, 1], windows(4)
    np.testing.assert_array_equal(run(engine, frames, sound)[0], run(plain, frames, sound)[0])


def test_crops_are_made_only_when_asked_for_and_once(make_avatar: MakeAvatar) -> None:
    bank = CropBank(make_avatar(reference_frame=2), CPU)
    assert bank.missing([3, 1, 3]) == [3, 1, 2]
    bank.ensure([3])
    assert bank.missing([3, 2, 1]) == [1]
    assert bank.memory_bytes == 2 * 3 * 328 * 328  # with the borders


@pytest.mark.skipif(GPU_BUILD, reason="onnxruntime-gpu is installed")
def test_a_gpu_that_is_asked_for_and_missing_is_an_error() -> None:
    with pytest.raises(DeviceError, match="install the extra"):
        find_devices(GpuSection(enabled=True), OnnxSection())


@pytest.mark.skipif(GPU_BUILD, reason="onnxruntime-gpu is installed")
def test_a_provider_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(DeviceError, match="CUDAExecutionProvider is not in"):
        find_devices(GpuSection(), OnnxSection(providers=(CUDA,)))


def test_auto_without_the_gpu_build_is_the_cpu() -> None:
    if not GPU_BUILD:
        assert not find_devices(GpuSection(), OnnxSection())[0].is_gpu
