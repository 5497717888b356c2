"""Opens what identifies the gateway's callers."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_service.identity.callers import Callers
from gateway_service.identity.tickets import Tickets
from gateway_service.settings import GatewaySettings
from service_kit.callers.authority import authority_of
from service_kit.clock import Clock
from service_kit.listening import StartError

LEAST_SECRET_BYTES, MOST_SECRET_BYTES = 32, 4096


@asynccontextmanager
async def callers_of(settings: GatewaySettings, clock: Clock) -> AsyncIterator[Callers]:
    """Gives what identifies callers during the block. Raises StartError for files that cannot be used."""
    async with authority_of(settings.auth, clock=clock) as authority:
        tickets = None
        if authority:
            secret = _secret(settings.tickets.secret_file)
            tickets = Tickets(secret, seconds=settings.tickets.seconds, stands=authority.stands, unix_now=time.time)
        yield Callers(authority, tickets)


def _secret(path: Path | None) -> bytes:
    """Returns the secret in a file, or a new one without a file."""
    if path is None:
        return secrets.token_bytes(LEAST_SECRET_BYTES)
    try:
        with path.open("rb") as file:
            found = file.read(MOST_SECRET_BYTES)
    except OSError as error:
        raise StartError(f"tickets.secret_file: {path} cannot be read: {error.strerror}") from None
    if len(found) < LEAST_SECRET_BYTES:
        raise StartError(
            f"tickets.secret_file: {path} holds fewer than {LEAST_SECRET_BYTES} bytes; make it with a random generator"
        )
    return found
