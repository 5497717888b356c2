"""ListModels of both services with 10,000 avatars on disk, as a client sees it, and the cost of keeping the list current.

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

from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.figures import Figure, cpu_seconds, figure
from lipsync_cli.processes import ServiceProcess, both_services
from shared_proto import compositing_pb2, inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

AVATARS = 10_000
ROUNDS = 31
QUIET_S = 10.0
GOAL_MS = 50.0
FIRST_S = 600


def run() -> list[Figure]:
    """Measures both services. About three minutes, mostly for reading every avatar once in each service."""
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
    """Writes one avatar and links or copies its files to the others."""
    first = build_benchmark(root, "avatar-00000", frame_count=2, network="free").root
    for number in range(1, AVATARS):
        copy = shutil.copytree(first, root / f"avatar-{number:05d}", copy_function=os.link)
        for name in ("avatar.yaml", "crop_rects.json"):
            (copy / name).unlink()
            shutil.copy(first / name, copy / name)


def listing(stub: CompositingServiceStub | InferenceServiceStub, module: object) -> Callable[[], None]:
    """Returns a function that asks for the list once."""
    request = module.ListModelsRequest()  # type: ignore[attr-defined]

    def ask() -> None:
        models = stub.ListModels(request, timeout=FIRST_S).models
        if len(models) != AVATARS or any(model.error for model in models):
            raise RuntimeError(f"{len(models)} avatars are listed, or some with an error")

    return ask


def measured(name: str, process: ServiceProcess, ask: Callable[[], None]) -> list[Figure]:
    """Measures the time of a listing, and the processor time of a second without requests."""
    first = timed(ask)
    times = [timed(ask) for _ in range(ROUNDS)]
    before = cpu_seconds(process)
    time.sleep(QUIET_S)
    quiet = (cpu_seconds(process) - before) / QUIET_S
    return [
        figure(f"{name}: ListModels, {AVATARS:,} avatars", median(times), "ms", at_most=GOAL_MS),
        figure(f"{name}: the slowest of {ROUNDS}", max(times), "ms"),
        figure(f"{name}: the first after a start", first / 1000, "s"),
        figure(f"{name}: of each second in which nobody asks", quiet * 1000, "ms"),
    ]


def timed(ask: Callable[[], None]) -> float:
    """Returns milliseconds."""
    started = perf_counter()
    ask()
    return (perf_counter() - started) * 1000
