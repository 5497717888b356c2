"""Checks tokens (JWT) of an issuer that callers sign in with, by RFC 8725.

Signature, issuer, audience and expiry are required, and only the algorithms that the settings name are accepted, all of them with
public keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jwt
from pydantic import TypeAdapter, ValidationError

from service_kit.callers.caller import Caller, Scope
from service_kit.callers.key_file import AvatarPattern, CallerName
from service_kit.callers.settings import JwtSection
from service_kit.callers.signing_keys import SigningKeys, from_file, from_url
from service_kit.clock import Clock
from service_kit.errors import Unauthenticated, Unavailable
from service_kit.limits.settings import QuotaSection, limits_of

MAX_KEY_ID_CHARS = 256
_NOT_GOOD = "the token is not good"
_NAMES: TypeAdapter[str] = TypeAdapter(CallerName)
_PATTERNS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[AvatarPattern, ...])
# Of jwt and of what it reads: numbers and texts that no token should have.
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class Tokens:
    """Checks tokens by a section of the settings. `stands` tells if a caller was not revoked."""

    def __init__(self, section: JwtSection, *, clock: Clock, stands: Callable[[Caller], bool]) -> None:
        self._section = section
        self._stands = stands
        load = partial(from_file, section.jwks_file) if section.jwks_file else partial(from_url, section.jwks_url or "")
        self.keys = SigningKeys(load, refresh_seconds=section.refresh_seconds, clock=clock)

    async def caller_of(self, token: str) -> Caller:
        """Returns the caller that a token names. Raises Unauthenticated, or Unavailable while no keys could be had."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except _UNREADABLE:
            raise Unauthenticated(_NOT_GOOD) from None
        if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_CHARS):
            raise Unauthenticated(_NOT_GOOD)
        key = await self.keys.find(key_id)
        if key is None and not self.keys.are_known:
            raise Unavailable("the keys that sign tokens are not known yet; try again shortly")
        if key is None:
            raise Unauthenticated(_NOT_GOOD)
        return self._caller(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        section = self._section
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(section.algorithms),
                issuer=section.issuer,
                audience=section.audience,
                leeway=section.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except _UNREADABLE:
            raise Unauthenticated(_NOT_GOOD) from None
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        try:
            name = _NAMES.validate_python(claims["sub"])
            limits = QuotaSection.model_validate(claims.get(self._section.limits_claim, {}))
            avatars = _PATTERNS.validate_python(claims.get(self._section.avatars_claim, ["*"]))
        except ValidationError:
            raise Unauthenticated("the token names a caller, avatars or limits in a form that none have") from None
        return Caller(name, frozenset(self._scopes(claims)), avatars, limits=limits_of(limits), stands=self._stands)

    def _scopes(self, claims: dict[str, Any]) -> Iterator[Scope]:
        """Yields the scopes that we know, of `scope` (a text with spaces, as in RFC 9068) or `scp` (a list of some issuers)."""
        given = claims.get("scope", claims.get("scp", ""))
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        prefix = self._section.scope_prefix
        for word in words:
            if isinstance(word, str) and word.startswith(prefix) and word.removeprefix(prefix) in set(Scope):
                yield Scope(word.removeprefix(prefix))
