"""Makes, lists and revokes API keys in their file, for `lipsync key`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from lipsync_cli.failures import CliError
from service_kit.callers.caller import Scope
from service_kit.callers.key_file import KeyFileError, KeyRecord, changing, read_key_file
from service_kit.callers.keys import NewKey, digest, new_key
from service_kit.limits.settings import limits_of

_DEFAULT_SCOPES = (Scope.INFER, Scope.READ)


def create(
    path: Path,
    caller: str,
    *,
    scopes: Sequence[str] | None,
    avatars: Sequence[str] | None,
    valid: timedelta | None,
    limits: Sequence[str] | None = None,
) -> NewKey:
    """Makes a key, and adds its record. `limits` are texts such as "sessions=4" or "sessions=none". Raises CliError."""
    key, now = new_key(), datetime.now(UTC).replace(microsecond=0)
    try:
        record = KeyRecord.model_validate(
            {
                "id": key.id,
                "caller": caller,
                "sha256": digest(key.text).hex(),
                "scopes": scopes or _DEFAULT_SCOPES,
                "avatars": avatars or ("*",),
                "limits": dict(map(_limit, limits or ())),
                "created": now,
                "expires": None if valid is None else now + valid,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CliError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    try:
        with changing(path) as held:
            held[0] = held[0].with_key(record, now)
    except KeyFileError as error:
        raise CliError(str(error)) from None
    return key


@contextmanager
def new_secret_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Gives what writes a line into a new file that only its owner can read; nothing is written without a path.

    Raises CliError where the file cannot be made or is there. It is removed when the block fails.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CliError(f"{path} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w") as file:
            yield lambda text: print(text, file=file)
    except BaseException:
        path.unlink()
        raise


def listed(path: Path, now: datetime) -> list[tuple[str, ...]]:
    """Returns a row for each key, and one for each revoked caller. Raises CliError."""
    try:
        content = read_key_file(path)
    except KeyFileError as error:
        raise CliError(str(error)) from None
    except FileNotFoundError:
        raise CliError(f"there is no file {path}") from None
    rows = [_row(record, now) for record in content.keys]
    return rows + [("", name, "revoked", "", "", "", "") for name in content.revoked_callers]


def revoke_key(path: Path, key_id: str) -> None:
    """Removes a key. Raises CliError."""
    try:
        with changing(path) as held:
            held[0] = held[0].without_key(key_id)
    except KeyFileError as error:
        raise CliError(str(error)) from None


def revoke_caller(path: Path, name: str) -> None:
    """Removes the keys of a caller, and notes that none of its credentials is good. Raises CliError."""
    try:
        with changing(path) as held:
            held[0] = held[0].without_caller(name)
    except ValidationError:
        raise CliError(f"{name[:64]!r} is no name of a caller") from None
    except KeyFileError as error:
        raise CliError(str(error)) from None


def _limit(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CliError(f"{text[:64]!r} is not NAME=NUMBER or NAME=none")
    return name, None if value == "none" else value


def _row(record: KeyRecord, now: datetime) -> tuple[str, ...]:
    expires = "never" if record.expires is None else f"{record.expires:%Y-%m-%d %H:%M}"
    return (
        record.id,
        record.caller,
        " ".join(record.scopes),
        " ".join(record.avatars),
        " ".join(f"{name}={'none' if most is None else f'{most:g}'}" for name, most in limits_of(record.limits)),
        f"{record.created:%Y-%m-%d %H:%M}",
        expires if record.is_live(now) else f"expired {expires}",
    )
