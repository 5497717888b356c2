"""Nothing that a client sends to a socket of the earlier protocol, or leaves undone, harms another."""

from __future__ import annotations

import json
import signal
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..end_to_end.processes import free_port, running
from .contract import frame_reply, frame_request
from .gateway import Gateway, running_gateway
from .raw_socket import BINARY, TEXT, RawSocket

NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 300), st.sampled_from([0, 5, 2**31, 2**32 - 1]))
REQUESTS = st.builds(
    lambda length, name, frame_id, size, sound: struct.pack("<I", length) + name + struct.pack("<II", frame_id, size) + sound,
    NUMBERS,
    st.sampled_from([b"heard", b"nobody", b"", b"../x", b"\xff\xfe"]),
    NUMBERS,
    NUMBERS,
    st.binary(max_size=40),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["inference", "list_models", "get_metadata", "get_video_frame", "switch_to_binary", "config", ""]
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(TYPES) | JSON,
        "model_name": st.sampled_from(["heard", "silent", "nobody", ".."]) | JSON,
        "frame_id": st.integers(-(2**33), 2**33) | JSON,
        "video_type": st.sampled_from(["full_body", "rois_320", ""]) | JSON,
        "audio_override": st.sampled_from(["", "AAAA", "*"]) | JSON,
    },
)
TEXTS = st.one_of(st.text(max_size=200), JSON.map(json.dumps), FIELDS.map(json.dumps))


def assert_answered(client: RawSocket) -> None:
    client.send(frame_request("heard", 2))
    assert frame_reply(client.receive()).frame_id == 2


@settings(max_examples=30)
@given(st.lists(st.one_of(st.binary(max_size=300), REQUESTS, TEXTS), min_size=1, max_size=12))
def test_each_message_has_one_answer_whatever_it_is(gateway: Gateway, messages: list[str | bytes]) -> None:
    with gateway.connect("8084/ws") as client:
        client.send('{"type": "test_binary"}')
        assert json.loads(client.receive())["type"] == "protocol_ack"
        for message in messages:
            client.send(message)
        answers = [client.receive() for _ in messages]
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, str):
                assert isinstance(message, str)
                assert isinstance(json.loads(answer), dict)
        assert_answered(client)


@pytest.fixture(scope="module")
def bystander(gateway: Gateway) -> Iterator[RawSocket]:
    """One that was there before, and is asked after each harm."""
    with gateway.connect("/ws") as client:
        client.send('{"type": "test_binary"}')
        client.receive()
        yield client


HARMS = {
    "a frame of 2 GiB": (struct.pack(">BBQ", 0x82, 0xFF, 2**31) + bytes(1000), 1009),
    "a frame of 2^63 bytes": (struct.pack(">BBQ", 0x82, 0xFF, 2**63) + bytes(100), 1009),
    "an unknown opcode": (struct.pack(">BB", 0x83, 0x80) + bytes(4), 1002),
    "reserved bits": (struct.pack(">BB", 0xF2, 0x80) + bytes(4), 1002),
    "a long ping": (struct.pack(">BBH", 0x89, 0xFE, 500) + bytes(504), 1002),
    "text that is no UTF-8": (struct.pack(">BB", 0x81, 0x84) + bytes(4) + b"\xff\xfe\xff\xfe", 1007),
    "the end of no message": (struct.pack(">BB", 0x80, 0x80) + bytes(4), 1002),
    "a close code that nobody may send": (struct.pack(">BB", 0x88, 0x82) + bytes(4) + struct.pack(">H", 1005), None),
}


