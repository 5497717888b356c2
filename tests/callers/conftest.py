"""Everything in one process before small avatars, where callers are asked who they are, and the keys of some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lipsync_cli.keys import create, revoke_caller, revoke_key
from service_kit.callers.key_file import changing
from service_kit.callers.keys import NewKey

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import Service, running_with_gateway

CALL_S = 60


@dataclass(frozen=True)
class Guarded:
    """The services, and the file of keys that they read every tenth of a second."""

    gateway: Service
    compositing: Service
    keys: Path
    channel: grpc.Channel

    def key(self, caller: str, *scopes: str) -> NewKey:
        """Makes a key. The services know it soon."""
        return create(self.keys, caller, scopes=scopes, avatars=None, valid=None)

    def expire(self, key: NewKey) -> None:
        """Lets a key expire now."""
        with changing(self.keys) as held:
            records = [
                record.model_copy(update={"expires": record.created}) if record.id == key.id else record
                for record in held[0].keys
            ]
            held[0] = held[0].model_copy(update={"keys": tuple(records)})

    def revoke(self, key: NewKey) -> None:
        revoke_key(self.keys, key.id)

    def revoke_caller(self, name: str) -> None:
        revoke_caller(self.keys, name)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key for each set of scopes that callers have, by its caller's name."""
    return {}


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small avatars; read only."""
    root = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("small", "other", "private")):
        write_avatar(root, name, seed=50 * number, frames=5)
    return root


@pytest.fixture(scope="session")
def guarded(models_root: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    path = folder / "keys.json"
    for name, scopes in {
        "alice": ["infer", "read"],
        "bob": ["infer", "read"],
        "reader": ["read"],
        "operator": ["admin"],
        "gateway": ["infer", "read", "delegate"],
    }.items():
        keys[name] = create(path, name, scopes=scopes, avatars=None, valid=None).text
    keys["guest"] = create(path, "guest", scopes=["infer", "read"], avatars=["small", "oth?r"], valid=None).text
    settings = (
        f"models_root={models_root}",
        f"audio_encoder_path={models_root / 'none.onnx'}",
        "limits.admit_sessions=all",
        f"auth.keys_file={path}",
        "auth.reload_seconds=0.1",
    )
    with (
        running_with_gateway(*settings, log=folder / "log") as (gateway, compositing),
        grpc.insecure_channel(compositing.address) as channel,
    ):
        yield Guarded(gateway, compositing, path, channel)
        log = (folder / "log").read_text()
        assert not [name for name, text in keys.items() if text.split("_")[3] in log]
