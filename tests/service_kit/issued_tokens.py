"""Tokens of an issuer, signed by hand, and an authority that says what it makes of them."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from service_kit.callers.authority import Authority
from service_kit.callers.caller import Caller
from service_kit.callers.settings import AuthSection
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import Unauthenticated

ISSUER, AUDIENCE = "https://issuer.example", "lipsync"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, length: int) -> str:
    return coded(value.to_bytes(length, "big"))


def public(key: rsa.RSAPrivateKey, kid: str, **more: str) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "n": number(numbers.n, 256), "e": number(numbers.e, 3), "alg": "RS256", **more}


def public_curve(kid: str) -> dict[str, str]:
    numbers = CURVE.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": number(numbers.x, 32), "y": number(numbers.y, 32), "use": "sig"}


def jwks(*keys: dict[str, str]) -> str:
    return json.dumps({"keys": [*keys]})


BOTH = jwks(public(RSA, "r1"), public_curve("e1"), {"kty": "oct", "kid": "s1", "k": coded(b"s" * 32), "alg": "HS256"})


def claims(**more: Any) -> dict[str, Any]:
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 60, "scope": "openid infer read", **more}
    return {name: value for name, value in given.items() if value is not None}


def unsigned(header: dict[str, Any], content: dict[str, Any]) -> str:
    return f"{coded(json.dumps(header).encode())}.{coded(json.dumps(content).encode())}"


def signed(content: dict[str, Any], *, key: rsa.RSAPrivateKey = RSA, **header: Any) -> str:
    text = unsigned({"alg": "RS256", "typ": "JWT", "kid": "r1", **header}, content)
    return f"{text}.{coded(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def signed_with_curve(content: dict[str, Any]) -> str:
    text = unsigned({"alg": "ES256", "kid": "e1"}, content)
    der = CURVE.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    first, second = decode_dss_signature(der)
    return f"{text}.{coded(first.to_bytes(32) + second.to_bytes(32))}"


def section(**more: Any) -> AuthSection:
    return AuthSection.model_validate({"jwt": {"issuer": ISSUER, "audience": AUDIENCE, **more}})


class Checked:
    """An authority, and what it says of tokens."""

    def __init__(self, given: AuthSection, clock: Clock = SYSTEM_CLOCK) -> None:
        self.authority = Authority(given, clock=clock)

    async def caller(self, token: str) -> Caller:
        return await self.authority.identify([("authorization", f"Bearer {token}")])

    async def refusal(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.caller(token)
        return caught.value.message