@pytest.mark.parametrize(("harm", "code"), HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("place", ["/ws", "8085"])
def test_what_is_no_websocket_ends_its_own_socket_alone(
    gateway: Gateway, bystander: RawSocket, place: str, harm: bytes, code: int | None
) -> None:
    with gateway.connect(place) as client:
        client.send('{"type": "test_binary"}')
        client.receive()
        client.connection.sendall(harm)
        closed = client.close_code()
        assert closed == code or code is None
    assert_answered(bystander)


def test_a_message_in_many_frames_is_one(gateway: Gateway) -> None:
    with gateway.connect("8084") as client:
        message = frame_request("heard", 5)
        for place, byte in enumerate(message):
            client.send_frame(BINARY if place == 0 else 0, bytes([byte]), final=place == len(message) - 1)
        assert frame_reply(client.receive()).frame_id == 5


def test_a_message_larger_than_any_request_ends_its_socket(gateway: Gateway, bystander: RawSocket) -> None:
    with gateway.connect("8084") as client:
        client.send_frame(BINARY, bytes(300_000))
        assert client.close_code() in {1009, None}  # a reset because of what was not read may overtake the close
    with gateway.connect("8084") as client:  # in pieces, none of which is too large
        client.send_frame(TEXT, b" " * 100_000, final=False)
        client.send_frame(0, b" " * 100_000, final=False)
        client.send_frame(0, b" " * 100_000)
        assert client.close_code() in {1009, None}  # a reset because of what was not read may overtake the close
    assert_answered(bystander)


def test_clients_that_vanish_in_the_middle(gateway: Gateway, bystander: RawSocket) -> None:
    for cut in (1, 3, 9, 20):
        with gateway.connect("/ws") as client:
            client.send(frame_request("heard", 1))
            head = struct.pack(">BB", 0x82, 0x80 | 100) + bytes(4) + bytes(100)
            client.connection.sendall(head[:cut])
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets
    assert_answered(bystander)


@pytest.fixture(scope="module")
def strict(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits for nobody."""
    limits = ["earlier.idle_seconds=1", "sockets.first_message_seconds=1", "sockets.reader_timeout_seconds=1"]
    with running_gateway(root, tmp_path_factory.mktemp("strict") / "log", *limits) as gateway:
        yield gateway


def test_idle_sockets_are_closed(strict: Gateway) -> None:
    with strict.connect("8084") as silent, strict.connect("/ws") as once:
        once.send('{"type": "test_binary"}')
        assert json.loads(once.receive())["type"] == "protocol_ack"
        assert once.close_code() == 1000
        assert silent.close_code() == 1008


def test_a_reader_that_stops_is_dropped_and_others_are_served_meanwhile(strict: Gateway) -> None:
    request = json.dumps({"type": "get_video_frame", "model_name": "heard", "frame_id": 0, "video_type": "full_body"})
    with strict.connect("8084") as stopped:
        stopped.connection.settimeout(0.2)
        with pytest.raises((TimeoutError, ConnectionError)):  # the pipe is full, or the gateway was faster
            send_again_and_again(stopped, request)
        with strict.connect("/ws") as other:
            assert_answered(other)
        stopped.connection.settimeout(30)
        with pytest.raises(ConnectionError):
            send_again_and_again(stopped, request)


def send_again_and_again(client: RawSocket, message: str) -> None:
    while True:
        client.send(message)


def test_a_gateway_without_services_says_so_until_it_ends(tmp_path: Path) -> None:
    nobody = f"compositing_server.url=127.0.0.1:{free_port()}"
    with running("gateway", nobody, log=tmp_path / "log") as gateway, RawSocket(gateway.address) as client:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{gateway.address}/health", timeout=60)
        assert refused.value.code == 503
        body = json.load(refused.value)
        assert (body["healthy"], body["healthy_count"], body["total_backends"]) == (False, 0, 1)
        client.send('{"type": "get_metadata", "model_name": "heard"}')
        client.send(frame_request("heard", 3))
        client.send('{"type": "list_models"}')
        assert json.loads(client.receive())["success"] is False
        assert client.receive() == b""
        models = json.loads(client.receive())
        assert (models["success"], models["models"]) == (False, [])
        gateway.signal(signal.SIGTERM)
        assert client.close_code() == 1001
