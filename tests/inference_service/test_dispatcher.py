"""Batches across requests on a real engine: order, sharing, deadlines, cancellation, failures."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from inference_service.engines.devices import find_devices
from inference_service.engines.engine import Engine, EngineError, EngineInput, EngineOutput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.metrics import InferenceMetrics
from inference_service.scheduling.admission import CARRIED_S, Admission
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.scheduling.jobs import Job
from inference_service.scheduling.overload import Overload
from inference_service.scheduling.waiting import OVERLOAD_PAUSE_S
from inference_service.settings import GpuSection, OnnxSection
from service_kit import request_context
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, ServiceError, Unavailable
from service_kit.metrics import Metrics

from ..virtual_clock import VirtualClock
from .conftest import MakeAvatar

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
PATIENCE_S = 60
RUN_LIMIT_S = 10


class Recorder:
    """An engine that notes what it runs, before or instead of an engine of ONNX Runtime."""

    def __init__(self, engine: OnnxEngine, room: int = 4) -> None:
        self.avatar_id, self.device, self.bank, self.producer = engine.avatar_id, engine.device, engine.bank, engine.producer
        self.warm_up, self.run_frames = engine.warm_up, engine.run_frames
        self.room, self.short_room = room, 1
        self.sizes: list[int] = []
        self.before: Callable[[EngineInput], None] = lambda _: None
        self._engine = engine

    def run(self, batch: EngineInput) -> EngineOutput:
        self.sizes.append(len(batch.windows))
        self.before(batch)
        return self._engine.run(batch)


@pytest.fixture
def engine(make_avatar: MakeAvatar) -> OnnxEngine:
    made = OnnxEngine(make_avatar(), CPU, OnnxSection(intra_op_threads=1))
    made.bank.fill()
    return made


@pytest.fixture
def recorder(engine: OnnxEngine) -> Recorder:
    return Recorder(engine)


@asynccontextmanager
async def running(
    *,
    workers: int = 1,
    max_delay_s: float = 0,
    metrics: Metrics | None = None,
    admission: Admission | None = None,
    overload: Overload | None = None,
    clock: Clock = SYSTEM_CLOCK,
    on_overrun: Callable[[Engine, str], None] = lambda _, reason: pytest.fail(reason),
    on_lost: Callable[[str], None] = pytest.fail,
) -> AsyncIterator[Dispatcher]:
    admission = admission or Admission(workers=workers, clock=clock)
    dispatcher = Dispatcher(
        CPU,
        workers=workers,
        admission=admission,
        overload=overload or Overload(admission, clock),
        max_delay_s=max_delay_s,
        run_limit_s=RUN_LIMIT_S,
        metrics=InferenceMetrics(metrics or Metrics()),
        on_overrun=on_overrun,
        on_lost=on_lost,
        clock=clock,
    )
    dispatcher.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield dispatcher
    finally:
        await dispatcher.stop()


def job(
    engine: Engine,
    frames: int,
    *,
    seed: int = 0,
    want_float: bool = True,
    deadline_s: float | None = None,
    due_s: float | None = None,
) -> Job:
    windows = np.random.default_rng(seed).uniform(0, 4, (frames, 16, 512)).astype(np.float32)
    return Job(engine, windows, np.arange(frames, dtype=np.int64) % 5, None, want_float, deadline_s, due_s)


async def collected(dispatcher: Dispatcher, wanted: Job) -> np.ndarray:
    groups = []
    async with aclosing(dispatcher.submit(wanted)) as steps:
        async for group in steps:
            assert group.first == sum(len(mouths) for mouths in groups)
            groups.append(group.mouths)
    return np.concatenate(groups)


async def outcomes(*each: asyncio.Task[np.ndarray]) -> list[np.ndarray | BaseException]:
    return await asyncio.gather(*each, return_exceptions=True)


@pytest.mark.parametrize("workers", [1, 3])
async def test_many_requests_get_what_they_would_get_alone(engine: OnnxEngine, workers: int) -> None:
    async with running(workers=workers) as dispatcher:
        alone = [await collected(dispatcher, job(engine, frames, seed=frames)) for frames in (1, 3, 7, 12)]
        together = await asyncio.gather(*(collected(dispatcher, job(engine, frames, seed=frames)) for frames in (1, 3, 7, 12)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_a_second_worker_helps_one_stream(recorder: Recorder) -> None:
    both = threading.Barrier(2)
    async with running(workers=2) as dispatcher:
        await collected(dispatcher, job(recorder, 1))  # both workers wait for work now
        recorder.before = lambda _: both.wait(PATIENCE_S) and None
        assert len(await collected(dispatcher, job(recorder, 16))) == 16
    assert recorder.sizes == [1, 4, 4, 4, 4]


async def test_waiting_requests_share_batches_and_formats(engine: OnnxEngine) -> None:
    recorder = Recorder(engine, room=8)
    async with running() as dispatcher:
        floats, pixels = job(recorder, 4, want_float=True), job(recorder, 4, want_float=False)
        one, other = await asyncio.gather(collected(dispatcher, floats), collected(dispatcher, pixels))
    assert one.dtype == np.float32
    assert other.dtype == np.uint8
    assert sum(recorder.sizes) == 8
    assert max(recorder.sizes) >= 4
    truncated = np.clip(one * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(truncated, other)


async def test_a_delay_lets_a_batch_fill(recorder: Recorder) -> None:
    clock = VirtualClock()
    async with running(max_delay_s=5, clock=clock) as dispatcher:
        await asyncio.gather(*(collected(dispatcher, job(recorder, 2, seed=seed)) for seed in range(2)))
        assert recorder.sizes == [4]
        await clock.advance(1)  # nobody sleeps any more
        lonely = asyncio.create_task(collected(dispatcher, job(recorder, 3)))
        await clock.asleep()
        await clock.advance(4.9)
        assert recorder.sizes == [4]
        await clock.advance(0.2)
        await lonely
    assert recorder.sizes == [4, 3]


async def test_a_batch_holds_as_much_as_its_engine_has_room_for(recorder: Recorder) -> None:
    def grow(_: EngineInput) -> None:
        recorder.room += 1

    recorder.before = grow
    async with running() as dispatcher:
        await collected(dispatcher, job(recorder, 15))
    assert recorder.sizes == [4, 5, 6]


async def test_due_frames_wait_for_the_run_under_way_alone(engine: OnnxEngine) -> None:
    """Eight batch callers with long requests wait before them, of the same avatar and another."""
    same, other = Recorder(engine), Recorder(engine)
    began, go_on = threading.Event(), threading.Event()

    def hold(_: EngineInput) -> None:
        began.set()
        go_on.wait(PATIENCE_S)

    same.before = other.before = hold
    async with running() as dispatcher:
        batch = [asyncio.create_task(collected(dispatcher, job([same, other][n % 2], 20, seed=n))) for n in range(8)]
        await asyncio.to_thread(began.wait, PATIENCE_S)
        due = job(same, 3, seed=9, due_s=SYSTEM_CLOCK.now() + 0.1)
        waiting = asyncio.create_task(collected(dispatcher, due))
        await asyncio.sleep(0)
        runs_before = len(same.sizes) + len(other.sizes)
        go_on.set()
        mouths = await waiting
        assert sum(same.sizes) + sum(other.sizes) <= 4 + 3 + 1 + 1, "the run under way, three due frames, one run begun since"
        assert runs_before == 1
        await asyncio.gather(*batch)
    async with running() as dispatcher:
        np.testing.assert_array_equal(mouths, await collected(dispatcher, job(engine, 3, seed=9)))


async def test_runs_are_short_until_no_session_has_spoken_for_two_seconds(recorder: Recorder) -> None:
    clock = VirtualClock()
    async with running(clock=clock) as dispatcher:
        await collected(dispatcher, job(recorder, 2, due_s=clock.now()))
        await collected(dispatcher, job(recorder, 5))
        assert recorder.sizes == [1] * 7
        await clock.advance(1.9)
        await collected(dispatcher, job(recorder, 2))
        assert recorder.sizes == [1] * 9
        await clock.advance(0.2)
        await collected(dispatcher, job(recorder, 5))
    assert recorder.sizes == [1] * 9 + [4, 1]


async def test_due_frames_do_not_wait_for_a_batch_to_fill(recorder: Recorder) -> None:
    """Time does not pass here."""
    async with running(max_delay_s=5, clock=VirtualClock()) as dispatcher:
        assert len(await collected(dispatcher, job(recorder, 3, due_s=7.0))) == 3


async def test_due_frames_are_dropped_with_their_deadline_and_their_caller(recorder: Recorder) -> None:
    clock = VirtualClock()
    async with running(clock=clock) as dispatcher:
        with pytest.raises(DeadlineExceeded):
            await collected(dispatcher, job(recorder, 4, deadline_s=clock.now() - 1, due_s=clock.now()))
        async with aclosing(dispatcher.submit(job(recorder, 40, due_s=clock.now()))) as groups:
            await anext(groups)
        assert dispatcher.waiting_frames == 0
    assert sum(recorder.sizes) < 40


async def test_runs_measure_the_capacity(recorder: Recorder) -> None:
    admission = Admission(workers=1, clock=SYSTEM_CLOCK)
    async with running(admission=admission) as dispatcher:
        assert admission.frames_a_second == 0
        await collected(dispatcher, job(recorder, 8))
    assert admission.frames_a_second > 0
    assert not admission.is_measured(recorder.avatar_id), "two runs are too few"


async def test_a_line_about_a_request_has_its_ids(recorder: Recorder) -> None:
    said: list[tuple[str, str]] = []

    class Ids(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            said.append((request_context.request_id.get(), request_context.session_id.get()))

    def fail(_: EngineInput) -> None:
        raise EngineError("poisoned")

    async def call(number: int) -> None:
        request_context.request_id.set(f"request-{number}")
        request_context.session_id.set(f"session-{number}")
        with pytest.raises(FailedPrecondition):
            await collected(dispatcher, job(recorder, 2, seed=number))

    recorder.before = fail
    handler = Ids(logging.WARNING)
    dispatcher_log = logging.getLogger("inference_service.scheduling.dispatcher")
    dispatcher_log.addHandler(handler)
    try:
        async with running() as dispatcher:
            await asyncio.gather(call(1), call(2))
    finally:
        dispatcher_log.removeHandler(handler)
    assert sorted(said) == [("request-1", "session-1"), ("request-2", "session-2")]


async def test_a_passed_deadline_never_reaches_the_engine(recorder: Recorder) -> None:
    clock = VirtualClock()
    async with running(clock=clock) as dispatcher:
        with pytest.raises(DeadlineExceeded):
            await collected(dispatcher, job(recorder, 4, deadline_s=clock.now() - 1))
        assert dispatcher.waiting_frames == 0
    assert recorder.sizes == []


async def test_a_caller_that_leaves_takes_its_frames_along(recorder: Recorder) -> None:
    metrics = Metrics()
    async with running(metrics=metrics) as dispatcher:
        async with aclosing(dispatcher.submit(job(recorder, 40))) as groups:
            await anext(groups)
        assert dispatcher.waiting_frames == 0
        await collected(dispatcher, job(recorder, 1))
    assert sum(recorder.sizes) < 40
    dropped = metrics.registry.get_sample_value("lipsync_inference_dropped_requests_total", {"reason": "cancelled"})
    assert dropped == 1


@pytest.mark.parametrize("error", [EngineError("poisoned"), MemoryError(), KeyError("a bug")])
async def test_only_the_request_that_cannot_run_fails(engine: OnnxEngine, error: Exception) -> None:
    recorder = Recorder(engine, room=16)

    def fail(batch: EngineInput) -> None:
        if (batch.windows[:, 0, 0] == -1).any():
            raise error

    recorder.before = fail
    bad = job(recorder, 3)
    bad.windows[:, 0, 0] = -1
    async with running() as dispatcher:
        *good, failed = await outcomes(*(collected(dispatcher, each) for each in (job(recorder, 3), job(recorder, 2), bad)))
        again = await collected(dispatcher, job(recorder, 2))
    assert [len(each) for each in good] == [3, 2]
    assert isinstance(failed, FailedPrecondition if isinstance(error, EngineError) else ServiceError)
    assert len(again) == 2
    assert sum(recorder.sizes) <= 2 * (3 + 2 + 3) + 2, "no frame runs a third time"


@pytest.mark.parametrize(
    "words",
    [
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; expr=cudaMalloc((void**)&p, size);",
        "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for "
        "requested buffer of size 320000000",
        "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Available memory of 136862720 is "
        "smaller than requested bytes of 320000000",
    ],
    ids=["the driver", "the device is full", "gpus.memory_gb_per_gpu is reached"],
)
async def test_a_batch_that_a_device_has_no_memory_for_is_run_in_parts(engine: OnnxEngine, words: str) -> None:
    """A device of our own, which has room for three frames: what it fails with is what ONNX Runtime says of one of NVIDIA's."""
    recorder = Recorder(engine, room=16)

    def fail(batch: EngineInput) -> None:
        if len(batch.windows) > 3:
            raise EngineError(words)

    recorder.before = fail
    async with running() as dispatcher:
        *good, failed = await outcomes(*(collected(dispatcher, job(recorder, frames)) for frames in (3, 2, 5)))
    assert [len(each) for each in good] == [3, 2]
    assert isinstance(failed, ResourceExhausted)
    assert failed.retry_after_ms == 1000


