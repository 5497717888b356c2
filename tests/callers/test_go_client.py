"""The doors of gRPC, tried by a client of grpc-go. grpcurl, which is made from it, needs libraries that Debian does not have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ..programs import missing, program
from .conftest import Guarded

GO_SOURCES = Path("/usr/share/gocode")
BUILD_S, RUN_S = 300, 60
SERVICE = "/compositing.CompositingService"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    go = program("go", "golang-go")
    if not (GO_SOURCES / "src/google.golang.org/grpc").is_dir():
        missing("Debian's golang-google-grpc-dev is not installed")
    made = tmp_path_factory.mktemp("door") / "door"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_SOURCES)}
    command = [go, "build", "-o", str(made), "."]
    done = subprocess.run(
        command,
        cwd=Path(__file__).with_name("door"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


def test_a_client_of_another_kind_finds_doors_closed_half_open_and_open(
    door: Path, guarded: Guarded, keys: dict[str, str]
) -> None:
    def answer(method: str, *metadata: str) -> str:
        command = [str(door), guarded.compositing.address, f"{SERVICE}/{method}", *metadata]
        return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=True).stdout.strip()

    assert answer("ListModels") == "Unauthenticated"
    assert answer("ListModels", "x-api-key", f"{keys['alice'][:-1]}x") == "Unauthenticated"
    assert answer("ListModels", "authorization", f"Bearer {keys['alice']}", "x-api-key", keys["alice"]) == "Unauthenticated"
    assert answer("LoadModel", "authorization", f"Bearer {keys['alice']}") == "PermissionDenied"
    assert answer("InferBatchComposite", "x-api-key", keys["reader"]) == "PermissionDenied"
    assert answer("InferBatchComposite", "x-api-key", keys["alice"]) == "InvalidArgument"  # let in, with an empty message
    assert answer("ListModels", "x-api-key", keys["alice"]) == "OK"
    assert answer("Health") == "OK"
