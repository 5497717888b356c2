"""Reads the address that a server listens on, in the forms that people and the earlier servers' files use."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

MAX_PORT = 65535

# Underscores are not legal in host names, but container names have them.
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class BindAddress:
    """A host and a port to listen on. Host "" means all interfaces, port 0 any free one."""

    ACCEPTED: ClassVar[str] = ":PORT (all interfaces), HOST:PORT, [IPV6]:PORT or PORT, with PORT from 0 (any free one) to 65535"

    host: str
    port: int

    @classmethod
    def parse(cls, given: object) -> BindAddress:
        """Reads ":50051", "127.0.0.1:0", "[::1]:50051", "50051" or 50051. Raises ValueError, which says what is accepted."""
        if isinstance(given, BindAddress):
            return given
        text = str(given).strip() if isinstance(given, int | str) and not isinstance(given, bool) else ""
        host, _, port = text.rpartition(":")
        if not _PORT.fullmatch(port) or int(port) > MAX_PORT:
            raise ValueError(f"not an address to listen on; accepted: {cls.ACCEPTED}")
        if host in {"", "*", "0.0.0.0", "[::]"}:  # noqa: S104 - the very point of these forms
            return cls("", int(port))
        if host.startswith("[") and host.endswith("]"):
            try:
                return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            except ValueError:
                raise ValueError(f"not an IPv6 address in brackets; accepted: {cls.ACCEPTED}") from None
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(f"not a host to listen on; accepted: {cls.ACCEPTED}")
        return cls(host, int(port))

    @property
    def is_wildcard(self) -> bool:
        """True for all interfaces."""
        return not self.host

    @property
    def reachable(self) -> str:
        """HOST:PORT for a client on the same machine."""
        return str(BindAddress(self.host or "127.0.0.1", self.port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Lets pydantic read every accepted form and write the text."""
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Lets documentation and messages name the accepted forms."""
        return {"type": "string", "accepted": cls.ACCEPTED}