async def test_a_lost_device_asks_for_a_restart(engine: OnnxEngine) -> None:
    recorder = Recorder(engine)

    def fail(batch: EngineInput) -> None:
        raise EngineError("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=box")

    recorder.before = fail
    lost: list[str] = []
    async with running(on_lost=lost.append) as dispatcher:
        (failed,) = await outcomes(collected(dispatcher, job(recorder, 2)))
    assert isinstance(failed, Unavailable)
    assert [reason.partition(":")[0] for reason in lost] == [f"{engine.device.name} fails every run"]


async def test_values_that_are_not_finite_fail_their_request_alone(engine: OnnxEngine) -> None:
    good, bad = job(engine, 3), job(engine, 3)
    bad.windows[1, 0, 0] = np.nan
    async with running() as dispatcher:
        mouths, failed = await outcomes(collected(dispatcher, good), collected(dispatcher, bad))
    assert isinstance(mouths, np.ndarray)
    assert isinstance(failed, FailedPrecondition)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_engine_that_takes_too_long_is_given_up_and_others_run(engine: OnnxEngine, *, comes_back: bool) -> None:
    clock, stuck, go_on = VirtualClock(), threading.Event(), threading.Event()
    slow = Recorder(engine)
    told: list[str] = []
    lost: list[str] = []

    def hang(_: EngineInput) -> None:
        stuck.set()
        go_on.wait(PATIENCE_S)

    slow.before = hang
    async with running(clock=clock, on_overrun=lambda _, reason: told.append(reason), on_lost=lost.append) as dispatcher:
        running_now = asyncio.create_task(collected(dispatcher, job(slow, 4)))
        await asyncio.to_thread(stuck.wait, PATIENCE_S)
        waiting = [asyncio.create_task(collected(dispatcher, job(slow, 4))) for _ in range(2)]
        other = asyncio.create_task(collected(dispatcher, job(engine, 3)))
        await clock.advance(RUN_LIMIT_S - 1)
        assert not running_now.done()
        await clock.advance(2)
        if comes_back:
            go_on.set()
        else:
            await clock.advance(10)
        for failed in await outcomes(running_now, *waiting):
            assert isinstance(failed, FailedPrecondition)
            assert "someone" in failed.message
        assert len(await other) == 3
        with pytest.raises(FailedPrecondition):
            await collected(dispatcher, job(slow, 1))
        go_on.set()
    assert len(told) == 1
    assert len(lost) == (0 if comes_back else 1)


