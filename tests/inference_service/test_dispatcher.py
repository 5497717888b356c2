"""Batches across requests on a real engine: order, sharing, deadlines, cancellation, failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from inference_service.engines.devices import find_devices
from inference_service.engines.engine import Engine, EngineError, EngineInput, EngineOutput
from inference_service.metrics import InferenceMetrics
from inference_service.scheduling.dispatcher import Dispatcher, Job
from inference_service.settings import GpuSection, OnnxSection
from service_kit.errors import DeadlineExceeded, FailedPrecondition, ServiceError, Unavailable
from service_kit.metrics import Metrics

from .conftest import MakeAvatar

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]


@pytest.fixture
def engine(make_avatar: MakeAvatar) -> Engine:
    made = Engine(make_avatar(), CPU, OnnxSection(intra_op_threads=1))
    made.bank.fill()
    return made


@asynccontextmanager
async def running(
    *, max_batch: int = 4, quick_batch: int = 0, workers: int = 1, max_delay_s: float = 0, metrics: Metrics | None = None
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(
        CPU,
        workers=workers,
        max_batch=max_batch,
        quick_batch=quick_batch,
        max_delay_s=max_delay_s,
        metrics=InferenceMetrics(metrics or Metrics()),
    )
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.stop()


def job(engine: Engine, frames: int, *, seed: int = 0, want_float: bool = True, deadline: float | None = None) -> Job:
    windows = np.random.default_rng(seed).uniform(0, 4, (frames, 16, 512)).astype(np.float32)
    return Job(engine, windows, np.arange(frames, dtype=np.int64) % 5, None, want_float, deadline)


async def collected(dispatcher: Dispatcher, wanted: Job) -> np.ndarray:
    groups = []
    async with aclosing(dispatcher.submit(wanted)) as steps:
        async for group in steps:
            assert group.first == sum(len(mouths) for mouths in groups)
            groups.append(group.mouths)
    return np.concatenate(groups)


class Recorder:
    """Stands between dispatcher and engine: notes batch sizes, waits at a gate, fails on demand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sizes: list[int] = []
        self.fail_from_size = 1_000_000
        self.poison: float | None = None
        self.device = engine.device

    def run(self, batch: EngineInput) -> EngineOutput:
        self.sizes.append(len(batch.windows))
        if self.poison is not None and (batch.windows[:, 0, 0] == self.poison).any():
            raise EngineError("poisoned")
        return self.engine.run(batch)


