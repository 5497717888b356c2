"""Two services against one process that does the same, and the frames a second that both services make for many callers.

The first compares the time of 24 frames with sound: through client, compositing and inference service on loopback, and by calling
the same code in this process, with as many threads. The second has a network that costs next to nothing, eight callers and
batches of 24; the callers' process shares the machine's cores with both services. In turn with these rounds this process splices
alone: on two threads with mouths that it resizes, the measure for the frames a second of all together, and on one thread with
mouths that come in their rectangles' sizes, the measure for the compositing service's processor time. The hop is between the two
services. Bare gRPC is two processes that send messages of the same sizes and do nothing else, in the same turns: the part of each
figure that the library takes.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple, TypeAlias

import cv2
import grpc
import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import build_demo
from benchmarks.bare_grpc import BareServices, bare_services
from benchmarks.figures import Figure, cpu_seconds, figure, median_ratio
from benchmarks.splicing import SplicedAlone
from compositing_service.mouth_source import FITS
from lipsync_cli.processes import ServiceProcess, Services, both_services
from lipsync_client import Client
from monolithic_service.speaker import Speaker
from shared_proto import inference_pb2

BATCH = 24
LEAD_IN, LOOK_AHEAD = 10, 12
FRAMES = 120
QUALITY = 75
PAIRS = 31
CALLERS = 8
ROUND_S = 4.0
ROUNDS = 4
# As this process computes, so that both ways give the same bytes.
IN_FLOAT32 = ("precision=float32",)
DEMO, FREE = "demo network", "network that costs nothing"
EXTRA_GOAL_MS = {DEMO: 8.0, FREE: 6.0}
RATE_GOAL, HOP_GOAL_KB = 0.40, 105.0
INFERENCE_GOAL_MS, COMPOSITING_GOAL_MS, OF_SPLICING_GOAL = 0.35, 0.40, 1.4
BOTH_CORES = "splicing alone on both cores"


def run() -> list[Figure]:
    """Measures both. About a minute."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            free = build_benchmark(root, "free", frame_count=FRAMES, network="free")
            demo = build_demo(root)
            with both_services(root, inference=IN_FLOAT32) as services:
                warm_up(services, free, speech())
                hop, parts = hop_figure(services, free)
                with bare_services(root, parts=parts, reply=reply_bytes(services, free)) as bare:
                    return [
                        *two_against_one(services, bare, demo, root, DEMO),
                        *two_against_one(services, bare, free, root, FREE),
                        *throughput(services, bare, free),
                        hop,
                    ]
    finally:
        cv2.setNumThreads(threads)


def two_against_one(services: Services, bare: BareServices, avatar: Avatar, root: Path, what: str) -> list[Figure]:
    """Measures 24 frames, the ways in turn, and the median of each turn's difference."""
    sound = speech()
    request = sound.tobytes()
    speaker = Speaker(avatar, AvatarCatalog(root))
    with Client(services.address) as client, bare.calls() as messages:

        def through_services() -> list[bytes]:
            return list(client.composite(avatar.id, sound, batch_size=BATCH, lead_in_frames=LEAD_IN, quality=QUALITY).frames)

        def in_this_process() -> list[bytes]:
            return list(speaker.jpegs(sound, range(BATCH), first=LEAD_IN, quality=QUALITY))

        if through_services() != in_this_process():
            raise RuntimeError("the two ways do not give the same bytes")
        turns = [(timed(through_services), timed(in_this_process), timed(lambda: messages.call(request))) for _ in range(PAIRS)]
    title = f"{BATCH} frames, {what}"
    extra = median(two - one for two, one, _ in turns)
    figures = [
        figure(f"{title}: two services", median(two for two, _, _ in turns), "ms"),
        figure(f"{title}: one process", median(one for _, one, _ in turns), "ms"),
        figure(f"{title}: extra time of two services", extra, "ms", at_most=EXTRA_GOAL_MS[what]),
    ]
    if what == FREE:
        figures.append(figure(f"{title}: bare gRPC", median(bare for _, _, bare in turns), "ms"))
    return figures


def timed(way: Callable[[], object]) -> float:
    """Returns the milliseconds of one call."""
    started = perf_counter()
    way()
    return (perf_counter() - started) * 1000


class Round(NamedTuple):
    """The figures of one round. All but the rates are milliseconds a frame, those of processes of processor time."""

    rate: float
    inference: float
    compositing: float
    callers: float
    spliced_rate: float
    spliced: float
    bare_inner: float
    bare_outer: float


def throughput(services: Services, bare: BareServices, avatar: Avatar) -> list[Figure]:
    """Measures frames a second for all callers together, the processor time of each process, and splicing alone."""
    alone = SplicedAlone(avatar)
    alone.frames_a_second()  # to warm it up
    return throughput_figures([whole_round(services, bare, avatar, alone) for _ in range(ROUNDS)])


def warm_up(services: Services, avatar: Avatar, sound: NDArray[np.float32]) -> None:
    """Has every frame of the avatar made once."""
    with Client(services.address) as client:
        client.load(avatar.id)
        for start in range(0, avatar.frame_count, BATCH):
            client.composite(avatar.id, sound, batch_size=BATCH, start_frame=start, lead_in_frames=LEAD_IN)


