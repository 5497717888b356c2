"""The adapters for Pipecat and LiveKit: processor time of a session of 1280x720 in their process, and the delay that they add.

A session speaks and rests by turns; the services are another process of the same machine. An adapter decodes pictures, brings
them together with the sound, and gives them to the framework; what that does with them is not measured. LiveKit's adapter keeps
each picture until the next one comes, so its delay is 40 ms more than is told here. Without the environment of the adapters,
`.venv-adapters`, there are no figures.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from avatar_tools.demo import SPEECH_PATH
from benchmarks.figures import Figure, figure
from benchmarks.one_process import demo_served

TREE = Path(__file__).resolve().parents[1]
PYTHON = TREE / ".venv-adapters/bin/python"
KINDS = ("pipecat", "livekit")
PROCESS_S = 90.0


@dataclass(frozen=True)
class Carried:
    """One adapter's session."""

    core_share: float
    """Processor time of its process a second."""
    added_p50_ms: float
    """From a frame at the client to its picture at the framework."""
    added_p95_ms: float


def run() -> list[Figure]:
    """Measures everything. Some forty seconds."""
    if not PYTHON.exists():
        return []
    with tempfile.TemporaryDirectory() as folder, demo_served(Path(folder)) as address:
        return [each for kind in KINDS for each in figures(kind, carried(kind, address))]


def carried(kind: str, address: str) -> Carried:
    """Runs a session in a process of the adapters' environment."""
    command = [str(PYTHON), "-m", f"benchmarks.adapter_sessions.{kind}_session", address, str(SPEECH_PATH)]
    done = subprocess.run(command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=PROCESS_S)
    return Carried(**json.loads(done.stdout.splitlines()[-1]))


def figures(kind: str, seen: Carried) -> list[Figure]:
    """Names what was measured."""
    return [
        figure(f"a session in {kind}: of a core", 100 * seen.core_share, "%"),
        figure(f"a picture at {kind} later than its frame at the client, p50", seen.added_p50_ms, "ms"),
        figure(f"a picture at {kind} later than its frame at the client, p95", seen.added_p95_ms, "ms"),
    ]
