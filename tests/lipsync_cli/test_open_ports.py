"""The words of `lipsync doctor` on ports that answer everybody, from services that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipsync_cli import open_ports
from lipsync_cli.keys import create
from tests.end_to_end.avatars import write_avatar
from tests.end_to_end.processes import running_with_gateway


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("is_reachable", [False, True])
def test_a_port_that_asks_nobody_is_told(monkeypatch, tmp_path: Path, asks: bool, is_reachable: bool) -> None:
    """The services listen on loopback here, as all of tests; that others reach them is what is made believe."""
    write_avatar(tmp_path, "small")
    create(tmp_path / "keys.json", "alice", scopes=None, avatars=None, valid=None)
    settings = [f"models_root={tmp_path}", *([f"auth.keys_file={tmp_path / 'keys.json'}"] if asks else [])]
    with running_with_gateway(*settings, log=tmp_path / "log") as (gateway, compositing):
        ports = [int(service.address.rpartition(":")[2]) for service in (gateway, compositing)]
        monkeypatch.setattr(open_ports, "_GATEWAY", ports[0])
        monkeypatch.setattr(open_ports, "LISTS", {ports[1]: "/compositing.CompositingService/ListModels"})
        assert not any(map(open_ports.open_to_all, ports))
        if is_reachable:
            monkeypatch.setattr(open_ports, "_is_reachable", lambda port: True)
            assert [bool(open_ports.open_to_all(port)) for port in ports] == [not asks, not asks]
