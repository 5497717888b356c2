"""Wheels of this tree, and a server of it for those who install them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar_tools.demo import build_demo
from lipsync_cli.processes import ServiceProcess, serve_command

from ..repository.tree import TREE, files


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is under version control, so that nothing of earlier builds is in what is made of it."""
    tree = tmp_path_factory.mktemp("tree")
    for path in files():
        copy = tree / path.relative_to(TREE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tree


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution of services and client."""
    return build(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
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


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(python: Path, *arguments: object) -> str:
    """Our own pip, at work in another environment: to give each a pip of its own takes longer than all else in it."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments)


def build(project: Path, folder: Path) -> Path:
    """Builds the wheel of a project."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, project)
    (built,) = folder.glob("*.whl")
    return built


def installed(python: Path) -> dict[str, str]:
    listed = json.loads(pip(python, "list", "--format", "json"))
    return {each["name"].lower().replace("_", "-"): each["version"] for each in listed}
