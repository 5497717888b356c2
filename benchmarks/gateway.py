"""The gateway before a service that hands out stored frames: what a frame costs it, and how much later it comes.

Viewers hold WebSockets of their own, in a process of its own, and get 25 frames a second, 65 kB each. In turn, as many take the
same frames with the client straight from the service. Added is what the gateway's 95th percentile exceeds theirs by. All
processes share this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, figure
from benchmarks.frame_source import NAME
from benchmarks.viewers import Seen
from lipsync_cli.processes import LOOPBACK, ServiceProcess, serve_command

VIEWERS, SECONDS, ROUNDS = 40, 4.0, 5
COST_GOAL_MS, ADDED_GOAL_MS = 0.15, 5.0
VIEWER_S = 60.0


def run() -> list[Figure]:
    """Measures everything. About a minute and a half."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        command = [sys.executable, "-m", "benchmarks.frame_source"]
        with ServiceProcess(NAME, command, log=logs / "source.log") as source:
            upstream = source.wait_ready()
            settings = [*LOOPBACK, f"compositing_server.url={upstream}"]
            with ServiceProcess("gateway", serve_command("gateway", settings), log=logs / "gateway.log") as gateway:
                address = gateway.wait_ready()
                rounds = [(seen("grpc", upstream), seen("ws", address, gateway.pid)) for _ in range(ROUNDS)]
    return figures(rounds)


def seen(way: str, address: str, pid: int = 0) -> Seen:
    """Runs viewers in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.viewers", way, address, str(VIEWERS), str(SECONDS), str(pid)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=VIEWER_S)
    return Seen(**json.loads(done.stdout))


def figures(rounds: list[tuple[Seen, Seen]]) -> list[Figure]:
    """Takes medians over the rounds."""
    direct, through = zip(*rounds, strict=True)

    def a_frame(seconds: Callable[[Seen], float], each: tuple[Seen, ...]) -> float:
        return median(1000 * seconds(one) / one.frames for one in each)

    cost_ms = a_frame(lambda one: one.server_s, through)
    client_ms = a_frame(lambda one: one.own_s, direct)
    added_ms = median(one.p95_ms - other.p95_ms for other, one in rounds)
    return [
        figure(
            f"{VIEWERS} viewers: the gateway's processor time a frame",
            cost_ms,
            "ms",
            ratio=client_ms / cost_ms,
            compared_with="a program that takes the frames with the client",
            at_most=COST_GOAL_MS,
        ),
        figure("added to a frame's way by the gateway, p95", added_ms, "ms", at_most=ADDED_GOAL_MS),
        figure("a frame's way over the gateway, p50", median(one.p50_ms for one in through), "ms"),
        figure("a frame's way over the gateway, p95", median(one.p95_ms for one in through), "ms"),
        figure("a frame's way straight from the service, p95", median(one.p95_ms for one in direct), "ms"),
        figure("the client's processor time a frame", client_ms, "ms"),
        figure("the viewers' own processor time a frame", a_frame(lambda one: one.own_s, through), "ms"),
    ]
