"""Certificates of the script in deploy/tls, as the containers' user can read them."""

from __future__ import annotations

import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc

from .images import TREE

CONTAINER_USER = 10001


@dataclass(frozen=True)
class Certificates:
    """One authority's."""

    folder: Path

    def as_anyone(self) -> grpc.ChannelCredentials:
        """Trusts the authority, shows nothing."""
        return grpc.ssl_channel_credentials(self._read("ca.crt"))

    def of(self, name: str) -> grpc.ChannelCredentials:
        """Trusts the authority, shows the certificate of `name`."""
        return self.trusting_it(self, name)

    def trusting_it(self, other: Certificates, name: str) -> grpc.ChannelCredentials:
        """Trusts this authority, shows another one's certificate of `name`."""
        return grpc.ssl_channel_credentials(self._read("ca.crt"), other._read(f"{name}.key"), other._read(f"{name}.crt"))

    def context(self, name: str | None = None, *, of: Certificates | None = None) -> ssl.SSLContext:
        """Trusts the authority, for aiohttp; shows the certificate of `name`, by this or another authority."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        if name:
            folder = (of or self).folder
            context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        return context

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def make_certificates(folder: Path) -> Certificates:
    """Writes them into `folder`, as deploy/README.md tells."""
    subprocess.run(
        [TREE / "deploy/tls/make_test_certificates.sh", "--force", folder], check=True, timeout=60, capture_output=True
    )
    for file in folder.iterdir():
        os.chown(file, CONTAINER_USER, CONTAINER_USER)
    return Certificates(folder)
