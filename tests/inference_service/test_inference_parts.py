"""The parts of the service in this process, without a server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pynvml
import pytest

from inference_service import parts
from inference_service.engines.devices import CPU, CUDA, Device
from inference_service.engines.gpu_memory import GpuMemory, visible_gpus
from inference_service.parts import inference_parts
from inference_service.request import check_infer_request
from inference_service.settings import InferenceSettings
from service_kit.metrics import Metrics
from shared_proto import inference_pb2 as pb

from ..virtual_clock import VirtualClock
from .conftest import MakeAvatar

PATIENCE_S = 60


def settings(root: Path, **changes: object) -> InferenceSettings:
    return InferenceSettings.model_validate({"models_root": root / "models", **changes})


async def test_mouths_without_a_server(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("someone")
    wanted = settings(tmp_path, models={"someone": {"preload": True}})
    metrics = Metrics()
    async with inference_parts(wanted, metrics, on_lost=pytest.fail) as opened:
        await opened.preload()
        model = opened.registry.loaded[0].value
        assert model.engines[0].bank.missing(range(5)) == []
        request = check_infer_request(
            pb.InferBatchRequest(model_id="someone", batch_size=9, raw_audio=bytes(9 * 2560)), wanted.limits
        )
        async with aclosing(opened.runner.mouths(request, deadline_s=float("inf"))) as groups:
            mouths = [mouths.data async for _, mouths in groups]
        assert np.concatenate(mouths).shape == (9, 3, 320, 320)
        assert metrics.registry.get_sample_value("lipsync_loaded_models") == 1


async def test_idle_avatars_are_unloaded_in_time(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("someone")
    clock = VirtualClock()
    wanted = settings(tmp_path, capacity={"idle_timeout_minutes": 1})
    async with asyncio.timeout(PATIENCE_S), inference_parts(wanted, Metrics(), on_lost=pytest.fail, clock=clock) as opened:
        await opened.registry.load("someone")
        await clock.advance(59)
        assert len(opened.registry.loaded) == 1
        await clock.advance(7)
        assert opened.registry.loaded == []


async def test_figures_of_gpus_go_on_after_the_driver_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN), [GpuMemory(0, "a GPU", 10**9, 10**6, None)]])

    def look() -> list[GpuMemory]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    gpu = Device(0, "a GPU that is not there", ((CUDA, {}), (CPU, {})))
    monkeypatch.setattr(parts, "find_devices", lambda *_: [gpu])
    monkeypatch.setattr(parts, "visible_gpus", look)
    metrics, clock = Metrics(), VirtualClock()
    (tmp_path / "models").mkdir()

    def figure(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"lipsync_gpu_{name}", {"gpu_id": "0"})

    async with asyncio.timeout(PATIENCE_S), inference_parts(settings(tmp_path), metrics, on_lost=pytest.fail, clock=clock):
        while figure("used_memory_bytes") is None:  # a thread looks
            await clock.advance(1)
    assert (figure("used_memory_bytes"), figure("utilization_ratio")) == (1e6, None)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_part_of_a_gpu_has_no_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver answers NOT_SUPPORTED for the instances of a divided GPU."""

    def not_supported(_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    memory = type("Memory", (), {"total": 10**9, "used": 10**6})
    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda _: "GPU-1",
        "nvmlDeviceGetName": lambda _: "a slice",
        "nvmlDeviceGetMemoryInfo": lambda _: memory,
        "nvmlDeviceGetUtilizationRates": not_supported,
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert visible_gpus() == [GpuMemory(0, "a slice", 10**9, 10**6, None)]
