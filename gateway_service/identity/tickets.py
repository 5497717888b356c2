"""Tickets: a caller with an API key gets one over HTTP, and shows it in the first message of a WebSocket, to which browsers
can give no headers.

A ticket names its caller and is signed, so any gateway with the same secret takes it. It is good for a short time, and at each
gateway once.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service_kit.callers.caller import REVOKED, Caller, Scope
from service_kit.errors import Unauthenticated

MAX_TICKET_CHARS = 16 << 10
_NOT_GOOD = "the ticket is not good: get another one"


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    scopes: list[str]
    avatars: list[str]
    key_id: str
    limits: dict[str, float | None]
    expires: float
    nonce: Annotated[str, Field(min_length=16)]


class Tickets:
    """Makes and takes tickets. `stands` is `Authority.stands`, `unix_now` gives seconds since 1970."""

    def __init__(self, secret: bytes, *, seconds: float, stands: Callable[[Caller], bool], unix_now: Callable[[], float]) -> None:
        self._secret = secret
        self.seconds = seconds
        self._stands = stands
        self._unix_now = unix_now
        self._used: dict[str, float] = {}
        """The end of each ticket that was shown, by its nonce; the oldest first."""

    def make(self, caller: Caller) -> str:
        """Makes a ticket. It has the caller's scopes but for admin and delegate, which no socket needs."""
        content = _Content(
            name=caller.name,
            scopes=sorted(caller.scopes & {Scope.INFER, Scope.READ}),
            avatars=list(caller.avatars),
            key_id=caller.key_id,
            limits=dict(caller.limits),
            expires=self._unix_now() + self.seconds,
            nonce=secrets.token_urlsafe(16),
        )
        body = urlsafe_b64encode(content.model_dump_json().encode()).decode()
        return f"{body}.{self._signature(body)}"

    def take(self, ticket: str) -> Caller:
        """Returns the caller of a ticket, which is worth nothing from then on. Raises Unauthenticated."""
        body, _, signature = ticket.rpartition(".")
        if len(ticket) > MAX_TICKET_CHARS or not ticket.isascii() or not hmac.compare_digest(signature, self._signature(body)):
            raise Unauthenticated(_NOT_GOOD)
        try:
            content = _Content.model_validate(json.loads(urlsafe_b64decode(body)))
        except (ValueError, ValidationError):
            raise Unauthenticated(_NOT_GOOD) from None
        now = self._unix_now()
        if now >= content.expires:
            raise Unauthenticated("the ticket has expired: get another one")
        self._forget_expired(now)
        if content.nonce in self._used:
            raise Unauthenticated("the ticket was used already: get another one")
        self._used[content.nonce] = content.expires
        caller = Caller(
            content.name,
            frozenset(map(Scope, content.scopes)),
            tuple(content.avatars),
            content.key_id,
            tuple(content.limits.items()),
            stands=self._stands,
        )
        if caller.is_revoked:
            raise Unauthenticated(REVOKED)
        return caller

    def _signature(self, body: str) -> str:
        return urlsafe_b64encode(hmac.digest(self._secret, body.encode(), sha256)).decode()

    def _forget_expired(self, now: float) -> None:
        while self._used and next(iter(self._used.values())) <= now:
            del self._used[next(iter(self._used))]
