"""TLS to a server."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

FilePath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """TLS, and by what the two sides know each other. Files are PEM and read once, when the client is made.

    `ca_file`: the authorities that may have signed the server's certificate; None: the public ones that gRPC brings along.
    `certificate_file` and `key_file`: what to present to a server that asks for a certificate; both or neither.
    `server_name`: the name that the server's certificate must carry; None: the host that is called.
    """

    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC. Raises ValueError that names everything wrong with the files."""
        if problems := [*self._authority_problems(), *self._pair_problems()]:
            raise ValueError("; ".join(problems))
        authorities, key, chain = (
            None if file is None else Path(file).read_bytes() for file in (self.ca_file, self.key_file, self.certificate_file)
        )
        return grpc.ssl_channel_credentials(authorities, key, chain)

    def channel_options(self) -> list[tuple[str, str]]:
        """Further options for the channel."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []

    def _authority_problems(self) -> list[str]:
        if self.ca_file is None:
            return []
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
        except ssl.SSLError:
            return [f"{self.ca_file} holds no certificate of an authority in PEM form"]
        except OSError as error:
            return [f"{self.ca_file}: {error.strerror}"]
        return []

    def _pair_problems(self) -> list[str]:
        """gRPC itself would only fail to connect."""
        if self.certificate_file is None and self.key_file is None:
            return []
        if self.certificate_file is None or self.key_file is None:
            return ["a certificate and its key go together, and only one of them is given"]
        for file in (self.certificate_file, self.key_file):
            try:
                Path(file).read_bytes()
            except OSError as error:
                return [f"{file}: {error.strerror}"]
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate_file, self.key_file, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "damaged"
            return [
                f"{self.certificate_file} and {self.key_file} are no certificate and its key without a password, both PEM: "
                f"{reason.lower().replace('_', ' ')}"
            ]
        return []
