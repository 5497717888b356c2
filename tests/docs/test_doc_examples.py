"""The examples of the documents, run as they stand against both services, before small avatars that cost nothing."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from pathlib import Path

import cv2
import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from avatar_tools.verify import verify_avatar

from .pages import API, ARCHITECTURE, CLIENT, README, SESSIONS, blocks, commands
from .place import HEIGHT, RUN_S, WIDTH, Place


def example_with(page: Path, words: str) -> str:
    """The one block of Python that has these words."""
    (found,) = [block for block in blocks(page, "python") if words in block]
    return found


def test_the_readmes_client_writes_a_picture_for_every_40_ms_of_the_speech(place: Place) -> None:
    place.run(example_with(README, "client.frames"))
    pictures = sorted((place.folder / "out").glob("*.jpg"))
    assert len(pictures) == 294  # 11.73 s
    for picture in (pictures[0], pictures[-1]):
        decoded = cv2.imread(str(picture))
        assert decoded is not None
        assert decoded.shape == (HEIGHT, WIDTH, 3)


def test_the_readmes_session_gets_every_sample_of_the_speech_back(place: Place) -> None:
    lines = [line.split() for line in place.run(example_with(README, "client.session")).splitlines()]
    assert len(lines) == 294
    assert sum(int(samples) for _, _, samples in lines) == 187_643


def test_the_clients_session_has_a_sound_beside_each_picture(place: Place) -> None:
    printed = place.run(example_with(CLIENT, "AsyncSession"))
    assert "SegmentEnded(segment=0, frames=75, audio_us=3000000)" in printed
    assert "SegmentEnded(segment=1, frames=25, audio_us=1000000)" in printed
    sounds = sorted((place.folder / "out").glob("*.pcm"))
    assert sum(path.stat().st_size for path in sounds) == 2 * 16_000 * 4
    assert all(path.with_suffix(".jpg").exists() for path in sounds)


def test_the_written_avatar_can_be_served(place: Place) -> None:
    place.run(example_with(ARCHITECTURE, "AvatarWriter"))
    report = verify_avatar(place.folder / "models" / "anna")
    assert report.problems == ()


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        pytest.param("LipsyncError", "24 1280 720 [0, 1, 2, 3, ", id="one-batch"),
        pytest.param("AsyncClient", "50 ", id="asyncio"),
        pytest.param("audio_start_frame=first - lead", "50\n", id="generated-code"),
        pytest.param("EncodeAudio", "0 (", id="mouths"),
    ],
)
def test_the_examples_in_python_run(place: Place, words: str, printed: str) -> None:
    assert place.run(example_with(API, words)).startswith(printed)


def test_the_client_of_sessions_speaks_the_recording(place: Place) -> None:
    printed = place.run(example_with(SESSIONS, "StreamComposite"))
    assert printed == "started first-talk 1280 720\nshown: 294 frames\n"
    pictures = sorted((place.folder / "out/session").glob("*.jpg"))
    assert [int(picture.stem) for picture in pictures] == list(range(len(pictures)))
    assert len(pictures) > 294  # idle ones before
    assert cv2.imread(str(pictures[-1])).shape == (HEIGHT, WIDTH, 3)


def test_what_a_refused_request_tells_is_printed(place: Place) -> None:
    lines = place.run(example_with(API, "LipsyncError")).splitlines()
    assert lines[1].startswith("StatusCode.INVALID_ARGUMENT ")
    assert [line.split()[0] for line in lines[2:]] == ["model_id", "batch_size"]


def test_grpcurls_lines_name_what_reflection_shows(place: Place) -> None:
    """Does what grpcurl does: asks the server for its descriptors, reads the JSON, calls."""
    lines = [shlex.split(place.adapted(line)) for line in commands(API, "grpcurl")]
    assert len(lines) == 4
    for words in lines:
        assert words[:2] == ["grpcurl", "-plaintext"]
        body = words[words.index("-d") + 1] if "-d" in words else "{}"
        address, wanted = words[-2:]
        with grpc.insecure_channel(address) as channel:
            assert reflected_call(channel, wanted, body)


def reflected_call(channel: grpc.Channel, wanted: str, body: str) -> object:
    """The reply of "package.Service/Method", or, for "list", the services."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        database = ProtoReflectionDescriptorDatabase(channel)
    if wanted == "list":
        assert "compositing.CompositingService" in database.get_services()
        return database.get_services()
    service, _, name = wanted.partition("/")
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName(service).FindMethodByName(name)
    request = json_format.Parse(body, message_factory.GetMessageClass(method.input_type)(), descriptor_pool=pool)
    reply_class = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(f"/{wanted}", request.__class__.SerializeToString, reply_class.FromString)
    return json.loads(json_format.MessageToJson(call(request, timeout=RUN_S), descriptor_pool=pool))


def test_the_examples_use_the_ports_of_make_run() -> None:
    text = "".join(page.read_text() for page in (README, API, ARCHITECTURE, SESSIONS))
    assert set(re.findall(r"localhost:(\d+)", text)) == {"50051", "50052", "8086"}
