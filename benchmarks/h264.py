"""Sessions with H.264 beside sessions with JPEG: processor time of a frame, rate, memory of an encoder, and how many fit.

Both services and the tester share this machine. Avatars are 1280x720: the drawn person, and one that has the grain of a camera
and a network that costs nothing; JPEG quality is 75. Sessions speak the shipped recording, pushed 500 ms ahead, with pauses of a
second. A film is `lipsync render` of the same speech. Sessions fit if no frame of any was 40 ms late and no speech stalled; the
service's own bound is lifted for that.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import SPEECH_PATH, build_demo
from avatar_tools.progress import silent
from benchmarks.figures import Figure, cpu_seconds, figure, median_ratio
from compositing_service.picture.jpeg.encoder import encode
from lipsync_cli.load.running import LoadRun, Target, find_fitting, load
from lipsync_cli.load.session import Talking
from lipsync_cli.load.speaking import Sound, utterances
from lipsync_cli.processes import Services, both_services
from lipsync_cli.recording import read_recording
from lipsync_cli.rendering import Job, render
from service_kit.h264 import H264Encoder
from shared_proto.timing import FRAME_RATE

Form = Literal["jpeg", "h264"]

GRAINY, PICTURES, QUALITY = "free", 120, 75
ENCODERS, ENCODED = 20, 12
AHEAD_S, PAUSE_S = 0.5, 1.0
SESSIONS, SECONDS, ROUNDS = 4, 4.0, 3
RATE_GOAL_MBIT = 2.0
RAMP_FIRST, RAMP_MOST, RAMP_S = 8, 64, 3.0
OUTPUTS: tuple[Form, ...] = ("jpeg", "h264")
SETTINGS = ["sessions.max_h264=1000", f"output.jpeg_quality={QUALITY}"]


def run() -> list[Figure]:
    """Measures everything. Some two minutes."""
    speech = read_recording(SPEECH_PATH).speech()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatars = [build_demo(root), build_benchmark(root, GRAINY, frame_count=PICTURES, network="free")]
        figures = [figure("memory of an encoder of 1280x720", encoder_mb(avatars[0]), "MB")]  # first: others leave room behind
        figures += [figure(f"encoding a frame of {avatar.id} on one core", encoding_ms(avatar), "ms") for avatar in avatars]
        with both_services(root, inference=["limits.admit_sessions=all"], compositing=SETTINGS) as services:
            return [*figures, *films(services, root), *asyncio.run(measured(services, avatars, speech))]


def encoding_ms(avatar: Avatar) -> float:
    """Returns the processor time of a frame of the avatar's clip, from its JPEG file to its access unit."""
    files = [jpeg_of(avatar, index) for index in range(PICTURES)]
    times = []
    for _ in range(ROUNDS):
        encoder = H264Encoder(QUALITY)
        encoder.encode(files[0], key=True)
        started = time.thread_time()
        for jpeg in files[1:]:
            encoder.encode(jpeg, key=False)
        times.append((time.thread_time() - started) / (PICTURES - 1) * 1000)
    return median(times)


def encoder_mb(avatar: Avatar) -> float:
    """Returns the resident megabytes that each of many encoders takes in the middle of its stream.

    They are many, and none ends before all were measured: what a process gives back and takes again is more than one has.
    """
    files = [jpeg_of(avatar, index) for index in range(ENCODED)]
    process = psutil.Process()
    kept = [_encoding(files)]
    before = process.memory_info().rss
    kept += [_encoding(files) for _ in range(ENCODERS)]
    return float((process.memory_info().rss - before) / ENCODERS / 1e6)


def _encoding(files: list[bytes]) -> H264Encoder:
    encoder = H264Encoder(QUALITY)
    for jpeg in files:
        encoder.encode(jpeg, key=False)
    return encoder


def jpeg_of(avatar: Avatar, index: int) -> bytes:
    """Returns a picture of the clip as the service keeps it."""
    return encode(avatar.read_frame(index), quality=QUALITY, restart_interval=0).tobytes()


