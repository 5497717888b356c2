"""`lipsync bench stream` against real services: it says what it did, whatever the machine's speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from .conftest import Duo
from .processes import TREE


def bench_stream(target: str, folder: Path, *options: object) -> tuple[str, dict[str, Any]]:
    """Runs it on "small" and returns its table and what it wrote."""
    command = [sys.executable, "-m", "lipsync_cli", "bench", "stream", "--server", target, "--avatar", "small"]
    files = ["--json", folder / "found.json", "--plot", folder / "found.svg"]
    done = subprocess.run(
        [str(part) for part in (*command, *files, *options)], check=False, capture_output=True, text=True, cwd=TREE
    )
    assert done.returncode == 0, done.stderr
    assert ET.parse(folder / "found.svg").getroot().tag.endswith("svg")
    return done.stdout, json.loads((folder / "found.json").read_text())


def test_sessions_that_speak(duo: Duo, tmp_path: Path) -> None:
    pids = duo.inference.process.pid, duo.compositing.process.pid
    options = ["--avatar", "other", "--sessions", 3, "--seconds", 4, "--server-pid", pids[0], "--server-pid", pids[1]]
    table, found = bench_stream(duo.compositing.address, tmp_path, *options)
    assert f"{found['kept']} of 3" in table
    assert [each["avatar"] for each in found["each"]] == ["small", "other", "small"]
    for each in found["each"]:
        assert each["error"] == ""
        assert 0 < each["frames"] <= 25 * found["seconds"] + 1
        assert each["first_frames"]["count"] >= 1
        assert each["kept"] == (not (each["late"] or each["stalls"] or each["clock_resets"] or each["resumes"]))
    assert sum(each["frames"] for each in found["each"]) == found["frames"] == found["behind_ms"]["count"]
    assert found["kept"] == sum(each["kept"] for each in found["each"])
    assert found["processor_s"]["tester"] > 0
    assert set(found["processor_s"]["servers"]) == {str(pid) for pid in pids}
    assert min(found["processor_s"]["servers"].values()) > 0


def test_sessions_that_rest(duo: Duo, tmp_path: Path) -> None:
    _, found = bench_stream(duo.compositing.address, tmp_path, "--idle", "--sessions", 2, "--seconds", 1)
    assert found["first_frame_ms"] is None
    assert all(each["frames"] > 0 and each["stalls"] == 0 for each in found["each"])


def test_the_first_frame_without_a_clock(duo: Duo, tmp_path: Path) -> None:
    table, found = bench_stream(duo.compositing.address, tmp_path, "--fast", "--seconds", 1)
    assert found["first_frame_ms"]["count"] == len(found["each_ms"]) >= 1
    assert min(found["each_ms"]) > 0
    assert "first frames" in table


def test_a_ramp_tries_numbers_until_it_knows(duo: Duo, tmp_path: Path) -> None:
    """The smallest network needs so little that only the search's end can be foreseen on a machine of any speed."""
    _, found = bench_stream(duo.compositing.address, tmp_path, "--ramp", "--seconds", 1, "--sessions", 1, "--most", 2)
    tried = [run["sessions"] for run in found["runs"]]
    assert tried[0] == 1
    assert set(tried) <= {1, 2}
    assert found["fits"] == max([run["sessions"] for run in found["runs"] if run["kept"] == run["sessions"]], default=0)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--avatar", "nobody"], 1, "NOT_FOUND"),
        (["--avatar", "small", "--server-pid", 2**22 + 1], 1, "no process has the id"),
        (["--avatar", "small", "--fast", "--ramp"], 2, "goes with neither"),
        (["--avatar", "small", "--plot", "plot.png"], 2, "does not end in .svg"),
        (["--avatar", "small", "--audio", "nothing.wav"], 1, "nothing.wav"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(duo: Duo, options: list[object], code: int, words: str) -> None:
    command = [sys.executable, "-m", "lipsync_cli", "bench", "stream", "--server", duo.compositing.address, *options]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, cwd=TREE)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
