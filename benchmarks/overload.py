"""Live sessions at twice the capacity: those that run stay in time, and as much is shown as at the capacity.

Both services and the load tester share this machine. The network is a convolution of the whole picture, which takes about as long
as the rest of a frame. Sessions speak the shipped recording, pushed 500 ms ahead, with pauses of a second. The capacity is the
number of sessions that are admitted of many more. Then twice as many ask for a place, beside a caller of batches without pause:
first none may be halved, then all may. Goodput is the frames a second that came within 40 ms of their time, against those at the
capacity.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from avatar_kit.geometry import MOUTH_SIZE
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import SPEECH_PATH
from avatar_tools.networks.graph import BATCH as ANY
from avatar_tools.networks.graph import Graph
from avatar_tools.networks.unet import AUDIO, OUTPUT, VISUAL
from benchmarks.figures import Figure, figure
from benchmarks.live import AHEAD_S, PAUSE_S, batches_without_pause
from lipsync_cli.load.arrivals import LATE_MS
from lipsync_cli.load.running import LoadRun, Target, load
from lipsync_cli.load.session import Talking
from lipsync_cli.load.speaking import utterances
from lipsync_cli.processes import both_services
from lipsync_cli.recording import read_recording

AVATAR, PICTURES = "costly", 60
FEW, MANY, SECONDS = 4, 60, 6.0
GOODPUT_GOAL = 90.0
# The level of one measurement must not be that of the next.
PAUSE_BETWEEN_S = 12.0


def run() -> list[Figure]:
    """Measures everything. Some two minutes."""
    talking = Talking(utterances(read_recording(SPEECH_PATH).speech()), AHEAD_S, PAUSE_S)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatar = build_benchmark(root, AVATAR, frame_count=PICTURES, network="free")
        avatar.network_path.write_bytes(costly_network().SerializeToString())
        with both_services(root, inference=["limits.admit_sessions=measured"]) as services:
            return asyncio.run(measured(Target(services.address, [AVATAR]), talking))


def costly_network() -> onnx.ModelProto:
    """Returns a convolution of the whole picture, and the mean of the sound: a millisecond or two a frame."""
    generator, graph = np.random.default_rng(6), Graph()
    pictures = graph.input(VISUAL, [ANY, 6, MOUTH_SIZE, MOUTH_SIZE])
    mean = graph.node("ReduceMean", graph.input(AUDIO, [ANY, 32, 16, 16]), axes=[1, 2, 3], keepdims=1)
    weights = graph.constant(generator.normal(0, 0.05, (3, 6, 3, 3)).astype(np.float32), "weights")
    convolved = graph.node("Conv", pictures, weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    mouth = graph.node("Sigmoid", graph.node("Add", convolved, mean))
    return graph.model("costly_network", {OUTPUT: (mouth, [ANY, 3, MOUTH_SIZE, MOUTH_SIZE])})


async def measured(target: Target, talking: Talking) -> list[Figure]:
    """Measures services that are ready."""
    await apart(target, talking, FEW)  # each picture is shown once before anything is measured
    unloaded = await apart(target, talking, FEW)
    full = await apart(target, talking, MANY)
    capacity = admitted(full)
    figures = [
        figure(f"{FEW} sessions: frames behind their time, p99", p99(unloaded), "ms"),
        figure(f"sessions admitted of {MANY}", capacity, "sessions"),
        figure("at the capacity: frames behind their time, p99", p99(full), "ms"),
    ]
    for name, each in (("none may be halved", talking), ("all may be halved", replace(talking, allow_half_rate=True))):
        async with batches_without_pause(target, AVATAR):
            crowd = await load(target, each, count=2 * capacity, seconds=SECONDS)
        await asyncio.sleep(PAUSE_BETWEEN_S)
        goodput = 100 * in_time_a_second(crowd) / in_time_a_second(full)
        before = f"twice the capacity, {name}"
        figures += [
            figure(f"{before}: sessions admitted of {2 * capacity}", admitted(crowd), "sessions"),
            figure(f"{before}: goodput", goodput, "%", at_least=GOODPUT_GOAL),
        ]
        if admitted(crowd):
            behind = figure(
                f"{before}: frames behind their time, p99",
                p99(crowd),
                "ms",
                ratio=p99(unloaded) / p99(crowd),
                compared_with=f"{FEW} sessions alone",
                at_most=LATE_MS,
            )
            figures.append(behind)
    return figures


async def apart(target: Target, talking: Talking, count: int) -> LoadRun:
    """Runs sessions, and waits until nothing is known of them any more."""
    run = await load(target, talking, count=count, seconds=SECONDS)
    await asyncio.sleep(PAUSE_BETWEEN_S)
    return run


def admitted(run: LoadRun) -> int:
    """Counts the sessions that were not refused. Raises RuntimeError when one of them failed."""
    failed = [outcome.error for outcome in run.outcomes if outcome.started and outcome.error]
    if failed:
        raise RuntimeError(f"admitted sessions failed: {failed}")
    return sum(outcome.started for outcome in run.outcomes)


def in_time_a_second(run: LoadRun) -> float:
    """Counts the frames of all sessions that came in time."""
    return float((run.behind_ms < LATE_MS).sum()) / run.seconds


def p99(run: LoadRun) -> float:
    """Returns how far all but one in a hundred frames of the admitted sessions were behind at most, in ms."""
    if run.behind is None:
        raise RuntimeError(f"no session was admitted: {run.outcomes[0].error}")
    return run.behind.p99