def films(services: Services, root: Path) -> list[Figure]:
    """Measures `lipsync render` of the shipped speech with the drawn person in both forms, in turn."""
    spent: dict[Form, list[float]] = {output: [] for output in OUTPUTS}
    seconds: dict[Form, list[float]] = {output: [] for output in OUTPUTS}
    for _ in range(ROUNDS + 1):
        for output in OUTPUTS:
            job = Job("demo", SPEECH_PATH, root / f"{output}.mp4", server=services.address, output=output)
            before = all_seconds(services)
            seconds[output].append(render(job, silent).seconds)
            spent[output].append(all_seconds(services) - before)
    return [
        part
        for name, values, unit in (("time", seconds, "s"), ("processor time of all", spent, "s"))
        for part in (
            figure(f"a film of {SPEECH_PATH.name} from JPEG: {name}", median(values["jpeg"][1:]), unit),
            figure(
                f"a film of {SPEECH_PATH.name} from H.264: {name}",
                median(values["h264"][1:]),
                unit,
                ratio=median_ratio(values["jpeg"][1:], values["h264"][1:]),
                compared_with="JPEG",
            ),
        )
    ]


def all_seconds(services: Services) -> float:
    """Returns the processor time of both services and of this process."""
    own = psutil.Process().cpu_times()
    return sum(map(cpu_seconds, (services.inference, services.compositing))) + own.user + own.system


async def measured(services: Services, avatars: Iterable[Avatar], speech: Sound) -> list[Figure]:
    """Measures services that are ready."""
    figures = []
    for avatar in avatars:
        figures += await compared(services, avatar, speech)
    target = Target(services.address, [GRAINY], output="h264")
    found = await find_fitting(target, talking(speech), first=RAMP_FIRST, most=RAMP_MOST, seconds=RAMP_S, show=lambda count: None)
    return [*figures, figure("sessions with H.264 kept in real time", found.fits, "sessions")]


def talking(speech: Sound) -> Talking:
    """Returns the sound of the sessions."""
    return Talking(utterances(speech), AHEAD_S, PAUSE_S)


async def compared(services: Services, avatar: Avatar, speech: Sound) -> list[Figure]:
    """Measures sessions of one avatar in both forms, in turn."""
    pid = services.compositing.pid
    runs: dict[Form, list[LoadRun]] = {output: [] for output in OUTPUTS}
    targets = {output: Target(services.address, [avatar.id], server_pids=[pid], output=output) for output in OUTPUTS}
    await load(targets["jpeg"], talking(speech), count=1, seconds=PICTURES / FRAME_RATE)  # each picture is encoded as JPEG once
    for output in OUTPUTS * ROUNDS:
        runs[output].append(await load(targets[output], talking(speech), count=SESSIONS, seconds=SECONDS))
    cost = {output: median(cost_ms(run) for run in each) for output, each in runs.items()}
    rate = {output: median(run.megabits_a_second for run in each) for output, each in runs.items()}
    name = f"{SESSIONS} sessions with {avatar.id}"
    return [
        figure(f"{name}, JPEG: processor time of the compositing service a frame", cost["jpeg"], "ms"),
        figure(f"{name}, H.264: processor time of the compositing service a frame", cost["h264"], "ms"),
        figure(f"{name}, H.264: sessions a core of the compositing service", 1000 / FRAME_RATE / cost["h264"], "sessions"),
        figure(f"{name}, JPEG: frames behind their time, p99", median(behind_p99_ms(run) for run in runs["jpeg"]), "ms"),
        figure(f"{name}, H.264: frames behind their time, p99", median(behind_p99_ms(run) for run in runs["h264"]), "ms"),
        figure(f"{name}, JPEG: rate of a viewer", rate["jpeg"], "Mbit/s"),
        figure(
            f"{name}, H.264: rate of a viewer",
            rate["h264"],
            "Mbit/s",
            ratio=rate["jpeg"] / rate["h264"],
            compared_with="JPEG",
            at_most=RATE_GOAL_MBIT,
        ),
    ]


def cost_ms(run: LoadRun) -> float:
    """Returns the processor time of the compositing service a frame. Raises RuntimeError where sessions failed."""
    if errors := [outcome.error for outcome in run.outcomes if outcome.error]:
        raise RuntimeError(f"sessions failed: {errors}")
    (spent_s,) = run.used.servers_s.values()
    return spent_s / run.frames * 1000


def behind_p99_ms(run: LoadRun) -> float:
    """Returns how far all but one in a hundred frames were behind at most."""
    assert run.behind
    return run.behind.p99
