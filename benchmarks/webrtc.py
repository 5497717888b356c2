"""The gateway's WebRTC: what a session of 1280x720 costs it that one viewer or more watch, and how much later they see it.

The demo rests; its services are another process, and so are the viewers, which take packets and decode none. Costs are processor
time of the gateway. All processes share this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, figure
from benchmarks.one_process import demo_served
from benchmarks.webrtc_viewers import Seen
from lipsync_cli.processes import LOOPBACK, ServiceProcess, serve_command

COUNTS, SECONDS, ROUNDS = (0, 1, 3, 6), 4.0, 3
VIEWERS_S = 60.0


def run() -> list[Figure]:
    """Measures everything. About two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with demo_served(logs) as upstream:
            settings = [*LOOPBACK, f"compositing_server.url={upstream}"]
            with ServiceProcess("gateway", serve_command("gateway", settings), log=logs / "gateway.log") as gateway:
                address = gateway.wait_ready()
                rounds = [[seen(address, count, gateway.pid) for count in COUNTS] for _ in range(ROUNDS)]
    return figures(rounds)


def seen(address: str, count: int, pid: int) -> Seen:
    """Runs viewers in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.webrtc_viewers", address, str(count), str(SECONDS), str(pid)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=VIEWERS_S)
    return Seen(**json.loads(done.stdout))


def figures(rounds: list[list[Seen]]) -> list[Figure]:
    """Takes medians over the rounds. Costs are shares of one core."""
    nobody, one, _, six = zip(*rounds, strict=True)

    def core(each: tuple[Seen, ...]) -> float:
        return median(100 * viewers.server_s / SECONDS for viewers in each)

    further = (core(six) - core(one)) / (COUNTS[-1] - 1)
    return [
        figure("a session that nobody watches: of a core", core(nobody), "%"),
        figure("the first viewer: of a core more", core(one) - core(nobody), "%"),
        figure("each further viewer: of a core more", further, "%"),
        figure("6 viewers: pictures that came", median(viewers.pictures for viewers in six) / SECONDS, "pictures/s"),
        figure("rate of a viewer", median(viewers.sent_mbit for viewers in one), "Mbit/s"),
        figure("a picture later than its frame by WebSocket, p50", median(viewers.added_p50_ms for viewers in one), "ms"),
        figure("a picture later than its frame by WebSocket, p95", median(viewers.added_p95_ms for viewers in one), "ms"),
    ]
