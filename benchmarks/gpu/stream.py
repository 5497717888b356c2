"""Live sessions on both services with the full-size network on the GPU: a few, then as many as fit (`lipsync bench stream`)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.gpu.steps import Step, step_from
from lipsync_cli.processes import both_services

AVATARS, PICTURES = 2, 60


def main() -> None:
    """Measures both."""
    step = step_from()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatars = [f"a{number}" for number in range(AVATARS if step.on_gpu else 1)]
        for avatar in avatars:
            build_benchmark(root, avatar, frame_count=PICTURES, network="full" if step.on_gpu else "free")
        shown = [part for avatar in avatars for part in ("--avatar", avatar)]
        settings = [f"gpus.enabled={str(step.on_gpu).lower()}", "limits.admit_sessions=all"]
        with both_services(root, inference=settings) as services:
            common = ["--server", services.address, *shown]
            few = ["--sessions", "8", "--seconds", "5"] if step.on_gpu else ["--sessions", "1", "--seconds", "1"]
            tester(step, "a few sessions", [*common, *few])
            ramp = ["--sessions", "16", "--seconds", "4"] if step.on_gpu else ["--sessions", "1", "--most", "1", "--seconds", "1"]
            tester(step, "as many as fit", [*common, "--ramp", *ramp])


def tester(step: Step, name: str, options: list[str]) -> None:
    """Runs the load tester, and writes its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "lipsync_cli", "bench", "stream", *options, "--json", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {"error": done.stderr[-2000:]}
    step.write({"what": name, **found})


if __name__ == "__main__":
    main()
