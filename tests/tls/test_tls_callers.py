"""Callers that their certificates name, at a gRPC port and at the gateway."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import grpc
import pytest

from lipsync_cli.keys import create
from lipsync_client import Client, LipsyncError, TlsOptions

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import running_with_gateway
from .authority import Authority


async def test_a_certificate_names_its_caller(authority: Authority, tmp_path: Path) -> None:
    models, file = tmp_path / "models", tmp_path / "keys.json"
    write_avatar(models, "small")
    own = authority.pair("compositing")
    key = create(file, "alice", scopes=["admin"], avatars=None, valid=None).text
    settings = [
        f"models_root={models}",
        f"tls.certificate_file={own.certificate}",
        f"tls.key_file={own.key}",
        f"tls.client_ca_file={authority.certificate}",
        "auth.certificates.names=[client]",
        f"auth.keys_file={file}",
    ]
    with running_with_gateway(*settings, log=tmp_path / "log") as (gateway, compositing):
        for name, api_key, expected in (
            ("client", None, grpc.StatusCode.OK),
            ("gateway", None, grpc.StatusCode.UNAUTHENTICATED),
            ("client", key, grpc.StatusCode.PERMISSION_DENIED),  # a key counts more than the certificate
            ("client", "nonsense", grpc.StatusCode.UNAUTHENTICATED),
        ):
            pair = authority.pair(name)
            tls = TlsOptions(authority.certificate, pair.certificate, pair.key, server_name="compositing")
            with Client(compositing.address, tls=tls, api_key=api_key) as client:
                assert code_of(client) is expected, (name, api_key)
                if expected is grpc.StatusCode.OK:
                    assert client.health().version
                    with pytest.raises(LipsyncError, match="admin"):
                        client.load("small")
        for name, status in (("client", 200), ("gateway", 401)):
            pair = authority.pair(name)
            context = ssl.create_default_context(cafile=authority.certificate)
            context.load_cert_chain(pair.certificate, pair.key)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
                http.get(f"https://{gateway.address}/api/avatars", server_hostname="compositing") as answer,
            ):
                assert answer.status == status, name


def code_of(client: Client) -> grpc.StatusCode:
    try:
        client.list_avatars()
    except LipsyncError as error:
        return error.code
    return grpc.StatusCode.OK
