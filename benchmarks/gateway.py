"""The gateway before a service that hands out stored frames: what a frame costs it, and how much later it comes.

Viewers hold WebSockets of their own, in a process of its own, and get 25 frames a second, 65 kB each. The cost is that of many
viewers: with few, threads wake for each frame alone. At the same time as a few, as many take such frames with the client straight
from the service; added is what the gateway's percentile exceeds theirs by. All processes share this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, figure
from benchmarks.frame_source import NAME
from benchmarks.viewers import Seen
from lipsync_cli.processes import LOOPBACK, ServiceProcess, serve_command

MANY, FEW, SECONDS, ROUNDS = 200, 40, 4.0, 3
COST_GOAL_MS, ADDED_GOAL_MS = 0.15, 5.0
VIEWER_S = 60.0


def run() -> list[Figure]:
    """Measures everything. About a minute."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        command = [sys.executable, "-m", "benchmarks.frame_source"]
        with ServiceProcess(NAME, command, log=logs / "source.log") as source:
            upstream = source.wait_ready()
            settings = [*LOOPBACK, f"compositing_server.url={upstream}"]
            with ServiceProcess("gateway", serve_command("gateway", settings), log=logs / "gateway.log") as gateway:
                address = gateway.wait_ready()
                crowds = [seen("ws", address, MANY, gateway.pid) for _ in range(ROUNDS)]
                pairs = [beside(upstream, address, gateway.pid) for _ in range(ROUNDS)]
    return figures(crowds, pairs)


def beside(upstream: str, address: str, pid: int) -> tuple[Seen, Seen]:
    """Runs viewers straight from the service, and beside them those over the gateway."""
    with ThreadPoolExecutor() as threads:
        direct = threads.submit(seen, "grpc", upstream, FEW)
        through = threads.submit(seen, "ws", address, FEW, pid)
        return direct.result(), through.result()


def seen(way: str, address: str, count: int, pid: int = 0) -> Seen:
    """Runs viewers in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.viewers", way, address, str(count), str(SECONDS), str(pid)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=VIEWER_S)
    return Seen(**json.loads(done.stdout))


def figures(crowds: list[Seen], pairs: list[tuple[Seen, Seen]]) -> list[Figure]:
    """Takes medians over the rounds."""
    direct, through = zip(*pairs, strict=True)

    def a_frame(seconds: Callable[[Seen], float], each: Iterable[Seen]) -> float:
        return median(1000 * seconds(one) / one.frames for one in each)

    def added(percentile: Callable[[Seen], float]) -> float:
        return median(percentile(one) - percentile(other) for other, one in pairs)

    of_server, of_viewers = attrgetter("server_s"), attrgetter("own_s")
    of_p50, of_p95 = attrgetter("p50_ms"), attrgetter("p95_ms")
    few_ms, client_ms = a_frame(of_server, through), a_frame(of_viewers, direct)
    return [
        figure(f"{MANY} viewers: the gateway's processor time a frame", a_frame(of_server, crowds), "ms", at_most=COST_GOAL_MS),
        figure(f"{MANY} viewers: frames that came", median(one.frames / SECONDS for one in crowds), "frames/s"),
        figure(f"{MANY} viewers: a frame's way, p95", median(map(of_p95, crowds)), "ms"),
        figure(f"{MANY} viewers: their own processor time a frame", a_frame(of_viewers, crowds), "ms"),
        figure(
            f"{FEW} viewers: the gateway's processor time a frame",
            few_ms,
            "ms",
            ratio=client_ms / few_ms,
            compared_with="a program that takes the frames with the client",
        ),
        figure(f"{FEW} viewers: added to a frame's way by the gateway, p50", added(of_p50), "ms"),
        figure(f"{FEW} viewers: added to a frame's way by the gateway, p95", added(of_p95), "ms", at_most=ADDED_GOAL_MS),
        figure(f"{FEW} viewers: a frame's way over the gateway, p95", median(map(of_p95, through)), "ms"),
    ]
