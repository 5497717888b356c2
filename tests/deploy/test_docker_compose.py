"""docker-compose reads the compose files as the tests of `test_compose_files` do."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from .compose_files import COMBINATIONS, TREE, services

pytestmark = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")


@pytest.mark.parametrize("files", COMBINATIONS.values(), ids=COMBINATIONS)
def test_it_means_the_same_by_them(files: tuple[str, ...]) -> None:
    read = compose_config(files)
    mine = services(files)
    assert set(read["services"]) == set(mine)
    for name, service in mine.items():
        for key in ("read_only", "cap_drop", "security_opt"):
            assert read["services"][name][key] == service[key]
        assert set(read["services"][name].get("networks") or ()) == set(service.get("networks") or ())
        assert set(read["services"][name].get("environment", {})) == set(service.get("environment", {}))
        assert len(read["services"][name].get("volumes", ())) == len(service.get("volumes", ()))


def compose_config(files: tuple[str, ...]) -> dict[str, Any]:
    """The files as docker-compose merges them."""
    command = ["docker-compose", *(part for file in files for part in ("-f", file)), "--profile", "monitoring", "config"]
    done = subprocess.run(command, check=False, cwd=TREE, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read
