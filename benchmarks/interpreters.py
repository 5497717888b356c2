"""Both services in a Python that was compiled with optimisations against one that was not: frames a second and processor time.

A Python compiled from source without `--enable-optimizations`, as pyenv does by default, is slower than those of distributions
and of container images. Both run the same packages in turn, as in the benchmark `services`: eight callers, batches of 24 and a
network that costs nothing. Another Python of the same version must be on the machine; without one there are no figures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import cv2

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.figures import Figure, figure, median_ratio
from benchmarks.services import FRAMES, IN_FLOAT32, one_round, speech, warm_up
from lipsync_cli.processes import both_services

TREE = Path(__file__).resolve().parents[1]
ROUNDS = 8
_OPTIMISED = "from lipsync_cli.machine import python_is_optimised; print(python_is_optimised())"

Round = tuple[float, float, float]
"""Frames a second, and the milliseconds of processor time that a frame takes in inference and in compositing."""


def run() -> list[Figure]:
    """Measures both. About two minutes."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with same_packages(), tempfile.TemporaryDirectory() as folder:
            pythons = {is_optimised(python): python for python in candidates()}
            if len(pythons) < 2:
                return []
            avatar = build_benchmark(Path(folder), "free", frame_count=FRAMES, network="free")
            rounds: dict[bool, list[Round]] = {True: [], False: []}
            for _ in range(ROUNDS):
                for optimised, python in pythons.items():
                    rounds[optimised].append(round_of(python, avatar, Path(folder)))
            return figures(rounds[True], rounds[False])
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def same_packages() -> Iterator[None]:
    """Lets every Python that is started in the block find this one's packages."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TREE), *(path for path in sys.path if path.endswith("site-packages"))])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def candidates() -> list[str]:
    """Returns this Python, and those of its version on the path and where distributions keep theirs."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [shutil.which(name, path=folder) for folder in (*os.get_exec_path(), "/usr/bin", "/usr/local/bin")]
    return list(dict.fromkeys([sys.executable, *filter(None, found)]))


def is_optimised(python: str) -> bool:
    """Asks a Python how it was compiled."""
    return subprocess.run([python, "-c", _OPTIMISED], check=True, capture_output=True, text=True).stdout.strip() == "True"


def round_of(python: str, avatar: Avatar, root: Path) -> Round:
    """Measures fresh services once."""
    with both_services(root, inference=IN_FLOAT32, python=python) as services:
        sound = speech()
        warm_up(services, avatar, sound)
        frames, seconds, (inference, compositing, _) = one_round(services, avatar, sound)
    return frames / seconds, inference / frames * 1000, compositing / frames * 1000


def figures(optimised: list[Round], plain: list[Round]) -> list[Figure]:
    """Sums the rounds up."""
    names = (
        "both services, 8 callers",
        "processor time of a frame: inference service",
        "processor time of a frame: compositing service",
    )
    made = []
    for place, name in enumerate(names):
        quick, slow = ([each[place] for each in rounds] for rounds in (optimised, plain))
        ratio = median_ratio(quick, slow) if place == 0 else median_ratio(slow, quick)
        unit = "frames/s" if place == 0 else "ms"
        made += [
            figure(f"{name}: compiled with optimisations", median(quick), unit, ratio=ratio, compared_with="without"),
            figure(f"{name}: without", median(slow), unit),
        ]
    return made
