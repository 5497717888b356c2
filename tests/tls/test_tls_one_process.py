"""Everything in one process with TLS: towards browsers, and between the gateway and the compositing port beside it."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import running_with_gateway
from .authority import Authority


@pytest.mark.parametrize("asks_for_certificates", [False, True])
async def test_browsers_talk_over_tls(authority: Authority, tmp_path: Path, asks_for_certificates: bool) -> None:
    write_avatar(tmp_path, "small")
    pair = authority.pair("compositing")
    settings = [f"models_root={tmp_path}", f"tls.certificate_file={pair.certificate}", f"tls.key_file={pair.key}"]
    settings += [f"tls.client_ca_file={authority.certificate}"] if asks_for_certificates else []
    context = ssl.create_default_context(cafile=authority.certificate)
    own = authority.pair("client")
    with running_with_gateway(*settings, "limits.admit_sessions=all", log=tmp_path / "log") as (gateway, _):
        if asks_for_certificates:
            async with aiohttp.ClientSession() as http:
                with pytest.raises(aiohttp.ClientError):
                    await http.get(f"https://{gateway.address}/healthz", ssl=context)
            context.load_cert_chain(own.certificate, own.key)
        async with aiohttp.ClientSession() as http, http.ws_connect(f"wss://{gateway.address}/ws", ssl=context) as socket:
            await socket.send_json({"config": {"model_id": "small"}})
            assert "started" in await socket.receive_json(timeout=60)
            assert (await socket.receive_bytes(timeout=60))[0] == 1
