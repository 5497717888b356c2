"""Sessions of one graph run at the same time, as the streams of a GPU do: none holds a lock that another waits for.

The GPU is played by the CPU.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import numpy as np
from numpy.typing import NDArray

from avatar_tools.networks.free import free_network
from inference_service.engines.crops import CropBank, Feed
from inference_service.engines.devices import CPU, Device
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.metrics import InferenceMetrics
from inference_service.parts import runs_at_once
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.scheduling.jobs import Job
from inference_service.scheduling.overload import Overload
from inference_service.settings import InferenceSettings
from service_kit.clock import SYSTEM_CLOCK
from service_kit.metrics import Metrics

from ..played_gpu import GPU
from .conftest import MakeAvatar

PATIENCE_S = 60
STREAMS = 2


class MeetingBank(CropBank):
    """A bank in which each run waits for as many others as there are streams."""

    meeting = threading.Barrier(STREAMS)

    @contextmanager
    def fed(self, frames: NDArray[np.int64]) -> Iterator[Feed]:
        with super().fed(frames) as feed:
            self.meeting.wait(PATIENCE_S)
            yield feed


async def test_as_many_batches_are_in_flight_as_there_are_streams(make_avatar: MakeAvatar) -> None:
    mouths = np.random.default_rng(4).integers(0, 256, (5, 320, 320, 3), np.uint8)
    avatar = make_avatar(model=free_network(mouths))
    settings = InferenceSettings.model_validate({"onnx": {"cuda_streams_per_worker": STREAMS, "intra_op_threads": 1}})
    engine = OnnxEngine(avatar, GPU, settings.onnx, max_batch=4)
    engine.warm_up()
    engine.bank = MeetingBank(avatar, GPU)
    engine.bank.ensure(range(5))
    admission = Admission(workers=STREAMS, clock=SYSTEM_CLOCK)
    dispatcher = Dispatcher(
        GPU,
        workers=runs_at_once(settings, GPU),
        admission=admission,
        overload=Overload(admission, SYSTEM_CLOCK),
        max_delay_s=0,
        run_limit_s=PATIENCE_S,
        metrics=InferenceMetrics(Metrics()),
        on_overrun=lambda _, reason: None,
        on_lost=lambda reason: None,
    )
    dispatcher.start()

    async def ask(level: int) -> NDArray[np.uint8]:
        sound = np.full((4, 16, 512), (level + 0.5) / 7, np.float32)
        job = Job(engine, sound, np.arange(4, dtype=np.int64), None, False, None, None)
        async with aclosing(dispatcher.submit(job)) as groups:
            return np.concatenate([group.mouths async for group in groups])

    try:
        async with asyncio.timeout(PATIENCE_S):
            for pair in ((0, 1), (2, 3), (4, 0)):
                for level, made in zip(pair, await asyncio.gather(*map(ask, pair)), strict=True):
                    np.testing.assert_array_equal(made, np.broadcast_to(mouths[level], made.shape))
    finally:
        await dispatcher.stop()


def test_a_gpu_runs_a_batch_for_each_of_its_streams() -> None:
    def settings(workers: int, streams: int) -> InferenceSettings:
        return InferenceSettings.model_validate(
            {"server": {"worker_count_per_gpu": workers}, "onnx": {"cuda_streams_per_worker": streams}}
        )

    on_cpu = Device(-1, "CPU", ((CPU, {}),))
    assert [runs_at_once(settings(*each), GPU) for each in ((1, 1), (1, 3), (4, 2))] == [1, 3, 4]
    assert runs_at_once(settings(1, 3), on_cpu) == 1
