"""A client that floods its socket has no more than its share of the gateway."""

from __future__ import annotations

import json
import re
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..gateway_earlier.raw_socket import RawSocket
from .conftest import Stack

# Frames of 6 bytes, so that thousands come with one read of the network.
FLOODS = {"sound of no samples": b"\x82\x80" + bytes(4), "pings": b"\x89\x80" + bytes(4), "pongs": b"\x8a\x80" + bytes(4)}
FRAMES = 100_000
TURNS = 20


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_others_have_their_turns_between_the_messages_of_a_flood(stack: Stack, frame: bytes) -> None:
    with RawSocket(stack.gateway.address) as flood, RawSocket(stack.gateway.address) as other:
        other.send('{"type": "test_binary"}')
        other.receive()
        flood.send(json.dumps({"config": {"model_id": "small", "idle": "IDLE_NONE"}}))
        assert "started" in json.loads(flood.receive())
        over = threading.Event()

        def answer() -> None:
            while "interrupted" not in flood.receive():  # type: ignore[operator]  # text: there is no frame
                pass
            over.set()

        def send() -> None:
            flood.connection.sendall(frame * FRAMES)
            flood.send('{"interrupt": {}}')

        threads = [threading.Thread(target=work) for work in (answer, send)]
        for thread in threads:
            thread.start()
        turns = 0
        while not over.is_set() and turns < TURNS:
            other.send('{"type": "test_binary"}')
            other.receive()
            turns += 1
        for thread in threads:
            thread.join()
        assert turns == TURNS


MANY = {
    "beside": '{"config": {"model_id": "small"}, %s}',
    "inside": '{"config": {"model_id": "small", %s}}',
    "deeper": '{"config": {"model_id": "small", "resume": {"next_number": 0, "segment": 0, %s}}}',
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
@pytest.mark.parametrize(
    ("count", "wanted"), [(5000, "fields; no message has more than 40"), (60_000, "characters; send at most 131072")]
)
def test_a_text_with_thousands_of_fields_is_refused_before_each_is_looked_at(
    stack: Stack, text: str, count: int, wanted: str
) -> None:
    """Each would become a problem of its own: a second for all others to wait."""
    with RawSocket(stack.gateway.address) as client:
        client.send(text % ", ".join(f'"k{number}": 1' for number in range(count)))
        message = client.receive()
        assert isinstance(message, str)
        error = json.loads(message)["error"]
        assert error["code"] == "INVALID_ARGUMENT"
        assert wanted in error["message"]


def test_texts_that_are_too_long_wait_without_their_length(stack: Stack) -> None:
    process = Path(f"/proc/{stack.gateway.process.pid}")

    def mebibytes(kind: str) -> int:
        found = re.search(rf"^{kind}:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) >> 10

    with ExitStack() as opened:
        clients = [opened.enter_context(RawSocket(stack.gateway.address)) for _ in range(8)]
        for client in clients:
            client.send(json.dumps({"config": {"model_id": "small", "idle": "IDLE_NONE"}}))
            client.send(json.dumps({"speak": {"text": "one long text " * 130}}))
            until(client, "speaking")
        (process / "clear_refs").write_text("5")  # the peak is counted from now on
        before = mebibytes("VmRSS")
        for client in clients:
            for _ in range(60):
                client.send(json.dumps({"speak": {"text": "x" * 130_000}}))
        for client in clients:
            client.send('{"interrupt": {}}')
            until(client, "interrupted")
        assert mebibytes("VmHWM") - before < 30


def until(client: RawSocket, event: str) -> None:
    """Reads up to an event of this name."""
    while not isinstance(message := client.receive(), str) or event not in json.loads(message):
        pass
