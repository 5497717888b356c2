"""The built package in an environment with nothing else: the client alone, with either protobuf, and the command beside it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar_tools.demo import SPEECH_PATH, build_demo
from lipsync_cli.processes import ServiceProcess, serve_command

from ..repository.tree import TREE, files
from . import caller

pytestmark = pytest.mark.slow

PINS = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (TREE / "requirements" / "dev.txt").read_text(), re.MULTILINE))
# The oldest protobuf that the generated code runs with, and ours.
OLD, NEW = "6.33.5", PINS["protobuf"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what is under version control, so that nothing of earlier builds is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in files():
        copy = folder / "tree" / path.relative_to(TREE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "tree")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=[OLD, NEW], ids="protobuf-{}".format)
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the base installation alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in (PINS | {"protobuf": request.param}).items()))
    python = folder / "bin" / "python"
    _pip(python, "install", "--quiet", "--no-compile", "-c", pins, wheel)
    return python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a compositing service of this tree, with the demo avatar behind it."""
    folder = tmp_path_factory.mktemp("served")
    build_demo(folder / "models")
    common = [f"models_root={folder / 'models'}", "server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0"]
    with ServiceProcess(
        "inference", serve_command("inference", [*common, "limits.admit_sessions=all"]), log=folder / "inference.log"
    ) as first:
        command = serve_command("compositing", [*common, f"inference_server.url={first.wait_ready()}"])
        with ServiceProcess("compositing", command, log=folder / "compositing.log") as second:
            yield second.wait_ready()


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _pip(python: Path, *arguments: object) -> str:
    """Our own pip, at work in another environment: to give each a pip of its own takes longer than all else in it."""
    return _run(sys.executable, "-m", "pip", "--python", python, *arguments)


def _installed(python: Path) -> dict[str, str]:
    listed = json.loads(_pip(python, "list", "--format", "json"))
    return {each["name"].lower().replace("_", "-"): each["version"] for each in listed}


def test_files_beside_the_code_are_in_it(wheel: Path) -> None:
    data = {path.relative_to(TREE).as_posix() for path in files() if path.suffix in {".onnx", ".mp4", ".json", ".wav"}}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in data if name.startswith("avatar_tools/")} <= packed
    assert "avatar_tools/demo/clip.mp4" in packed


def test_the_base_installation_is_light(python: Path) -> None:
    assert set(_installed(python)) == {
        "googleapis-common-protos",
        "grpcio",
        "lipsync-serving",
        "numpy",
        "protobuf",
        "typing-extensions",
    }


def test_the_client_gets_there_what_it_gets_here(python: Path, server: str) -> None:
    said = json.loads(_run(python, "-W", "error", caller.__file__, server))
    assert said["protobuf"] == _installed(python)["protobuf"]
    assert said["told"] == caller.main(server)


@pytest.mark.parametrize("python", [NEW], indirect=True)
def test_the_command_renders_and_loads_with_its_extra_alone(python: Path, wheel: Path, server: str, tmp_path: Path) -> None:
    lipsync = python.with_name("lipsync")
    done = subprocess.run([lipsync, "--help"], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'lipsync-serving[cli]'" in done.stderr
    pins = python.parents[1] / "pins.txt"
    _pip(python, "install", "--quiet", "--no-compile", "-c", pins, f"lipsync-serving[cli] @ {wheel.as_uri()}")
    out = tmp_path / "speech.mp4"
    _run(lipsync, "render", "--server", server, "--avatar", "demo", "--audio", SPEECH_PATH, "--out", out)
    assert out.stat().st_size > 100_000
    found = tmp_path / "load.json"
    _run(lipsync, "bench", "stream", "--server", server, "--avatar", "demo", "--sessions", 1, "--seconds", 2, "--json", found)
    assert json.loads(found.read_text())["frames"] > 0
    assert "onnx" not in _installed(python)
