"""ListModels of both services with 10,000 avatars on disk, as a client sees it, and what keeping the list current costs.

The avatars have two frames each. The first listing after a start waits until all have been read: manifest, rectangles, names of
the frames and the first of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import grpc
import psutil

from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.running import both_services, cpu_seconds
from lipsync_cli.benching import Figure
from shared_proto import compositing_pb2, inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

AVATARS = 10_000
ROUNDS = 31
QUIET_S = 10.0
GOAL_MS = 50.0
FIRST_S = 600


def run() -> list[Figure]:
    """About three minutes, most of them reading every avatar once in each service."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_avatars(root)
        with (
            both_services(root) as services,
            grpc.insecure_channel(services.address) as pictures,
            grpc.insecure_channel(services.inference_address) as mouths,
        ):
            return [
                *measured("compositing", services.compositing, listing(CompositingServiceStub(pictures), compositing_pb2)),
                *measured("inference", services.inference, listing(InferenceServiceStub(mouths), inference_pb2)),
            ]


def write_avatars(root: Path) -> None:
    """One, and copies of it; what no copy changes is the same file in all."""
    first = build_benchmark(root, "avatar-00000", frame_count=2, network="free").root
    for number in range(1, AVATARS):
        copy = shutil.copytree(first, root / f"avatar-{number:05d}", copy_function=os.link)
        for name in ("avatar.yaml", "crop_rects.json"):
            (copy / name).unlink()
            shutil.copy(first / name, copy / name)


def listing(stub: CompositingServiceStub | InferenceServiceStub, module: object) -> Callable[[], None]:
    """Asks for the list once."""
    request = module.ListModelsRequest()  # type: ignore[attr-defined]

    def ask() -> None:
        models = stub.ListModels(request, timeout=FIRST_S).models
        if len(models) != AVATARS or any(model.error for model in models):
            raise RuntimeError(f"{len(models)} avatars are listed, or some with an error")

    return ask


def measured(name: str, process: psutil.Process, ask: Callable[[], None]) -> list[Figure]:
    """The time of a listing, and the processor's time for each second in which nobody asks."""
    first = timed(ask)
    times = [timed(ask) for _ in range(ROUNDS)]
    before = cpu_seconds(process)
    time.sleep(QUIET_S)
    quiet = (cpu_seconds(process) - before) / QUIET_S
    return [
        {
            "name": f"{name}: ListModels, {AVATARS:,} avatars",
            "value": median(times),
            "unit": "ms",
            "goal": f"<= {GOAL_MS:g} ms",
            "reached": median(times) <= GOAL_MS,
        },
        {"name": f"{name}: the slowest of {ROUNDS}", "value": max(times), "unit": "ms"},
        {"name": f"{name}: the first after a start", "value": first / 1000, "unit": "s"},
        {"name": f"{name}: of each second in which nobody asks", "value": quiet * 1000, "unit": "ms"},
    ]


def timed(ask: Callable[[], None]) -> float:
    """Milliseconds."""
    started = perf_counter()
    ask()
    return (perf_counter() - started) * 1000
