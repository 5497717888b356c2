"""A client that floods its socket has no more than its share of the gateway."""

from __future__ import annotations

import json
import re
import threading
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


def test_texts_that_are_too_long_wait_without_their_length(stack: Stack) -> None:
    process = Path(f"/proc/{stack.gateway.process.pid}")

    def mebibytes(kind: str) -> int:
        found = re.search(rf"^{kind}:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) >> 10

    with RawSocket(stack.gateway.address) as client:
        client.send(json.dumps({"config": {"model_id": "small", "idle": "IDLE_NONE"}}))
        client.send(json.dumps({"speak": {"text": "one long text " * 130}}))
        until(client, "speaking")
        (process / "clear_refs").write_text("5")  # the peak is counted from now on
        before = mebibytes("VmRSS")
        for _ in range(60):
            client.send(json.dumps({"speak": {"text": "x" * 1_000_000}}))
        client.send('{"interrupt": {}}')
        until(client, "interrupted")
        assert mebibytes("VmHWM") - before < 30


def until(client: RawSocket, event: str) -> None:
    """Reads up to an event of this name."""
    while not isinstance(message := client.receive(), str) or event not in json.loads(message):
        pass