@pytest.mark.parametrize("workers", [1, 3])
async def test_many_requests_get_what_they_would_get_alone(engine: Engine, workers: int) -> None:
    async with running(workers=workers) as dispatcher:
        alone = [await collected(dispatcher, job(engine, frames, seed=frames)) for frames in (1, 3, 7, 12)]
        together = await asyncio.gather(*(collected(dispatcher, job(engine, frames, seed=frames)) for frames in (1, 3, 7, 12)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_waiting_requests_share_batches_and_formats(engine: Engine) -> None:
    recorder = Recorder(engine)
    async with running(max_batch=8) as dispatcher:
        floats, pixels = job(recorder, 4, want_float=True), job(recorder, 4, want_float=False)  # type: ignore[arg-type]
        one, other = await asyncio.gather(collected(dispatcher, floats), collected(dispatcher, pixels))
    assert one.dtype == np.float32
    assert other.dtype == np.uint8
    assert sum(recorder.sizes) == 8
    assert max(recorder.sizes) >= 4
    truncated = np.clip(one * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(truncated, other)


async def test_a_delay_lets_a_batch_fill(engine: Engine) -> None:
    recorder = Recorder(engine)
    async with running(max_batch=4, max_delay_s=5) as dispatcher:
        jobs = [job(recorder, 2, seed=seed) for seed in range(2)]  # type: ignore[arg-type]
        await asyncio.gather(*(collected(dispatcher, one) for one in jobs))
    assert recorder.sizes == [4]


@pytest.mark.parametrize(("seconds_a_frame", "largest"), [(1.0, 2), (0.002, 5), (1e-9, 6)])
async def test_batches_of_a_quick_network_grow_while_they_are_short(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds_a_frame: float, largest: int
) -> None:
    sizes: list[int] = []

    def run(batch: EngineInput) -> EngineOutput:
        sizes.append(len(batch.windows))
        output = Engine.run(engine, batch)
        engine.seconds_a_frame = seconds_a_frame
        return output

    monkeypatch.setattr(engine, "run", run)
    async with running(max_batch=2, quick_batch=6) as dispatcher:
        whole = await collected(dispatcher, job(engine, 20))
    async with running(max_batch=20) as dispatcher:
        np.testing.assert_array_equal(await collected(dispatcher, job(engine, 20)), whole)
    assert sizes[0] == 2  # nothing was known yet
    assert max(sizes[:-1]) == largest


async def test_a_passed_deadline_never_reaches_the_engine(engine: Engine) -> None:
    recorder = Recorder(engine)
    async with running() as dispatcher:
        late = job(recorder, 4, deadline=time.monotonic() - 1)  # type: ignore[arg-type]
        with pytest.raises(DeadlineExceeded):
            await collected(dispatcher, late)
        assert dispatcher.waiting_frames == 0
    assert recorder.sizes == []


async def test_a_caller_that_leaves_takes_its_frames_along(engine: Engine) -> None:
    recorder = Recorder(engine)
    metrics = Metrics()
    async with running(max_batch=2, metrics=metrics) as dispatcher:
        async with aclosing(dispatcher.submit(job(recorder, 40))) as groups:  # type: ignore[arg-type]
            await anext(groups)
        assert dispatcher.waiting_frames == 0
        await collected(dispatcher, job(recorder, 1))  # type: ignore[arg-type]
    assert sum(recorder.sizes) < 40
    dropped = metrics.registry.get_sample_value("lipsync_inference_dropped_requests_total", {"reason": "cancelled"})
    assert dropped == 1


async def test_only_the_request_that_cannot_run_fails(engine: Engine) -> None:
    recorder = Recorder(engine)
    recorder.poison = -1
    good, bad = job(recorder, 3), job(recorder, 3)  # type: ignore[arg-type]
    bad.windows[:, 0, 0] = -1
    async with running(max_batch=8) as dispatcher:
        outcomes = await asyncio.gather(collected(dispatcher, good), collected(dispatcher, bad), return_exceptions=True)
        again = await collected(dispatcher, job(recorder, 2))  # type: ignore[arg-type]
    assert isinstance(outcomes[0], np.ndarray)
    assert isinstance(outcomes[1], FailedPrecondition)
    assert len(again) == 2


async def test_values_that_are_not_finite_fail_their_request_alone(engine: Engine) -> None:
    good, bad = job(engine, 3), job(engine, 3)
    bad.windows[1, 0, 0] = np.nan
    async with running(max_batch=8) as dispatcher:
        outcomes = await asyncio.gather(collected(dispatcher, good), collected(dispatcher, bad), return_exceptions=True)
    assert isinstance(outcomes[0], np.ndarray)
    assert isinstance(outcomes[1], FailedPrecondition)


async def test_our_own_bug_is_an_internal_error_and_the_worker_lives_on(engine: Engine) -> None:
    broken = job(engine, 2)
    broken.frames = np.array([0, 99], np.int64)  # past the bank: numpy or ONNX Runtime objects
    broken.engine = object()  # type: ignore[assignment]
    async with running() as dispatcher:
        with pytest.raises(ServiceError):
            await collected(dispatcher, broken)
        assert len(await collected(dispatcher, job(engine, 2))) == 2


async def test_stopping_refuses_what_waits(engine: Engine) -> None:
    async with running(max_batch=1) as dispatcher:
        waiting = asyncio.create_task(collected(dispatcher, job(engine, 500)))
        await asyncio.sleep(0)
        await dispatcher.stop()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await collected(dispatcher, job(engine, 1))
