"""Tokens of an issuer: signed here by hand, with public keys in a file or at an address of a server that a test holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from service_kit.callers.authority import Authority
from service_kit.callers.caller import Caller, Scope
from service_kit.callers.key_file import KeyFile, changing
from service_kit.callers.settings import AuthSection
from service_kit.callers.signing_keys import COOLDOWN_S
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import ServiceError, Unauthenticated, Unavailable
from service_kit.listening import StartError
from service_kit.tasks import beside

from ..virtual_clock import VirtualClock

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


@pytest.fixture(scope="module")
def jwks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jwks") / "jwks.json"
    path.write_text(BOTH)
    return path


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


@pytest.fixture
def checked(jwks_file: Path) -> Checked:
    return Checked(section(jwks_file=jwks_file))


async def test_a_token_gives_its_caller(checked: Checked) -> None:
    caller = await checked.caller(signed(claims(avatars=["anna-*"])))
    assert (caller.name, caller.scopes, caller.avatars) == ("alice", {Scope.INFER, Scope.READ}, ("anna-*",))
    assert (await checked.caller(signed_with_curve(claims()))).avatars == ("*",)
    assert (await checked.caller(signed(claims(scope=None, scp=["read", "openid", 5])))).scopes == {Scope.READ}
    assert (await checked.caller(signed(claims(scope=None)))).scopes == set()
    assert (await checked.caller(signed(claims(aud=["another", AUDIENCE])))).name == "alice"


async def test_a_token_may_hold_the_limits_of_its_caller(checked: Checked) -> None:
    limits = {"sessions": 4, "loads_per_hour": None}
    assert dict((await checked.caller(signed(claims(limits=limits)))).limits) == limits
    assert (await checked.caller(signed(claims()))).limits == ()
    for wrong in ([], "sessions=4", {"sessions": -1}, {"sessions": 0.5}, {"sesions": 4}, {"names": "*"}):
        assert "form" in await checked.refusal(signed(claims(limits=wrong)))


async def test_scopes_may_have_a_prefix(jwks_file: Path) -> None:
    checked = Checked(section(jwks_file=jwks_file, scope_prefix="lipsync:"))
    assert (await checked.caller(signed(claims(scope="lipsync:infer admin lipsync:root")))).scopes == {Scope.INFER}


async def test_expiry_allows_for_clocks_that_differ(jwks_file: Path) -> None:
    checked = Checked(section(jwks_file=jwks_file, leeway_seconds=60))
    await checked.caller(signed(claims(exp=time.time() - 30)))
    assert await checked.refusal(signed(claims(exp=time.time() - 90))) == "the token has expired"


PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def with_public_key_as_secret(secret: bytes, kid: str = "r1") -> str:
    """The classic confusion: the public key, which everybody has, as the secret of HS256."""
    text = unsigned({"alg": "HS256", "kid": kid}, claims())
    return f"{text}.{coded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


@pytest.mark.parametrize(
    "token",
    [
        signed(claims(), key=OTHER),
        signed(claims(), kid="nobody"),
        signed(claims(), kid=None),
        signed(claims(), kid=["r1"]),
        signed(claims(), kid="../../etc/passwd"),
        signed(claims(), kid="r" * 1000),
        signed(claims(), alg="none"),
        signed(claims(), alg="RS512"),
        signed(claims(), alg="ES256"),
        signed(claims(), crit=["b64"], b64=False),
        signed(claims(), kid="e1"),
        f"{unsigned({'alg': 'none', 'kid': 'r1'}, claims())}.",
        f"{unsigned({'alg': 'nOnE', 'kid': 'r1'}, claims())}.",
        with_public_key_as_secret(PEM),
        with_public_key_as_secret(b"s" * 32, "s1"),
        signed(claims(iss="https://evil.example")),
        signed(claims(iss=None)),
        signed(claims(aud="another")),
        signed(claims(aud=None)),
        signed(claims(aud=[])),
        signed(claims(exp=None)),
        signed(claims(exp="never")),
        signed(claims(exp=float("inf"))),
        signed(claims(nbf=time.time() + 3600)),
        signed(claims(sub=None)),
        signed(claims(sub="")),
        signed(claims(sub=5)),
        signed(claims(sub="a\nb")),
        signed(claims(sub="a" * 200)),
        signed(claims(avatars="demo")),
        signed(claims(avatars=["a/b"])),
        signed(claims(avatars={})),
        signed(claims()) + "A",
        signed(claims())[:-8],
        signed(claims()).replace(".", "..", 1),
        "a.b.c",
        "....",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.e30.",
        signed(claims(padding="x" * 9000)),
    ],
    ids=range(39),
)
async def test_what_is_no_good_token_is_refused(checked: Checked, token: str) -> None:
    message = await checked.refusal(token)
    assert "alice" not in message
    assert token not in message


@given(st.text("abcABC012.-_=", max_size=200) | st.binary(max_size=60).map(lambda data: ".".join([coded(data)] * 3)))
def test_any_text_is_refused(jwks_file: Path, text: str) -> None:
    asyncio.run(Checked(section(jwks_file=jwks_file)).refusal(text))


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5u"]), VALUES))
def test_any_header_is_refused_without_the_key(jwks_file: Path, header: dict[str, Any]) -> None:
    asyncio.run(Checked(section(jwks_file=jwks_file)).refusal(signed(claims(), key=OTHER, **header)))


async def test_a_revoked_caller_has_no_good_token(jwks_file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    with changing(keys) as held:
        held[0] = KeyFile(revoked_callers=("alice",))
    given = section(jwks_file=jwks_file).model_copy(update={"keys_file": keys})
    assert "revoked" in await Checked(given).refusal(signed(claims()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"audience": None}, "audience"),
        ({"issuer": None}, "issuer"),
        ({}, "jwks_url"),
        ({"jwks_url": "https://a.example/jwks", "jwks_file": "/nowhere"}, "jwks_url"),
        ({"jwks_file": "/nowhere"}, "jwks_file"),
    ],
)
def test_a_section_that_is_not_whole_ends_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(StartError, match=rf"auth\.jwt\.{said}"):
        Authority(section(**given))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '{"keys": [5]}', "[" * 99_999],
    ids=range(7),
)
def test_a_file_without_public_keys_ends_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(StartError, match=r"auth\.jwt\.jwks_file"):
        Authority(section(jwks_file=path))


@pytest.mark.parametrize(
    "url", ["http://issuer.example/jwks", "file:///etc/passwd", "ftp://a.example/", "https:///jwks", "jwks", ""]
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="jwks_url"):
        section(jwks_url=url)


class Issuer:
    """A server of public keys on loopback, which answers as a test says."""

    def __init__(self) -> None:
        self.content, self.status, self.location = BOTH, 200, ""
        self.asked = 0
        self.go_on = threading.Event()
        self.go_on.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.go_on.wait(30)
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("Location", issuer.location)
                self.end_headers()
                self.wfile.write(issuer.content.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.go_on.set()
    made.server.shutdown()
    made.server.server_close()


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_a_while(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await asyncio.gather(*(checked.refusal(signed(claims(), kid=f"x{n}")) for n in range(50)))
    assert issuer.asked == 1
    await checked.caller(signed(claims()))
    issuer.content = jwks(public(OTHER, "r2"))
    new = signed(claims(), key=OTHER, kid="r2")
    await checked.refusal(new)
    assert issuer.asked == 1
    await clock.advance(COOLDOWN_S)
    await checked.caller(new)
    assert issuer.asked == 2
    await checked.refusal(signed(claims()))  # the issuer has taken that key back


async def test_keys_are_asked_for_again_now_and_then(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url, refresh_seconds=300), clock)
    async with beside(checked.authority.follow()):
        await clock.asleep()
        await checked.caller(signed(claims()))
        issuer.content = jwks(public_curve("e1"))
        await clock.advance(300)
        await clock.asleep()
        await checked.refusal(signed(claims()))
        assert issuer.asked == 2


async def test_an_issuer_that_fails_leaves_the_old_keys(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await checked.caller(signed(claims()))
    for status, content, location in ((500, "", ""), (200, "{", ""), (200, " " * (2 << 20), ""), (302, "", issuer.url)):
        issuer.status, issuer.content, issuer.location = status, content, location
        before = issuer.asked
        await clock.advance(COOLDOWN_S)
        await checked.refusal(signed(claims(), kid="nobody"))
        assert issuer.asked == before + 1
        await checked.caller(signed(claims()))
    assert caplog.text.count("cannot be had") == 4


async def test_without_any_keys_yet_callers_are_told_to_come_back(issuer: Issuer) -> None:
    issuer.status = 500
    with pytest.raises(Unavailable):
        await Checked(section(jwks_url=issuer.url)).caller(signed(claims()))


async def test_a_slow_issuer_keeps_nobody_waiting_whose_key_is_known(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await checked.caller(signed(claims()))
    issuer.go_on.clear()
    await clock.advance(COOLDOWN_S)
    waiting = asyncio.create_task(checked.caller(signed(claims(), kid="nobody")))
    while issuer.asked < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await checked.caller(signed(claims()))
    assert not waiting.done()
    issuer.go_on.set()
    with pytest.raises(ServiceError):
        await waiting
