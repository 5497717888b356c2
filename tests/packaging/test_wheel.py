"""The built package in an environment with nothing else: the client alone, with either protobuf, and the command beside it."""

from __future__ import annotations

import json
import re
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from avatar_tools.demo import SPEECH_PATH

from ..repository.tree import TREE, files
from . import caller
from .conftest import installed, pip, run

pytestmark = pytest.mark.slow

PINS = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (TREE / "requirements" / "dev.txt").read_text(), re.MULTILINE))
# The oldest protobuf that the generated code runs with, and ours.
OLD, NEW = "6.33.5", PINS["protobuf"]


@pytest.fixture(scope="module", params=[OLD, NEW], ids="protobuf-{}".format)
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the base installation alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in (PINS | {"protobuf": request.param}).items()))
    python = folder / "bin" / "python"
    pip(python, "install", "--quiet", "--no-compile", "-c", pins, wheel)
    return python


def test_files_beside_the_code_are_in_it(wheel: Path) -> None:
    data = {path.relative_to(TREE).as_posix() for path in files() if path.suffix in {".onnx", ".mp4", ".json", ".wav"}}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in data if name.startswith("avatar_tools/")} <= packed
    assert "avatar_tools/demo/clip.mp4" in packed


def test_the_base_installation_is_light(python: Path) -> None:
    assert set(installed(python)) == {
        "googleapis-common-protos",
        "grpcio",
        "lipsync-serving",
        "numpy",
        "protobuf",
        "typing-extensions",
    }


def test_the_client_gets_there_what_it_gets_here(python: Path, server: str) -> None:
    said = json.loads(run(python, "-W", "error", caller.__file__, server))
    assert said["protobuf"] == installed(python)["protobuf"]
    assert said["told"] == caller.main(server)


@pytest.mark.parametrize("python", [NEW], indirect=True)
def test_the_command_renders_and_loads_with_its_extra_alone(python: Path, wheel: Path, server: str, tmp_path: Path) -> None:
    lipsync = python.with_name("lipsync")
    done = subprocess.run([lipsync, "--help"], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'lipsync-serving[cli]'" in done.stderr
    pins = python.parents[1] / "pins.txt"
    pip(python, "install", "--quiet", "--no-compile", "-c", pins, f"lipsync-serving[cli] @ {wheel.as_uri()}")
    out = tmp_path / "speech.mp4"
    run(lipsync, "render", "--server", server, "--avatar", "demo", "--audio", SPEECH_PATH, "--out", out)
    assert out.stat().st_size > 100_000
    found = tmp_path / "load.json"
    run(lipsync, "bench", "stream", "--server", server, "--avatar", "demo", "--sessions", 1, "--seconds", 2, "--json", found)
    assert json.loads(found.read_text())["frames"] > 0
    assert "onnx" not in installed(python)