async def test_stopping_refuses_what_waits(engine: OnnxEngine) -> None:
    async with running() as dispatcher:
        waiting = asyncio.create_task(collected(dispatcher, job(engine, 500)))
        await asyncio.sleep(0)
        await dispatcher.stop()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await collected(dispatcher, job(engine, 1))


async def test_under_overload_batch_work_waits_and_what_is_due_does_not(recorder: Recorder) -> None:
    clock = VirtualClock()
    overload = Overload(Admission(workers=1, clock=clock), clock)
    overload.note_refused()

    async def runs(count: int) -> None:
        for _ in itertools.takewhile(lambda _: len(recorder.sizes) < count, itertools.count()):
            await asyncio.sleep(0.01)

    async with running(clock=clock, overload=overload) as dispatcher:
        await collected(dispatcher, job(recorder, 1, due_s=clock.now()))
        batch = asyncio.create_task(collected(dispatcher, job(recorder, 12)))
        await runs(2)
        await collected(dispatcher, job(recorder, 2, due_s=clock.now()))
        assert recorder.sizes == [1] * 4, "what is due runs at once, and batch work not before it"
        while len(recorder.sizes) < 5:
            await clock.advance(OVERLOAD_PAUSE_S / 4)
            await asyncio.sleep(0.01)
        await collected(dispatcher, job(recorder, 1, due_s=clock.now()))
        assert recorder.sizes == [1] * 6
        await clock.advance(CARRIED_S)  # the level holds for longer, but no session is there that work would wait for
        await batch
    assert sum(recorder.sizes) == 16