def throughput_figures(rounds: Sequence[Round]) -> list[Figure]:
    """Sums the rounds up."""

    def column(name: str) -> list[float]:
        return [getattr(each, name) for each in rounds]

    def spent(name: str, *, at_most: float | None = None) -> Figure:
        values = column(name.removesuffix(" service"))
        return figure(f"processor time of a frame: {name}", median(values), "ms", at_most=at_most)

    both = f"both services, {CALLERS} callers (quickest round {max(column('rate')):.0f})"
    of_alone = median_ratio(column("rate"), column("spliced_rate"))
    of_splicing = median_ratio(column("compositing"), column("spliced"))
    return [
        figure(both, median(column("rate")), "frames/s", ratio=of_alone, compared_with=BOTH_CORES, ratio_at_least=RATE_GOAL),
        figure(BOTH_CORES, median(column("spliced_rate")), "frames/s"),
        spent("inference service", at_most=INFERENCE_GOAL_MS),
        spent("compositing service", at_most=COMPOSITING_GOAL_MS),
        figure("the compositing service's against its splicing alone", of_splicing, "times", at_most=OF_SPLICING_GOAL),
        figure("splicing alone, mouths of the rectangles' sizes", median(column("spliced")), "ms"),
        spent("callers"),
        figure("processor time of a frame: bare gRPC, the inference service's messages", median(column("bare_inner")), "ms"),
        figure("processor time of a frame: bare gRPC, the compositing service's messages", median(column("bare_outer")), "ms"),
    ]


def whole_round(services: Services, bare: BareServices, avatar: Avatar, alone: SplicedAlone) -> Round:
    """Measures everything once."""
    frames, seconds, spent = one_round(services, avatar, speech())
    inference, compositing, callers = (each / frames * 1000 for each in spent)
    passed, _, (inner, outer, _) = bare_round(bare, speech().tobytes())
    inner_ms, outer_ms = inner / passed * 1000, outer / passed * 1000
    alone_rate, alone_ms = alone.frames_a_second(), alone.ms_a_frame()
    return Round(frames / seconds, inference, compositing, callers, alone_rate, alone_ms, inner_ms, outer_ms)


Spent: TypeAlias = tuple[int, float, tuple[float, float, float]]
"""Frames made, seconds taken, and processor seconds of the inner process or service, of the outer one, and of the callers."""
Caller: TypeAlias = Callable[[int], AbstractContextManager[Callable[[], object]]]
"""Opens the connection of a caller by its number, and gives what it calls again and again, for BATCH frames each."""


def one_round(services: Services, avatar: Avatar, sound: NDArray[np.float32]) -> Spent:
    """Lets all callers ask both services for frames for a while."""

    @contextmanager
    def caller(number: int) -> Iterator[Callable[[], object]]:
        positions = count(number * BATCH, BATCH)
        with Client(services.address) as client:
            yield lambda: client.composite(
                avatar.id, sound, batch_size=BATCH, start_frame=next(positions), lead_in_frames=LEAD_IN
            )

    return loaded(services.inference, services.compositing, caller)


def bare_round(bare: BareServices, request: bytes) -> Spent:
    """Lets all callers send messages through the bare processes for a while."""

    @contextmanager
    def caller(_: int) -> Iterator[Callable[[], object]]:
        with bare.calls() as messages:
            yield lambda: messages.call(request)

    return loaded(bare.inner, bare.outer, caller)


def loaded(inner: ServiceProcess, outer: ServiceProcess, caller: Caller) -> Spent:
    """Measures both processes under the load of all callers."""
    made = [0] * CALLERS

    def spent() -> tuple[float, float, float]:
        return cpu_seconds(inner), cpu_seconds(outer), process_time()

    def work(number: int, until: float) -> None:
        with caller(number) as call:
            while perf_counter() < until:
                call()
                made[number] += BATCH

    before, started = spent(), perf_counter()
    callers = [threading.Thread(target=work, args=(number, started + ROUND_S)) for number in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    seconds = perf_counter() - started
    inner_s, outer_s, callers_s = (after - earlier for after, earlier in zip(spent(), before, strict=True))
    return sum(made), seconds, (inner_s, outer_s, callers_s)


def hop_figure(services: Services, avatar: Avatar) -> tuple[Figure, list[int]]:
    """Counts the bytes of a mouth between the services, as the compositing service orders it, and of each message of a batch."""
    request = inference_pb2.InferBatchRequest(
        model_id=avatar.id,
        batch_size=BATCH,
        frame_indices=range(BATCH),
        raw_audio=speech_like(BATCH).tobytes(),
        audio_encoding=inference_pb2.PCM_FLOAT32,
        mouth_format=inference_pb2.UINT8_BGR,
        mouth_fit=FITS[avatar.paste],
    )
    with grpc.insecure_channel(services.inference_address) as channel:
        call: Any = channel.unary_stream("/inference.InferenceService/InferStream", None, None)
        parts = [len(message) for message in call(request.SerializeToString())]
    widths = [rect.width for rect in avatar.rects[:BATCH]]
    name = f"bytes of a frame on the hop, rectangles {min(widths)} to {max(widths)} pixels wide"
    return figure(name, sum(parts) / BATCH / 1000, "KB", at_most=HOP_GOAL_KB), parts


def reply_bytes(services: Services, avatar: Avatar) -> int:
    """Counts the bytes of a batch's pictures."""
    with Client(services.address) as client:
        return sum(map(len, client.composite(avatar.id, speech(), batch_size=BATCH, lead_in_frames=LEAD_IN).frames))


def speech() -> NDArray[np.float32]:
    """Makes the sound of a batch, with what its mouths need before and after."""
    return speech_like(LEAD_IN + BATCH + LOOK_AHEAD)


def speech_like(frames: int) -> NDArray[np.float32]:
    """Makes `frames` frames of noise at a speaker's level, so that no row is silence."""
    return np.random.default_rng(4).normal(0, 0.1, frames * 640).astype(np.float32)
