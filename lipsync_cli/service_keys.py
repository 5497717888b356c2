"""Makes what the services of one deployment show each other, for `lipsync key services`.

What is there stays, so that every start of a deployment may ask for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from lipsync_cli.keys import create, new_secret_file
from service_kit.callers.caller import Scope

_SCOPES = {"compositing": (Scope.INFER, Scope.ADMIN), "gateway": (Scope.INFER, Scope.READ, Scope.DELEGATE)}
_SECRET_BYTES = 32
# Those that counting limits takes (service_kit.limits).
_STORE_COMMANDS = "+evalsha +script|load +time +get +set +zadd +zrem +zcard +zrange +zremrangebyscore +pexpire"


def make_service_keys(directory: Path, *, shared_limits: bool) -> list[Path]:
    """Makes the files that are missing or empty, for their owner alone, and returns their paths. Raises CliError.

    They are the keys of the services, with digests of them in `known/keys.json`, and the secret of the gateways' tickets; with
    `shared_limits` also the password of the compositing services for a Valkey server, and the file of its users.
    """
    known, password = directory / "known" / "keys.json", directory / "compositing" / "store.password"
    texts: dict[Path, Callable[[], str]] = {
        directory / service / "api.key": partial(_new_key, known, service) for service in _SCOPES
    }
    texts[directory / "gateway" / "tickets.secret"] = _new_secret
    if shared_limits:
        texts[password] = _new_secret
    _make_folder(known.parent)
    made = [path for path in texts if _is_missing(path)]
    for path in made:
        _write(path, texts[path])
    return made + (_renewed_users(directory / "store" / "users.acl", password) if shared_limits else [])


def _is_missing(path: Path) -> bool:
    """Takes an empty file, which an interrupted start leaves, for a missing one."""
    return not path.exists() or not path.stat().st_size


def _write(path: Path, text: Callable[[], str]) -> None:
    _make_folder(path.parent)
    path.unlink(missing_ok=True)
    with new_secret_file(path) as write:
        write(text())


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _new_key(known: Path, service: str) -> str:
    return create(known, service, scopes=_SCOPES[service], avatars=None, valid=None).text


def _new_secret() -> str:
    return secrets.token_hex(_SECRET_BYTES)


def _renewed_users(path: Path, password: Path) -> list[Path]:
    """Writes Valkey's users where that file says something else: the compositing services, by a hash, and nobody besides."""
    digest = sha256(password.read_text().strip().encode()).hexdigest()
    text = f"user default off\nuser lipsync on #{digest} ~lipsync:* {_STORE_COMMANDS}"
    if path.exists() and path.read_text().strip() == text:
        return []
    _write(path, lambda: text)
    return [path]
