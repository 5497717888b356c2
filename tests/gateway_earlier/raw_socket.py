"""A WebSocket client by hand, for what well-behaved clients never send: RFC 6455 over a plain socket."""

from __future__ import annotations

import base64
import os
import socket
import struct
from types import TracebackType
from typing import Self

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
WAIT_S = 60


class RawSocket:
    """One connection. Reads time out."""

    def __init__(self, address: str, path: str = "/ws", *, headers: str = "", receive_buffer: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.connection = socket.socket()
        self.connection.settimeout(WAIT_S)
        if receive_buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.connect((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        self.connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{upgrade}Sec-WebSocket-Key: {key}\r\n{headers}\r\n".encode()
        )
        self._received = b""
        head = self._until(b"\r\n\r\n")
        self.status = int(head.split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.connection.close()

    def send(self, message: str | bytes) -> None:
        """One message in one frame."""
        if isinstance(message, str):
            self.send_frame(TEXT, message.encode())
        else:
            self.send_frame(BINARY, message)

    def send_frame(self, opcode: int, payload: bytes, *, length: int | None = None, final: bool = True) -> None:
        """A frame that claims to have `length` bytes."""
        length = len(payload) if length is None else length
        first = (0x80 if final else 0) | opcode
        if length < 126:
            head = struct.pack(">BB", first, 0x80 | length)
        elif length < 65536:
            head = struct.pack(">BBH", first, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", first, 0x80 | 127, length)
        self.connection.sendall(head + bytes(4) + payload)  # masked with zeros: as it is

    def receive(self) -> str | bytes:
        """The next message; pings are answered. Raises ConnectionError at the end."""
        opcode, payload = self.receive_frame()
        if opcode == CLOSE:
            raise ConnectionError(struct.unpack(">H", payload[:2])[0] if payload else None)
        return payload.decode() if opcode == TEXT else payload

    def receive_frame(self) -> tuple[int, bytes]:
        """The next frame that is no ping and no pong."""
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._exactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._exactly(8))
            payload = self._exactly(length)
            assert first & 0x80
            opcode = first & 0xF
            if opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode != PONG:
                return opcode, payload

    def close_code(self) -> int | None:
        """Reads to the end, and answers the server's close; its code, None when it just hung up."""
        try:
            while True:
                opcode, payload = self.receive_frame()
                if opcode == CLOSE:
                    self.send_frame(CLOSE, payload)
                    return int(struct.unpack(">H", payload[:2])[0])
        except ConnectionError:
            return None

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._more()
        found, _, self._received = self._received.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        found, self._received = self._received[:count], self._received[count:]
        return found

    def _more(self) -> None:
        received = self.connection.recv(65536)
        if not received:
            raise ConnectionError("hung up")
        self._received += received
