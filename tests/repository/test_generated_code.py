"""The generated code is what the .proto files give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .tree import TREE

PROTOS = sorted((TREE / "shared_proto").glob("*.proto"))
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    plugins = Path(sys.executable).parent
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{TREE}", f"--python_out={out}", f"--grpc_python_out={out}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}", *map(str, PROTOS),
    ]  # fmt: skip
    subprocess.run(command, cwd=TREE, check=True, capture_output=True)
    return out


def test_there_are_proto_files() -> None:
    assert {path.stem for path in PROTOS} >= {"inference", "compositing"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_generated_code_is_up_to_date(generated: Path, proto: Path, suffix: str) -> None:
    name = f"shared_proto/{proto.stem}{suffix}"
    assert (TREE / name).read_text() == (generated / name).read_text(), "run `make proto`"


def test_nothing_is_left_of_deleted_proto_files() -> None:
    kept = {path.name for path in (TREE / "shared_proto").glob("*_pb2*")}
    assert kept == {f"{proto.stem}{suffix}" for proto in PROTOS for suffix in SUFFIXES}
