"""The file of API keys: JSON with a record for each key, and the names of callers that were revoked as a whole.

It holds digests, no keys, so who can read it cannot call. Writers take turns by a lock beside it, and replace it at once.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_serializer

from service_kit.callers.caller import Scope
from service_kit.limits.settings import QuotaSection, limits_of

MAX_FILE_BYTES = 4 << 20
# One in use, and its successor while callers change over.
MAX_LIVE_KEYS = 2

CallerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}$")]
AvatarPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._*?-]{1,64}$")]


class KeyFileError(Exception):
    """The file cannot be used, or a change of it is refused. One sentence says why."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyRecord(_Entry):
    """One key. `sha256` is the digest of the whole key, in hexadecimal digits."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{10}$")]
    caller: CallerName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    scopes: tuple[Scope, ...]
    avatars: tuple[AvatarPattern, ...] = ("*",)
    limits: QuotaSection = QuotaSection()
    """Limits of the key's caller. They go before the settings; null: no limit."""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @field_serializer("limits")
    def _given(self, limits: QuotaSection) -> dict[str, float | None]:
        return dict(limits_of(limits))

    def is_live(self, now: datetime) -> bool:
        """Tells if the key has not expired."""
        return self.expires is None or now < self.expires


class KeyFile(_Entry):
    """The content of the file."""

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()
    revoked_callers: tuple[CallerName, ...] = ()

    @property
    def by_id(self) -> Mapping[str, KeyRecord]:
        """The records by their ids."""
        return {record.id: record for record in self.keys}

    def with_key(self, record: KeyRecord, now: datetime) -> KeyFile:
        """Returns the content with one key more. Raises KeyFileError for a third live one of a caller."""
        live = [each for each in self.keys if each.caller == record.caller and each.is_live(now)]
        if len(live) >= MAX_LIVE_KEYS:
            ids = " and ".join(each.id for each in live)
            raise KeyFileError(f"{record.caller} has {MAX_LIVE_KEYS} live keys, {ids}: revoke one of them first")
        revoked = tuple(name for name in self.revoked_callers if name != record.caller)
        return self.model_copy(update={"keys": (*self.keys, record), "revoked_callers": revoked})

    def without_key(self, key_id: str) -> KeyFile:
        """Returns the content without one key. Raises KeyFileError if there is none."""
        if key_id not in self.by_id:
            advice = "`lipsync key list` shows the ids, --caller takes a name"
            raise KeyFileError(f"there is no key with the id {key_id[:64]!r}: {advice}")
        return self.model_copy(update={"keys": tuple(each for each in self.keys if each.id != key_id)})

    def without_caller(self, name: str) -> KeyFile:
        """Returns the content without the keys of a caller, whose tokens and certificates are refused too."""
        keys = tuple(each for each in self.keys if each.caller != name)
        return KeyFile.model_validate({"keys": keys, "revoked_callers": sorted({*self.revoked_callers, name})})


def read_key_file(path: Path) -> KeyFile:
    """Reads the file. Raises KeyFileError; FileNotFoundError where there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, which no file of keys is")
    try:
        found = KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the content"
        raise KeyFileError(f"{path} is no file of keys: {place}: {first['msg']}") from None
    if len(found.by_id) < len(found.keys):
        raise KeyFileError(f"{path} is no file of keys: an id is there twice")
    return found


@contextmanager
def changing(path: Path) -> Iterator[list[KeyFile]]:
    """Gives the content in a list, and writes what stands in the list when the block ends. Raises KeyFileError.

    Without a file the content is empty. Readers see the old content or the new one.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        with target.with_name(f"{target.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                held = [read_key_file(target)]
            except FileNotFoundError:
                held = [KeyFile()]
            yield held
            _replace(target, f"{held[0].model_dump_json(indent=2)}\n")
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None


def _replace(target: Path, text: str) -> None:
    """Writes a file beside the target, with the rights of the old one, and puts it in its place."""
    mode = 0o644
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode & 0o777
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
