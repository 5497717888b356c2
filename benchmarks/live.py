"""Live sessions by the load tester, with a network that costs nothing: how many fit, their first frames, and what one costs.

Both services and the tester share this machine. Sessions speak the shipped recording, pushed 500 ms ahead, with pauses of a
second; they fit if no frame of any was 40 ms late, no speech stalled and none was refused, where the service refuses none of
itself. The time beside batch work is measured in turn with the time alone; one caller asks for 24 frames again and again. The
goal is 1.2 times the time alone and one run. The memory is that of a session whose sound is pushed 5 s ahead. A resting session's
processor time is less that of services without sessions, and without its beginning, which has a figure of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import grpc
import psutil

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import SPEECH_PATH
from benchmarks.figures import Figure, cpu_seconds, figure, median_ratio
from benchmarks.services import BATCH, CALLERS, LEAD_IN, LOOK_AHEAD, one_round, speech_like
from lipsync_cli.load.first_frame import time_first_frames
from lipsync_cli.load.running import START_APART_S, LoadRun, Target, find_fitting, load
from lipsync_cli.load.session import Talking
from lipsync_cli.load.speaking import Sound, utterances
from lipsync_cli.processes import Services, both_services
from lipsync_cli.recording import read_recording
from lipsync_client import AsyncClient, Batch
from shared_proto.compositing_pb2 import IDLE_NONE, SessionConfig, SessionRequest
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.timing import FRAME_RATE

AVATAR, PICTURES = "free", 120
AHEAD_S, PAUSE_S = 0.5, 1.0
RAMP_FIRST, RAMP_MOST, RAMP_S, SESSIONS_GOAL = 16, 256, 3.0, 40
FIRST_FRAMES_S, FIRST_FRAME_GOAL_MS = 8.0, 30.0
BESIDE_SESSIONS, BESIDE_S, ROUNDS, BESIDE_RATIO = 4, 3.0, 3, 1.2
RESTING, RESTING_S, RESTING_GOAL_MS = 20, 5.0, 5.0
BUFFERED_S, BUFFERED_GOAL_MB = 5.0, 1.0
# Fewer than are degraded for want of cores: larger groups take memory of their own.
BUFFERED = 10
# Sessions that have ended still go before batch work for so long.
SETTLED_S = 2.5
SILENT = 1000


def run() -> list[Figure]:
    """Measures everything. Some two minutes."""
    speech = read_recording(SPEECH_PATH).speech()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatar = build_benchmark(root, AVATAR, frame_count=PICTURES, network="free")
        with both_services(root, inference=["limits.admit_sessions=all"]) as services:
            return asyncio.run(measured(services, avatar, speech))


async def measured(services: Services, avatar: Avatar, speech: Sound) -> list[Figure]:
    """Measures services that are ready."""
    pids = services.inference.pid, services.compositing.pid
    target = Target(services.address, [avatar.id], server_pids=pids)
    talking = Talking(utterances(speech), AHEAD_S, PAUSE_S)
    await load(target, talking, count=2, seconds=PICTURES / FRAME_RATE)  # each picture is shown once before anything is measured
    return [
        *await buffered(services, target, speech),  # first: what others leave to the allocator would hide it
        *await fitting(services, avatar, target, talking),
        *await first_frames(target, talking),
        *await beside_batches(target, talking),
        *await resting(services, target),
        *await silent(services, avatar),
    ]


async def resting(services: Services, target: Target) -> list[Figure]:
    """Measures the processor time of sessions that nobody speaks in, less that of the services without sessions.

    What their beginnings cost is told apart.
    """
    both = services.inference, services.compositing

    async def used(seconds: float) -> tuple[float, float]:
        before, started = sum(map(cpu_seconds, both)), perf_counter()
        await asyncio.sleep(seconds)
        return sum(map(cpu_seconds, both)) - before, perf_counter() - started

    spent, passed = await used(RESTING_S / 2)
    base = spent / passed
    beginning = RESTING * START_APART_S + 1.0
    running = asyncio.create_task(load(target, Talking([], AHEAD_S, PAUSE_S), count=RESTING, seconds=RESTING_S + 2.0))
    begun, begun_in = await used(beginning)
    spent, passed = await used(RESTING_S)
    await running
    a_second = (spent / passed - base) / RESTING
    # They begin one after the other, and rest for half of that time, and for the second after it.
    at_rest = a_second * RESTING * ((begun_in - 1.0) / 2 + 1.0)
    beginnings = begun - base * begun_in - at_rest
    return [
        figure("a resting session: processor time of both services", a_second * 1000, "ms a second", at_most=RESTING_GOAL_MS),
        figure("beginning a session: processor time of both services", beginnings / RESTING * 1000, "ms"),
    ]


async def silent(services: Services, avatar: Avatar) -> list[Figure]:
    """Measures what many sessions take that show nothing while nobody speaks."""
    config = SessionRequest(config=SessionConfig(model_id=avatar.id, idle=IDLE_NONE))
    processes = services.inference, services.compositing
    opening = asyncio.Semaphore(CALLERS)

    async def begin(channel: grpc.aio.Channel) -> Any:
        async with opening:
            stub: Any = CompositingServiceStub(channel)
            call = stub.StreamComposite()
            await call.write(config)
            if not (await call.read()).HasField("started"):
                raise RuntimeError("a session did not begin")
            return call

    async def a_second() -> float:
        used, started = sum(map(cpu_seconds, processes)), perf_counter()
        await asyncio.sleep(RESTING_S)
        return (sum(map(cpu_seconds, processes)) - used) / (perf_counter() - started) * 1000

    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(services.address)) for _ in range(10)]
        calls = [await begin(channel) for channel in channels]
        memory, started = resident_mb(services), perf_counter()
        calls += await asyncio.gather(*(begin(channels[number % 10]) for number in range(SILENT)))
        seconds = perf_counter() - started
        taken = await a_second()
        name = f"{SILENT:,} sessions without idle frames that say nothing"
        figures = [
            figure(f"{name}: to begin them", seconds, "s"),
            figure(f"{name}: processor time of both services, all told", taken, "ms a second"),
            figure(f"{name}: memory of each", (resident_mb(services) - memory) / SILENT * 1000, "kB"),
        ]
        for call in calls:
            call.cancel()
    return figures


async def buffered(services: Services, target: Target, speech: Sound) -> list[Figure]:
    """Measures the memory that sessions take whose sound is pushed far ahead."""
    talking = Talking([speech], BUFFERED_S, 0.0)

    async def weighed() -> float:
        await asyncio.sleep(RESTING_S)
        return resident_mb(services)

    before = resident_mb(services)
    running = asyncio.create_task(load(target, talking, count=BUFFERED, seconds=RESTING_S))
    with_sessions = await weighed()
    await running
    return [
        figure(
            f"a session with {BUFFERED_S:g} s buffered: memory",
            (with_sessions - before) / BUFFERED,
            "MB",
            at_most=BUFFERED_GOAL_MB,
        )
    ]


def resident_mb(services: Services) -> float:
    """Returns the resident megabytes of both services."""
    pids = services.inference.pid, services.compositing.pid
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6


async def first_frames(target: Target, talking: Talking) -> list[Figure]:
    """Measures first frames of a session without a clock."""
    found = await time_first_frames(target, talking.utterances, seconds=FIRST_FRAMES_S)
    if found.first_frames is None:
        raise RuntimeError("no first frame came")
    return [
        figure("first frame, p50", found.first_frames.p50, "ms"),
        figure("first frame, p95", found.first_frames.p95, "ms", at_most=FIRST_FRAME_GOAL_MS),
    ]


async def beside_batches(target: Target, talking: Talking) -> list[Figure]:
    """Measures how far frames come after their time alone and beside a caller of batches, in turn."""
    batch_ms = await one_run_ms(target)
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(p99(await load(target, talking, count=BESIDE_SESSIONS, seconds=BESIDE_S)))
        async with batches_without_pause(target):
            beside.append(p99(await load(target, talking, count=BESIDE_SESSIONS, seconds=BESIDE_S)))
    goal = BESIDE_RATIO * median(alone) + batch_ms
    name = f"{BESIDE_SESSIONS} sessions, frames behind their time, p99"
    return [
        figure(f"{name}: alone", median(alone), "ms"),
        figure("one run of a batch", batch_ms, "ms"),
        figure(
            f"{name}: beside batch work without pause",
            median(beside),
            "ms",
            ratio=median_ratio(alone, beside),
            compared_with="alone",
            at_most=round(goal, 1),
        ),
    ]


async def one_run_ms(target: Target) -> float:
    """Returns the time of one run of the network for a batch alone."""
    async with AsyncClient(target.server) as client:
        return median([(await one_batch(client)).timings.inference_ms for _ in range(9)])


@asynccontextmanager
async def batches_without_pause(target: Target, avatar: str = AVATAR) -> AsyncIterator[None]:
    """Asks for batches again and again while the block runs."""

    async def ask() -> None:
        async with AsyncClient(target.server) as client:
            while True:
                await one_batch(client, avatar)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.result()


async def one_batch(client: AsyncClient, avatar: str = AVATAR) -> Batch:
    """Asks for a batch of frames."""
    return await client.composite(avatar, _SOUND, batch_size=BATCH, lead_in_frames=LEAD_IN)


_SOUND = speech_like(LEAD_IN + BATCH + LOOK_AHEAD)


def p99(run: LoadRun) -> float:
    """Returns how far all but one in a hundred frames were behind at most, in ms."""
    failed = [outcome.error for outcome in run.outcomes if outcome.error]
    if run.behind is None or failed:
        raise RuntimeError(f"sessions failed: {failed or 'no frame came'}")
    return run.behind.p99


async def fitting(services: Services, avatar: Avatar, target: Target, talking: Talking) -> list[Figure]:
    """Finds how many sessions fit, what a frame costs each process then, and how many frames callers of batches get."""
    await asyncio.sleep(SETTLED_S)
    frames, seconds, _ = await asyncio.to_thread(one_round, services, avatar, _SOUND)
    found = await find_fitting(target, talking, first=RAMP_FIRST, most=RAMP_MOST, seconds=RAMP_S, show=lambda count: None)
    ratio = found.fits * FRAME_RATE / (frames / seconds)
    other = f"the frames of {CALLERS} callers of batches"
    figures = [
        figure("sessions kept in real time", found.fits, "sessions", ratio=ratio, compared_with=other, at_least=SESSIONS_GOAL)
    ]
    fitted = [run for run in found.runs if run.kept == run.sessions == found.fits]
    for run in fitted[-1:]:
        spent = (*run.used.servers_s.values(), run.used.tester_s)
        for name, seconds in zip(("inference service", "compositing service", "the tester itself"), spent, strict=True):
            figures.append(figure(f"processor time of a frame then: {name}", seconds / run.frames * 1000, "ms"))
        if run.first_frames:
            figures.append(
                figure("first frame of an utterance then, the wait for the clock included, p95", run.first_frames.p95, "ms")
            )
    return figures
