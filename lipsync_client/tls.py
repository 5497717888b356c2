"""TLS to a server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

FilePath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The certificates of a TLS connection. Files are PEM and are read once, when the client is made.

    `ca_file`: the authorities that may have signed the server's certificate; None: the public ones that gRPC ships.
    `certificate_file` and `key_file`: this client's own, for a server that asks for a certificate; both or neither.
    `server_name`: the name that the server's certificate must have; None: the host that is called.
    """

    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files for gRPC. Raises ValueError that names everything wrong with them."""
        if problems := [*self._authority_problems(), *self._pair_problems()]:
            raise ValueError("; ".join(problems))
        authorities, key, chain = (
            None if file is None else Path(file).read_bytes() for file in (self.ca_file, self.key_file, self.certificate_file)
        )
        return grpc.ssl_channel_credentials(authorities, key, chain)

    def _authority_problems(self) -> Iterator[str]:
        if self.ca_file is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
        except ssl.SSLError:
            yield f"{self.ca_file} holds no certificate of an authority in PEM form"
        except OSError as error:
            yield f"{self.ca_file}: {error.strerror}"

    def _pair_problems(self) -> Iterator[str]:
        """Finds what gRPC itself would only show as a failed connection."""
        if self.certificate_file is None and self.key_file is None:
            return
        if self.certificate_file is None or self.key_file is None:
            yield "a certificate and its key go together, but only one of them is given"
            return
        try:
            for file in (self.certificate_file, self.key_file):
                Path(file).read_bytes()
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate_file, self.key_file, password="")
        except (ssl.SSLError, ValueError) as error:  # before OSError, of which SSLError is one
            reason = getattr(error, "reason", None) or "damaged"
            yield (
                f"{self.certificate_file} and {self.key_file} are not a certificate and its key in PEM form without a password: "
                f"{reason.lower().replace('_', ' ')}"
            )
        except OSError as error:
            yield f"{error.filename}: {error.strerror}"
