"""The generated code and pages are what the .proto files and the asyncio client give."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.blocking_client import MODULES, blocking_face
from tools.message_docs import messages_page
from tools.session_tables import BEGIN, END, with_tables
from tools.session_timeline import svg

from .tree import TREE

PROTOS = sorted((TREE / "shared_proto").glob("*.proto"))
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    subprocess.run(["make", "--silent", "proto", f"OUT={out}"], cwd=TREE, check=True)
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


@pytest.mark.parametrize("module", MODULES)
def test_the_blocking_client_is_up_to_date(module: str) -> None:
    assert (TREE / "lipsync_client" / module).read_text() == blocking_face(module), "run `make client`"


def test_the_page_of_messages_is_up_to_date() -> None:
    assert (TREE / "docs" / "messages.md").read_text() == messages_page(), "run `make docs`"


def test_the_tables_of_a_sessions_states_are_up_to_date() -> None:
    page = (TREE / "docs" / "sessions.md").read_text()
    assert page == with_tables(page), "run `make docs`"


@pytest.mark.parametrize("page", ["none", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_page_without_its_place_for_the_tables_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="states: begin"):
        with_tables(page)


def test_the_drawing_of_a_session_is_up_to_date() -> None:
    assert (TREE / "docs" / "images" / "session.svg").read_text() == svg(), "run `make docs`"
