"""The search for secrets in logs finds those that there are, so that its silence means something."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode

import pytest

from gateway_service.identity.tickets import Tickets
from service_kit.callers.caller import ALL_SCOPES, Caller
from service_kit.callers.keys import new_key

from ..secret_shapes import secrets_in
from ..service_kit.issued_tokens import claims, signed

TICKETS = Tickets(b"s" * 32, seconds=30, stands=lambda _: True, unix_now=lambda: 1e9)


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        (new_key().text, "an API key"),
        (new_key().text[:-7], "an API key"),
        (signed(claims()), "a token or a ticket"),
        (TICKETS.make(Caller("alice", ALL_SCOPES)), "a token or a ticket"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        (b64encode(hmac.digest(b"shared with a TURN server", b"1767225600", "sha1")).decode(), "a password for TURN"),
        (f"/api/sessions/{secrets.token_urlsafe(24)}/stream.mjpeg", "the secret of a session or of a viewer"),
        (f"/api/whep/{secrets.token_urlsafe(24)}", "the secret of a session or of a viewer"),
        ("redis://:correct-horse@localhost:6379", "a password in an address"),
    ],
    ids=["key", "key without its checksum", "token", "ticket", "private key", "RSA key", "TURN", "session", "viewer", "address"],
)
def test_a_secret_is_found(secret: str, kind: str) -> None:
    assert secrets_in(f'2026-01-01T00:00:00 ERROR refused "{secret}" at once') == [kind]


def test_what_is_no_secret_is_not() -> None:
    lines = (
        "the API key bUpdsc34jc of alice was revoked",
        "ls_live_bUpdsc34jc",
        "ready compositing 127.0.0.1:50052 metrics 127.0.0.1:53052",
        "redis://localhost:6379/0 and https://login.example.com:443/jwks.json?a=b@c",
        "session 550e8400-e29b-41d4-a716-446655440000 of sessions/550e8400",
        "traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    assert secrets_in("\n".join(lines)) == []
