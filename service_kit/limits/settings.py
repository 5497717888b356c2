"""The settings of quotas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from service_kit.callers.caller import Limits
from service_kit.sections import Section


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("this is not redis://HOST:PORT/DATABASE, or rediss:// for TLS")
    if parts.username or parts.password:
        raise ValueError("give the name as username, and the password as password_file: addresses are seen by others")
    return url


class QuotaSection(Section):
    """Limits of one caller, or of one avatar, or of all."""

    sessions: int | None = Field(default=None, ge=0, le=1_000_000)
    """Live sessions at once; null: no limit. One that lost its connection keeps its place for 15 s."""

    speech_seconds_per_minute: float | None = Field(default=None, gt=0, le=1e9)
    """Speech of live sessions; null: no limit. Beyond it, new sessions are refused; running ones go on."""

    batch_frames_per_minute: float | None = Field(default=None, gt=0, le=1e9)
    """Frames of batches; null: no limit."""

    loads_per_hour: float | None = Field(default=None, gt=0, le=1e9)
    """LoadModel; null: no limit."""


class NamedQuotaSection(QuotaSection):
    """Quotas of callers with certain names. A key that is not given leaves what per_caller says."""

    names: str = Field(min_length=1, max_length=128)
    """A pattern with * and ?."""


def limits_of(given: QuotaSection) -> Limits:
    """Returns what was given of a section, null included."""
    return tuple(given.model_dump(include=set(QuotaSection.model_fields), exclude_unset=True).items())


class QuotaStoreSection(Section):
    """A Valkey or Redis server that counts for several processes together. While it is lost, quotas let everything through."""

    url: Annotated[str, AfterValidator(_check_url)] | None = None
    """redis://HOST:PORT/DATABASE, rediss:// for TLS; null: each process counts for itself."""

    username: str | None = Field(default=None, min_length=1, max_length=256)
    """The user's name there, with password_file; null: the default user."""

    password_file: Path | None = None
    """A file with the password. It is read again for each new connection."""

    ca_file: Path | None = None
    """The authorities that may have signed the server's certificate, PEM; null: those of this machine."""

    certificate_file: Path | None = None
    """This service's certificate, PEM, for servers that ask for one."""

    key_file: Path | None = None
    """The private key of certificate_file, PEM, without a password."""

    timeout_seconds: float = Field(default=0.25, ge=0.01, le=30)
    """A decision without an answer for so long lets the request through, and further ones for two seconds do not ask."""

    prefix: str = Field(default="lipsync", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    """Beginning of the names of all keys there: services with the same count together."""

    @property
    def has_tls(self) -> bool:
        """True when the connection is encrypted."""
        return bool(self.url and self.url.startswith("rediss:"))


class QuotasSection(Section):
    """Amounts that may be used. Beyond them: RESOURCE_EXHAUSTED, with the time after which to come back."""

    per_caller: QuotaSection = QuotaSection()

    callers: tuple[NamedQuotaSection, ...] = ()
    """For callers by their names, in place of per_caller: [{names: "batch-*", sessions: 50}]. The first pattern that fits counts.
    What a key or a token says of its limits goes before both."""

    per_avatar: QuotaSection = QuotaSection()
    in_all: QuotaSection = QuotaSection()
    store: QuotaStoreSection = QuotaStoreSection()
