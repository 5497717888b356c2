"""The same frames from a GPU as from the CPU. Runs where onnxruntime-gpu finds a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from inference_service.engines.devices import CUDA, Device, DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

from .conftest import MakeAvatar

GPU_BUILD = CUDA in onnxruntime.get_available_providers()


@pytest.fixture
def gpu() -> Device:
    if not GPU_BUILD:
        pytest.skip("onnxruntime-gpu is not installed")
    return find_devices(GpuSection(enabled=True), OnnxSection())[0]


@pytest.mark.gpu
@pytest.mark.parametrize("filled", [False, True], ids=["crops sent along", "crops on the device"])
@pytest.mark.parametrize("reference_frame", [None, 2], ids=["own reference", "fixed reference"])
def test_a_gpu_gives_what_the_cpu_gives(make_avatar: MakeAvatar, gpu: Device, filled: bool, reference_frame: int | None) -> None:
    avatar = make_avatar(reference_frame=reference_frame)
    cpu = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    engines = [OnnxEngine(avatar, device, OnnxSection()) for device in (cpu, gpu)]
    windows = np.random.default_rng(3).uniform(0, 4, (16, 16, 512)).astype(np.float32)
    frames = np.arange(16, dtype=np.int64) % avatar.frame_count
    outputs = []
    for engine in engines:
        engine.warm_up()
        engine.bank.ensure(frames.tolist())
        if filled:
            engine.bank.fill()
        outputs.append(engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=True, want_uint8=True)))
    on_cpu, on_gpu = outputs
    assert on_cpu.mouths_float is not None
    assert on_gpu.mouths_float is not None
    assert on_gpu.mouths_uint8 is not None
    np.testing.assert_allclose(on_gpu.mouths_float, on_cpu.mouths_float, atol=1e-3)
    truncated = np.clip(on_gpu.mouths_float * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(on_gpu.mouths_uint8, truncated)


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
