"""Every message of the earlier protocol, by clients that know the wire contract and nothing of ours."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np
import pytest

from ..end_to_end.contract_client import ContractClient
from ..end_to_end.processes import until
from ..jpegs import decoded
from .conftest import FRAMES
from .contract import frame_reply, frame_request, short_request, video_reply
from .gateway import Gateway
from .raw_socket import RawSocket

PIECE = 640
VIDEO_TYPES = ["full_body", "crops_328", "model_inputs", "rois_320", "face_regions", "masked_regions"]


@pytest.fixture(params=["/ws", "8084", "8085/ws"])
def client(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[RawSocket]:
    """A socket at the gateway's own port, and at the earlier servers' ports, whose pages name a path or none."""
    with gateway.connect(request.param) as client:
        yield client


def asked(client: RawSocket, message: object) -> str | bytes:
    client.send(message if isinstance(message, bytes) else json.dumps(message))
    return client.receive()


def told(client: RawSocket, **request: object) -> dict:
    answer = asked(client, request)
    assert isinstance(answer, str)
    return json.loads(answer)


def tone(rate: int, seconds: float) -> np.ndarray:
    """Sound far below half of any rate, which is the same sound at each."""
    time = np.arange(round(rate * seconds)) / rate
    return 0.4 * sum(np.sin(2 * np.pi * 150 * k * time + k) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(18 * time))


def test_a_frame_of_the_clip(client: RawSocket, direct: ContractClient) -> None:
    for frame_id in (0, 7, 20):
        reply = frame_reply(asked(client, frame_request("heard", frame_id)))
        wanted = direct("GenerateInference", model_name="heard", frame_id=frame_id)
        assert (reply.success, reply.frame_id) == (1, frame_id)
        assert reply.jpeg == wanted.prediction_data
        assert reply.bounds == list(wanted.bounds)
        assert 0 <= reply.milliseconds < 60_000


def test_a_frame_of_sound(client: RawSocket, direct: ContractClient) -> None:
    sound = tone(16_000, 16 / 25).astype("<f4")
    reply = frame_reply(asked(client, frame_request("heard", 5, sound.tobytes())))
    pieces = [piece.tobytes() for piece in sound.reshape(-1, PIECE)]
    request = {"model_name": "heard", "start_frame_id": 5, "frame_count": 1, "audio_chunks": pieces}
    [wanted] = direct("GenerateBatchWithAudio", **request).responses
    assert (reply.success, reply.frame_id, reply.jpeg, reply.bounds) == (1, 5, wanted.prediction_data, list(wanted.bounds))


@pytest.mark.parametrize("count", [1, 2, 7, 17, 50])
def test_the_middle_piece_is_heard_with_the_frame(gateway: Gateway, direct: ContractClient, count: int) -> None:
    sound = tone(16_000, count / 25).astype("<f4")
    silence = np.zeros(8 * PIECE, "<f4")
    around = np.concatenate([silence, sound, silence])[count // 2 * PIECE :][: 16 * PIECE]
    pieces = [piece.tobytes() for piece in around.reshape(-1, PIECE)]
    [wanted] = direct(
        "GenerateBatchWithAudio", model_name="heard", start_frame_id=3, frame_count=1, audio_chunks=pieces
    ).responses
    with gateway.connect("/ws") as client:
        assert frame_reply(asked(client, frame_request("heard", 3, sound.tobytes()))).jpeg == wanted.prediction_data


def test_sound_as_the_earlier_pages_record_it(gateway: Gateway) -> None:
    """int16 at 24 kHz; the same sound in the other form gives the same mouth."""
    recorded = (tone(24_000, 16 / 25) * 32767).astype("<i2").tobytes()
    assert len(recorded) == 30_720
    with gateway.connect("/ws") as client:
        given = decoded(frame_reply(asked(client, frame_request("heard", 3, recorded))).jpeg).astype(int)
        wanted = decoded(
            frame_reply(asked(client, frame_request("heard", 3, tone(16_000, 16 / 25).astype("<f4").tobytes()))).jpeg
        )
        silent = decoded(frame_reply(asked(client, frame_request("heard", 3, bytes(16 * PIECE * 4)))).jpeg)
    assert np.abs(given - wanted).max() <= 10
    assert np.abs(given - silent).max() >= 100


def test_the_short_request_is_answered_by_the_picture_alone(client: RawSocket, direct: ContractClient) -> None:
    wanted = direct("GenerateInference", model_name="heard", frame_id=4).prediction_data
    assert asked(client, short_request("heard", 4)) == wanted


@pytest.mark.parametrize("kind", [{"type": "inference"}, {}])
def test_a_frame_as_json(client: RawSocket, direct: ContractClient, kind: dict) -> None:
    answer = told(client, **kind, model_name="heard", frame_id=7)
    wanted = direct("GenerateInference", model_name="heard", frame_id=7)
    assert (answer["success"], answer["frame_id"], answer["model_name"]) == (True, 7, "heard")
    assert base64.b64decode(answer["prediction_data"]) == wanted.prediction_data
    assert answer["bounds"] == list(wanted.bounds)
    assert answer["prediction_shape"] == "320x320x3"
    for stage in ("processing", "prepare", "inference", "composite"):
        assert answer[f"{stage}_time_ms"] >= 0


def test_sound_as_json(gateway: Gateway) -> None:
    sound = tone(16_000, 16 / 25).astype("<f4").tobytes()
    with gateway.connect("/ws") as client:
        answer = told(client, type="inference", model_name="heard", frame_id=2, audio_override=base64.b64encode(sound).decode())
        reply = frame_reply(asked(client, frame_request("heard", 2, sound)))
    assert base64.b64decode(answer["prediction_data"]) == reply.jpeg


def test_the_list_of_models_names_those_that_can_be_served(client: RawSocket) -> None:
    answer = told(client, type="list_models")
    assert answer == {"type": "model_list", "success": True, "models": ["heard", "silent"], "count": 2}


def test_metadata(client: RawSocket, direct: ContractClient) -> None:
    answer = told(client, type="get_metadata", model_name="heard")
    wanted = direct("GetModelMetadata", model_name="heard")
    assert answer == {
        "type": "metadata",
        "success": True,
        "model_name": "heard",
        "frame_count": FRAMES,
        "available_videos": VIDEO_TYPES,
        "audio_path": wanted.audio_path,
        "bounds": list(wanted.bounds),
    }


@pytest.mark.parametrize("video_type", VIDEO_TYPES)
def test_video_frames(client: RawSocket, direct: ContractClient, video_type: str) -> None:
    answer = asked(client, {"type": "get_video_frame", "model_name": "heard", "frame_id": 6, "video_type": video_type})
    assert isinstance(answer, bytes)
    wanted = direct("GetVideoFrame", model_name="heard", frame_id=6, video_type=video_type)
    assert video_reply(answer) == (6, video_type, wanted.frame_data)
    assert cv2.imdecode(np.frombuffer(wanted.frame_data, np.uint8), cv2.IMREAD_COLOR) is not None


@pytest.mark.parametrize("kind", ["switch_to_binary", "test_binary"])
def test_binary_messages_are_acknowledged(client: RawSocket, kind: str) -> None:
    answer = told(client, type=kind)
    assert (answer["type"], answer["binary_supported"]) == ("protocol_ack", True)
    assert frame_reply(asked(client, frame_request("heard", 1))).success == 1


BAD_BYTES = {
    "nothing": b"",
    "one byte": b"\x05",
    "noise": bytes(range(256)) * 4,
    "half a request": frame_request("heard", 3)[:-6],
    "without the sound's length": frame_request("heard", 3)[:-4],
    "a name of 4 GiB": b"\xff\xff\xff\xff" + b"heard" + bytes(8),
    "a name of 1 GiB": b"\x00\x00\x00\x40" + b"heard" + bytes(8),
    "a sound of 4 GiB": frame_request("heard", 3)[:-4] + b"\xff\xff\xff\xff" + bytes(2560),
    "less sound than it says": frame_request("heard", 3, bytes(2560))[:-1],
    "more sound than it says": frame_request("heard", 3, bytes(2560)) + b"\0",
    "half a sample": frame_request("heard", 3, bytes(2561)),
    "51 pieces": frame_request("heard", 3, bytes(51 * 2560)),
    "NaN": frame_request("heard", 3, np.full(16 * PIECE, np.nan, "<f4").tobytes()),
    "an unknown avatar": frame_request("nobody", 3),
    "a path": frame_request("../heard", 3),
    "no UTF-8": frame_request(b"\xff\xfe", 3),
    "a frame too far": frame_request("heard", FRAMES),
    "a frame before the first": frame_request("heard", -1),
    "an avatar without features": frame_request("silent", 0),
    "a short name of 255": b"\xffheard" + bytes(4),
    "a text": b'{"type": "list_models"}',
}


@pytest.mark.parametrize("message", BAD_BYTES.values(), ids=BAD_BYTES)
def test_a_bad_binary_request_is_answered_by_an_empty_message_and_the_socket_lives(gateway: Gateway, message: bytes) -> None:
    with gateway.connect("/ws") as client:
        assert asked(client, message) == b""
        assert frame_reply(asked(client, frame_request("heard", 2))).frame_id == 2


BAD_TEXTS: dict[str, tuple[str, dict]] = {
    "unknown type": ('{"type": "reboot"}', {"type": "error"}),
    "no JSON": ('{"type": "list', {"type": "error"}),
    "a list": ("[1, 2]", {"type": "error"}),
    "deep": ('{"type": ' + "[" * 60_000, {"type": "error"}),
    "deep and whole": ('{"type": "list_models", "x": ' + "[" * 5000 + "]" * 5000 + "}", {"type": "error"}),
    "a number of 5000 digits": ('{"type": "inference", "frame_id": ' + "9" * 5000 + "}", {"type": "error"}),
    "of wrong types": ('{"type": "inference", "model_name": {}, "frame_id": "x"}', {"type": "error"}),
    "half a surrogate": ('{"type": "get_metadata", "model_name": "\\ud800"}', {"type": "error"}),
    "nobody's metadata": ('{"type": "get_metadata", "model_name": "nobody"}', {"type": "metadata", "model_name": "nobody"}),
    "metadata of no name": ('{"type": "get_metadata"}', {"type": "metadata", "model_name": ""}),
    "nobody's frame": ('{"type": "inference", "model_name": "no", "frame_id": 4}', {"type": "inference", "frame_id": 4}),
    "no base64": (
        '{"type": "inference", "model_name": "heard", "audio_override": "\u00e4"}',
        {"type": "inference", "model_name": "heard"},
    ),
    "an unknown kind of picture": (
        '{"type": "get_video_frame", "model_name": "heard", "frame_id": 5, "video_type": "x"}',
        {"type": "video_frame", "model_name": "heard", "frame_id": 5, "video_type": "x"},
    ),
    "a picture too far": (
        '{"type": "get_video_frame", "model_name": "heard", "frame_id": 99, "video_type": "full_body"}',
        {"type": "video_frame", "frame_id": 99, "video_type": "full_body"},
    ),
}


@pytest.mark.parametrize(("message", "wanted"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_is_answered_by_an_error_and_the_socket_lives(gateway: Gateway, message: str, wanted: dict) -> None:
    with gateway.connect("/ws") as client:
        assert told(client, type="test_binary")["type"] == "protocol_ack"
        client.send(message)
        answer = json.loads(client.receive())
        assert answer["success"] is False
        assert 0 < len(answer["error"]) < 1000
        assert answer | wanted == answer
        assert frame_reply(asked(client, frame_request("heard", 2))).frame_id == 2


def test_answers_come_in_the_order_of_the_requests(client: RawSocket) -> None:
    for frame_id in range(FRAMES):
        client.send(frame_request("heard", frame_id))
        client.send(json.dumps({"type": "inference", "model_name": "heard", "frame_id": frame_id}))
        client.send(b"" if frame_id % 3 else short_request("nobody", 0))
        client.send(
            json.dumps({"type": "get_video_frame", "model_name": "heard", "frame_id": frame_id, "video_type": "rois_320"})
        )
    for frame_id in range(FRAMES):
        assert frame_reply(client.receive()).frame_id == frame_id
        assert json.loads(client.receive())["frame_id"] == frame_id
        assert client.receive() == b""
        assert video_reply(client.receive())[0] == frame_id


def test_several_sockets_at_the_same_time(gateway: Gateway, direct: ContractClient) -> None:
    wanted = [direct("GenerateInference", model_name="heard", frame_id=each).prediction_data for each in range(FRAMES)]
    wrong: list[int] = []

    def talk(first: int) -> None:
        with gateway.connect("/ws") as client:
            for step in range(10):
                frame_id = (first + step) % FRAMES
                if frame_reply(asked(client, frame_request("heard", frame_id))).jpeg != wanted[frame_id]:
                    wrong.append(frame_id)
            wrong.append(-1)

    threads = [threading.Thread(target=talk, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [-1] * 8


def test_requests_are_counted_by_their_outcome(gateway: Gateway) -> None:
    def counted() -> list[float]:
        lines = gateway.ports["8086"].get("/metrics").splitlines()
        kinds = [f'lipsync_gateway_earlier_requests_total{{outcome="{outcome}"}} ' for outcome in ("met", "failed")]
        return [float(line.removeprefix(kind)) for kind in kinds for line in lines if line.startswith(kind)]

    with gateway.connect("8085") as client:
        for message in (frame_request("heard", 1), '{"type": "test_binary"}', b"", "{}"):
            client.send(message)
            client.receive()
        before = counted()
        for message in (frame_request("heard", 1), '{"type": "test_binary"}', b"", "{}", "["):
            client.send(message)
            client.receive()
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [2, 3]


@pytest.mark.parametrize("place", ["8086", "8084", "8085"])
def test_health(gateway: Gateway, place: str) -> None:
    bodies: list[dict] = []

    def is_healthy() -> bool:  # on a machine that is very busy a look at the services may fail
        with (
            suppress(urllib.error.HTTPError),
            urllib.request.urlopen(f"http://{gateway.place(place)}/health", timeout=60) as answer,
        ):
            assert answer.headers["Content-Type"].startswith("application/json")
            bodies.append(json.load(answer))
        return bool(bodies)

    until(is_healthy)
    assert bodies == [{"healthy": True, "status": "SERVING", "total_backends": 1, "healthy_count": 1}]
