"""The adapters' wheels and the client's, together in an environment with nothing else."""

from __future__ import annotations

import json
import re
import venv
from pathlib import Path

import pytest

from ..repository.tree import TREE
from .conftest import build, installed, pip, run

pytestmark = pytest.mark.slow

CALLER = TREE / "tests/packaging/adapters_caller.py"
PINS = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (TREE / "requirements" / "adapters.txt").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def wheels(tree: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wheels of the client, and of each adapter."""
    projects = ["pipecat-lipsync", "livekit-plugins-lipsync"]
    folder = tmp_path_factory.mktemp("wheels")
    return [wheel, *(build(tree / "lipsync_adapters" / name, folder / name) for name in projects)]


def test_they_live_together_and_speak(wheels: list[Path], server: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", with_pip=False)
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
    python = tmp_path / "environment" / "bin" / "python"
    pip(python, "install", "--quiet", "--no-compile", "-c", pins, *wheels)
    assert {"lipsync-serving", "pipecat-lipsync", "livekit-plugins-lipsync", "pipecat-ai", "livekit-agents"} <= installed(
        python
    ).keys()
    assert "onnx" not in installed(python)
    pip(python, "check")

    said = json.loads(run(python, CALLER, server).splitlines()[-1])

    assert said["protobuf"].startswith("6.")
    assert said["spoken"]
    assert said["pictures"] >= 25
    assert said["plug-ins"] == ["livekit.plugins.lipsync"]
    assert said["avatar"] == "lipsync-avatar"
