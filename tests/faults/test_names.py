"""A name server that is lost: what is known goes on being used, and what is new is found when it is back."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ..end_to_end.callers import SteadyCaller
from ..end_to_end.processes import assert_no_trace, running, until
from .conftest import request_of


class NameServer:
    """Answers every question for IPv4 with 127.0.0.1, for a second; use it as a context manager. It can fall silent."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.silent = False
        self.answers = 0
        self.unanswered = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, caller = self._socket.recvfrom(4096)
            if not question:
                return
            if self.silent:
                self.unanswered += 1
                continue
            end = question.index(0, 12) + 5  # the name, then its type and class
            is_ipv4 = question[end - 4 : end - 2] == b"\x00\x01"
            record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04" + socket.inet_aton("127.0.0.1")
            head = question[:2] + b"\x81\x80\x00\x01" + (b"\x00\x01" if is_ipv4 else b"\x00\x00") + bytes(4)
            self._socket.sendto(head + question[12:end] + (record if is_ipv4 else b""), caller)
            self.answers += 1


def test_known_addresses_go_on_being_used_while_the_name_server_is_lost(models_root: Path, tmp_path: Path) -> None:
    common = f"models_root={models_root}"
    with NameServer() as names, running("inference", common, log=tmp_path / "inference") as inference:
        port = inference.address.rsplit(":", 1)[1]
        url = f"inference_server.url=dns://127.0.0.1:{names.port}/inference.test:{port}"
        with (
            running("compositing", common, url, log=tmp_path / "compositing") as compositing,
            SteadyCaller(compositing.address, request_of()) as steady,
        ):
            steady.wait_for_a_call()
            until(lambda: names.answers > 0)
            names.silent = True
            for _ in range(20):
                steady.wait_for_a_call()
            assert_no_trace(compositing)
    with NameServer() as names, running("inference", common, log=tmp_path / "later") as inference:
        names.silent = True
        port = inference.address.rsplit(":", 1)[1]
        url = f"inference_server.url=dns://127.0.0.1:{names.port}/inference.test:{port}"
        with running("compositing", common, url, "inference_server.timeout_seconds=60", log=tmp_path / "found") as compositing:
            until(lambda: names.unanswered > 0)
            names.silent = False
            with SteadyCaller(compositing.address, request_of()) as steady:
                steady.wait_for_a_call()
