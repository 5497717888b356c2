"""The gateway with all services in one process, by the names of the earlier servers' ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..end_to_end.processes import Service, running_with_gateway
from .raw_socket import RawSocket


@dataclass(frozen=True)
class Gateway:
    """Places are "/ws", at the gateway's own port, and "8084" or "8085/ws", at ports for the earlier clients."""

    compositing: Service
    ports: Mapping[str, Service]

    def place(self, place: str) -> str:
        """HOST:PORT/PATH."""
        port, slash, path = place.partition("/")
        return f"{self.ports[port or '8086'].address}{slash}{path}"

    def connect(self, place: str) -> RawSocket:
        address, slash, path = self.place(place).partition("/")
        return RawSocket(address, slash + path or "/")


@contextmanager
def running_gateway(root: Path, log: Path, *settings: str) -> Iterator[Gateway]:
    overrides = f"models_root={root}", *(f"gateway.{setting}" for setting in settings)
    with running_with_gateway(*overrides, log=log, earlier=2) as (own, compositing, first, second):
        yield Gateway(compositing, {"8086": own, "8084": first, "8085": second})
