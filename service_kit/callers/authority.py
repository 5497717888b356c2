"""Says who calls: reads the credential of a call, and finds the caller that it belongs to."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service_kit.callers.caller import ALL_SCOPES, ANONYMOUS, REVOKED, Caller, Scope
from service_kit.callers.credentials import caller_limits_in, caller_named_in, credential_in
from service_kit.callers.key_file import KeyFileError
from service_kit.callers.key_ring import KeyRing
from service_kit.callers.keys import digest, looks_like_key
from service_kit.callers.settings import AuthSection, JwtSection
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import PermissionDenied, Unauthenticated
from service_kit.limits.settings import QuotaSection, limits_of
from service_kit.listening import StartError
from service_kit.tasks import beside

if TYPE_CHECKING:  # PyJWT and what it needs take a while to import, and few services check tokens
    from service_kit.callers.tokens import Tokens

# Also "anonymous", and addresses where they serve as names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}", re.ASCII)
# Of a gateway itself, which acts for others: what they may not do in its name.
_NOT_DELEGATED = {Scope.ADMIN, Scope.DELEGATE}

Pairs = Iterable[tuple[str, str | bytes]]


class Authority:
    """Identifies callers by the `auth` section. `own_key`: a credential of this process itself, with all scopes.

    Raises StartError for files that cannot be used.
    """

    def __init__(
        self,
        section: AuthSection,
        *,
        clock: Clock = SYSTEM_CLOCK,
        unix_now: Callable[[], float] = time.time,
        own_key: str | None = None,
    ) -> None:
        try:
            self._keys = KeyRing(section.keys_file, reload_seconds=section.reload_seconds, clock=clock, unix_now=unix_now)
        except KeyFileError as error:
            raise StartError(f"auth.keys_file: {error}") from None
        self._tokens = _tokens(section.jwt, clock, self.stands) if section.jwt.is_on else None
        self._certificates = section.certificates
        self._own = digest(own_key) if own_key else None
        self._anonymous = Caller(ANONYMOUS, frozenset(section.anonymous), stands=self._keys.stands)

    def asks_certificate(self, pairs: Pairs) -> bool:
        """Tells if the names in the caller's certificate count. Raises Unauthenticated."""
        return bool(self._certificates.names) and credential_in(pairs) is None

    async def identify(self, pairs: Pairs, names: Iterable[str] = ()) -> Caller:
        """Returns the caller whose metadata or headers these are. `names`: those in its certificate, which TLS has checked.

        Raises Unauthenticated or PermissionDenied.
        """
        pairs = list(pairs)
        credential = credential_in(pairs)
        caller = self._without_credential(names) if credential is None else await self._of_credential(credential)
        if (named := caller_named_in(pairs)) is not None:
            caller = _in_the_name_of(named, caller_limits_in(pairs), caller)
        if caller.is_revoked:
            raise self.revoked(caller)
        return caller

    def on_change(self, tell: Callable[[], None]) -> None:
        """Lets `tell` be called whenever callers may have been revoked."""
        self._keys.on_change.append(tell)

    def stands(self, caller: Caller) -> bool:
        """Tells if neither the caller nor the key by which it came was revoked."""
        return self._keys.stands(caller)

    def revoked(self, caller: Caller) -> Unauthenticated:
        """Returns the error for a caller that stands no more: by its name, or by the key with which it or its gateway came."""
        return Unauthenticated(REVOKED if self._keys.has_revoked(caller.name) else "this API key was revoked")

    async def follow(self) -> None:
        """Follows the files and the keys of tokens, without end."""
        async with beside(self._tokens.keys.follow()) if self._tokens else nullcontext():
            await self._keys.follow()
            await asyncio.Event().wait()

    async def _of_credential(self, credential: str) -> Caller:
        if self._own and hmac.compare_digest(digest(credential), self._own):
            return Caller("own", ALL_SCOPES)
        if looks_like_key(credential):
            return self._keys.caller_of(credential)
        if self._tokens:
            return await self._tokens.caller_of(credential)
        raise Unauthenticated("this credential is not known")

    def _without_credential(self, names: Iterable[str]) -> Caller:
        known = next((name for name in names if name in self._certificates.names), None)
        if known is not None:
            return Caller(known, frozenset(self._certificates.scopes), stands=self._keys.stands)
        if not self._anonymous.scopes:
            raise Unauthenticated("send an API key: authorization: Bearer KEY, or x-api-key: KEY")
        return self._anonymous


def _tokens(section: JwtSection, clock: Clock, stands: Callable[[Caller], bool]) -> Tokens:
    """Makes what checks tokens. Raises StartError with every problem of the section."""
    from service_kit.callers.signing_keys import SigningKeysError, from_file, read_keys
    from service_kit.callers.tokens import Tokens

    problems = [
        f"auth.jwt.{name}: not given, and tokens need it" for name in ("issuer", "audience") if not getattr(section, name)
    ]
    if bool(section.jwks_url) == bool(section.jwks_file):
        problems.append("auth.jwt.jwks_url: give it or jwks_file, and not both")
    elif section.jwks_file:
        try:
            read_keys(from_file(section.jwks_file))
        except (OSError, ValueError, SigningKeysError) as error:
            problems.append(f"auth.jwt.jwks_file: {section.jwks_file} cannot be used: {error}")
    if problems:
        raise StartError("; ".join(problems))
    return Tokens(section, clock=clock, stands=stands)


@asynccontextmanager
async def authority_of(section: AuthSection, *, clock: Clock, own_key: str | None = None) -> AsyncIterator[Authority | None]:
    """Gives what identifies callers during the block; None where nobody is asked. Raises StartError."""
    if not section.is_on:
        yield None
        return
    authority = Authority(section, clock=clock, own_key=own_key)
    async with beside(authority.follow()):
        yield authority


def _in_the_name_of(name: str, limits: str | None, caller: Caller) -> Caller:
    if not caller.may(Scope.DELEGATE):
        raise PermissionDenied("this caller may not call in the name of others: it needs the scope delegate")
    if not _NAME.fullmatch(name):
        raise Unauthenticated("the name of the caller for whom this one calls is not well-formed")
    try:
        own = limits_of(QuotaSection.model_validate_json("{}" if limits is None else limits))
    except ValidationError:
        raise Unauthenticated("the limits of the caller for whom this one calls are not well-formed") from None
    return replace(caller, name=name, scopes=caller.scopes - _NOT_DELEGATED, limits=own)
