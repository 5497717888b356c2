"""The settings of callers: who they are, and what they may do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from service_kit.callers.caller import Scope
from service_kit.sections import Section

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


def _check_jwks_url(url: str) -> str:
    parts = urlsplit(url)
    is_here = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or (parts.scheme != "https" and not is_here):
        raise ValueError(f"{url[:80]!r} is not https://HOST/PATH; http:// is for this machine alone")
    return url


class JwtSection(Section):
    """Tokens (JWT) of an issuer that callers sign in with. `sub` is the caller's name; its scopes are in `scope` or `scp`."""

    issuer: str | None = Field(default=None, min_length=1)
    """The `iss` that tokens must have."""

    audience: str | None = Field(default=None, min_length=1)
    """The `aud` that tokens must have: a name of this service that its issuer knows."""

    jwks_url: Annotated[str, AfterValidator(_check_jwks_url)] | None = None
    """Address of the issuer's public keys, https://..."""

    jwks_file: Path | None = None
    """Its public keys in a file, in place of jwks_url."""

    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    """The signatures that are accepted, all with public keys."""

    leeway_seconds: float = Field(default=10.0, ge=0, le=60)
    """The clocks of issuer and service may differ by so much."""

    refresh_seconds: float = Field(default=300.0, ge=10, le=86_400)
    """The public keys are asked for again after so long, and when a token names one that is not known, at most twice a minute."""

    scope_prefix: str = ""
    """Beginning of our scopes in a token: "lipsync:" for lipsync:infer."""

    avatars_claim: str = "avatars"
    """The claim with patterns of the avatars that the caller may use, a list; without it all."""

    limits_claim: str = "limits"
    """The claim with the caller's own quotas, an object such as {"sessions": 4}; without it those of the settings."""

    @property
    def is_on(self) -> bool:
        """True when tokens are accepted."""
        return any((self.issuer, self.audience, self.jwks_url, self.jwks_file))


class CertificatesSection(Section):
    """Callers known by a client certificate (mTLS), which tls.client_ca_file asks for."""

    names: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = ()
    """A client with a certificate of one of these names, and no other credential, is a caller by that name."""

    scopes: tuple[Scope, ...] = (Scope.INFER, Scope.READ)
    """The scopes of these callers."""


class AuthSection(Section):
    """The callers, and what they may do: infer (frames, sessions), read (lists), admin (load, unload, statistics, sessions of
    others), delegate (a gateway's: calling in the name of others). Health checks and reflection are open to all."""

    enabled: bool | Literal["auto"] = "auto"
    """true: a call without a good credential is refused; false: everybody may do everything; auto: true if another key of this
    section is given that names callers."""

    keys_file: Path | None = None
    """API keys, as `lipsync key create` writes them. It is read again when it changes. A file that is not there yet has none."""

    anonymous: tuple[Scope, ...] = ()
    """The scopes of callers without a credential, such as [infer] for older clients, which can send none."""

    jwt: JwtSection = JwtSection()

    certificates: CertificatesSection = CertificatesSection()

    reload_seconds: float = Field(default=5.0, ge=0.1, le=30)
    """Interval of looks for a changed keys_file. The sessions of a revoked caller end within two seconds more."""

    @property
    def is_on(self) -> bool:
        """True when callers are asked who they are."""
        if self.enabled == "auto":
            return bool(self.keys_file or self.anonymous or self.jwt.is_on or self.certificates.names)
        return self.enabled
