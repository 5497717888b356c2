"""The programs of docs/clients.md. Those in languages that Debian runs speak to a service; the others parse, and name what the
.proto file names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tree_sitter_c_sharp
import tree_sitter_kotlin
import tree_sitter_swift
from playwright.sync_api import sync_playwright
from tree_sitter import Language, Node, Parser

from shared_proto import compositing_pb2
from tests.end_to_end.processes import Service, running, until
from tests.programs import missing, program

from .pages import CLIENTS, TREE, blocks
from .place import RUN_S, Place

BUILD_S = 300
FRAMES = 30  # of the recording
PROTOC = TREE / ".venv-proto/bin/python"
NODE_MODULES = TREE / ".venv-node/node_modules"
GO_SOURCES = Path("/usr/share/gocode")
GRAMMARS = {"csharp": tree_sitter_c_sharp, "kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}
# What all programs read and write of our messages.
FIELDS = (
    "model_id", "raw_audio", "audio_encoding", "batch_size", "composited_frames", "width", "height", "config", "cushion_ms",
    "audio", "data", "started", "frames", "segment_ended", "segment",
)  # fmt: skip


def source(language: str) -> str:
    """The page's program."""
    (found,) = blocks(CLIENTS, language)
    return found


def command(*words: str) -> list[str]:
    """The one command of the page that begins with these words and has the last of them in it."""
    lines = [shlex.split(line) for block in blocks(CLIENTS, "") for line in block.splitlines()]
    (found,) = [line for line in lines if line[: len(words) - 1] == list(words[:-1]) and words[-1] in " ".join(line)]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a program, with what the page's commands read."""
    (tmp_path / "shared_proto").mkdir()
    shutil.copy(TREE / "shared_proto/compositing.proto", tmp_path / "shared_proto")
    return tmp_path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first words of the shipped recording."""
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    with wave.open(str(TREE / "avatar_tools/demo/speech/speech.wav")) as speech, wave.open(str(path), "wb") as shorter:
        shorter.setparams(speech.getparams())
        shorter.writeframes(speech.readframes(640 * FRAMES))
    return path


def output(words: list[str], folder: Path, *, timeout_s: float = RUN_S, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def is_as_the_page_says(printed: str) -> bool:
    """True if the page's four lines were printed, for this recording."""
    (shown,) = [block for block in blocks(CLIENTS, "") if block.startswith("batch:")]
    pattern = re.escape(shown).replace("294", str(FRAMES)).replace("308", r"(\d+)")
    match = re.fullmatch(pattern, printed)
    return match is not None and int(match[1]) >= FRAMES


def test_python(folder: Path, place: Place, recording: Path) -> None:
    (folder / "speak.py").write_text(source("python"))
    output([str(PROTOC), *command("python", "-m", "grpc_tools.protoc")[1:]], folder)
    printed = output([sys.executable, "-W", "error", "speak.py", place.compositing, str(recording)], folder)
    assert is_as_the_page_says(printed), printed


def test_javascript(folder: Path, place: Place, recording: Path) -> None:
    node = program("node", "nodejs")
    if not NODE_MODULES.is_dir():
        missing("the packages of tests/docs/node are not installed: `make test` does it")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "speak.mjs").write_text(source("javascript"))
    printed = output([node, "speak.mjs", place.compositing, str(recording)], folder)
    assert is_as_the_page_says(printed), printed


def test_a_page(place: Place, recording: Path, tmp_path: Path) -> None:
    chromium = program("chromium", "chromium")
    with wave.open(str(recording)) as speech:
        samples = np.frombuffer(speech.readframes(speech.getnframes()), np.int16).tolist()
    script = f"""async ([url, samples]) => {{
        {source("js")}
        const canvas = document.createElement("canvas");
        const received = await speak(url, canvas, new Int16Array(samples));
        const [...pixels] = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [received, canvas.width, canvas.height, Math.max(...pixels.slice(0, 4000).filter((_, place) => place % 4 < 3))];
    }}"""
    printed: list[str] = []
    upstream = f"compositing_server.url={place.compositing}"
    with running("gateway", upstream, log=tmp_path / "gateway") as gateway, sync_playwright() as playwright:
        until(lambda: gateway_is_ready(gateway))
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.on("console", lambda message: printed.append(message.text) if message.type == "log" else None)
        page.goto(f"http://{gateway.address}/healthz")
        received, width, height, brightest = page.evaluate(script, [f"ws://{gateway.address}/ws", samples])
        browser.close()
    assert printed == [f"segment 0 ended: {FRAMES} frames"]
    assert received >= FRAMES
    assert (width, height) == (1280, 720)
    assert brightest > 0


def gateway_is_ready(gateway: Service) -> bool:
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://{gateway.address}/readyz", timeout=RUN_S):
        return True
    return False


@pytest.mark.slow
def test_go(folder: Path, place: Place, recording: Path) -> None:
    """In a workspace of Go before modules, since that is how Debian has the libraries."""
    go = program("go", "golang-go")
    for name, package in (("protoc", "protobuf-compiler"), ("protoc-gen-go", "protoc-gen-go"), ("protoc-gen-go-grpc",) * 2):
        program(name, package)
    for name, package in (("grpc", "golang-google-grpc-dev"), ("protobuf", "golang-google-protobuf-dev")):
        if not (GO_SOURCES / "src/google.golang.org" / name).is_dir():
            missing(f"Debian's {package} is not installed")
    workspace = folder / "src/speak"
    workspace.mkdir(parents=True)
    (folder / "shared_proto").rename(workspace / "shared_proto")
    (workspace / "main.go").write_text(source("go"))
    output(command("protoc", "--go_out=."), workspace)
    output([go, "build", "-o", "speak", "."], workspace, timeout_s=BUILD_S, GO111MODULE="off", GOPATH=f"{folder}:{GO_SOURCES}")
    printed = output(["./speak", place.compositing, str(recording)], workspace)
    assert is_as_the_page_says(printed), printed


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def parsed(language: str) -> list[Node]:
    """All nodes of the program's syntax tree."""
    return [*nodes(Parser(Language(GRAMMARS[language].language())).parse(source(language).encode()).root_node)]


@pytest.mark.parametrize("language", GRAMMARS)
def test_the_others_parse(language: str) -> None:
    wrong = [node.start_point for node in parsed(language) if node.is_error or node.is_missing]
    assert wrong == []


def pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def camel(name: str) -> str:
    return name[0] + pascal(name)[1:]


def camel_with_id(name: str) -> str:
    """As swift-protobuf writes it: `modelID`."""
    return re.sub("Id$", "ID", camel(name))


@pytest.mark.parametrize(
    ("language", "spelled", "encoding"),
    [("csharp", pascal, "PcmInt16"), ("kotlin", camel, "PCM_INT16"), ("swift", camel_with_id, "pcmInt16")],
)
def test_the_others_name_what_the_proto_file_names(language: str, spelled: Callable[[str], str], encoding: str) -> None:
    messages = compositing_pb2.DESCRIPTOR.message_types_by_name.values()
    assert set(FIELDS) <= {field.name for message in messages for field in message.fields}
    named = {node.text.decode() for node in parsed(language) if not node.children and node.text}
    assert named >= {encoding} | {
        name if name in named else f"{name}Count" for name in map(spelled, FIELDS)
    }  # Kotlin counts the items of a repeated field so


def test_all_programs_call_both_methods() -> None:
    for language in ("python", "javascript", "go", "csharp", "kotlin", "swift"):
        text = source(language).lower()
        assert "inferbatchcomposite" in text
        assert "streamcomposite" in text
