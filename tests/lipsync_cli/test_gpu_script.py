"""The script for a machine with a GPU, tried out on the CPU: each step runs, and what is measured is on the disk at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[2]
PATIENCE_S = 120


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_step_runs_and_leaves_its_results(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [TREE / "benchmarks" / "gpu" / "run.sh", tmp_path / "found", "--device", "cpu"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    found = tmp_path / "found"
    logs = {path.name: path.read_text()[-500:] for path in found.glob("*.log")}
    assert done.returncode == 0, (done.stdout, logs)
    steps = lines(found / "steps.jsonl")
    assert [step["step"] for step in steps] == ["doctor", "engines", "tests", "service", "stream"]
    assert {step["exit_code"] for step in steps} == {0}
    machine, *measured = lines(found / "engines.jsonl")
    host_work, ways = measured[:2], measured[2:]
    assert all(line["host_work"]["ms_a_frame"] > 0 for line in host_work)
    assert all(way["share_of_bare"] > 0 for way in ways)
    assert machine["machine"]["cores"] >= 1
    assert [way["way"]["avatars"] for way in ways] == [1, 1, 3, 1]
    assert all(way["frames_s"] > 0 for way in ways)
    assert ways[-1]["psnr_db"] > 50
    assert any(figure["name"].endswith("frames over gRPC") for figure in lines(found / "service.jsonl")[1:])
    assert [run["what"] for run in lines(found / "stream.jsonl")[1:]] == ["a few sessions", "as many as fit"]
    assert "1 passed" in (found / "tests.log").read_text()


@pytest.mark.slow
def test_a_step_that_is_cut_off_keeps_what_it_has(tmp_path: Path) -> None:
    found = tmp_path / "engines.jsonl"
    step = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.engines", "--device", "cpu", found], cwd=TREE)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and (not found.exists() or found.read_text().count("\n") < 2):
        time.sleep(0.05)
    step.kill()
    step.wait()
    machine, first, *_ = lines(found)
    assert "machine" in machine
    assert first["host_work"]["ms_a_frame"] > 0


@pytest.mark.parametrize(("limit_s", "codes"), [("570", [3, 124, 0, 0, 0]), ("1", [3, 124, 124, 124, 124])])
def test_a_step_that_fails_or_hangs_does_not_hold_up_the_others(tmp_path: Path, limit_s: str, codes: list[int]) -> None:
    """The program that is called in place of Python fails, or outlives the limit of its step, which is cut to a second.

    After the limit of all steps together none begins.
    """
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ncase "$*" in *doctor*) exit 3;; *engines*) exec sleep 100;; esac\n')
    program.chmod(0o755)
    script = (TREE / "benchmarks" / "gpu" / "run.sh").read_text()
    tree = tmp_path / "tree" / "benchmarks" / "gpu"
    tree.mkdir(parents=True)
    (tree / "run.sh").write_text(script.replace("step engines 220", "step engines 1"))
    environment = {**os.environ, "PYTHON": str(program), "LIMIT_S": limit_s}
    done = subprocess.run(["bash", tree / "run.sh", tmp_path / "found"], check=False, env=environment)
    assert done.returncode == 1
    assert [step["exit_code"] for step in lines(tmp_path / "found" / "steps.jsonl")] == codes
