"""API keys: their file, and what a service makes of it while it changes."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import pytest

from service_kit.callers.authority import Authority
from service_kit.callers.caller import Caller, Scope
from service_kit.callers.key_file import KeyFile, KeyFileError, KeyRecord, changing, read_key_file
from service_kit.callers.key_ring import KeyRing
from service_kit.callers.keys import NewKey, digest, new_key
from service_kit.callers.settings import AuthSection
from service_kit.errors import PermissionDenied, ServiceError, Unauthenticated
from service_kit.listening import StartError
from service_kit.tasks import beside

from ..virtual_clock import VirtualClock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RELOAD_S = 5.0


def record(key: NewKey, caller: str = "alice", *, scopes: tuple[Scope, ...] = (Scope.INFER,), **more: object) -> KeyRecord:
    return KeyRecord.model_validate(
        {"id": key.id, "caller": caller, "sha256": digest(key.text).hex(), "scopes": scopes, "created": NOW, **more}
    )


def write(path: Path, *records: KeyRecord, revoked: tuple[str, ...] = ()) -> None:
    with changing(path) as held:
        held[0] = KeyFile(keys=records, revoked_callers=revoked)


class Known:
    """An authority over a file of keys, at a time that the test says."""

    def __init__(self, path: Path, **section: object) -> None:
        self.unix_now = NOW.timestamp()
        self.clock = VirtualClock()
        given = AuthSection(keys_file=path, reload_seconds=RELOAD_S, **section)
        self.authority = Authority(given, clock=self.clock, unix_now=lambda: self.unix_now)

    async def caller(self, text: str) -> Caller:
        return await self.authority.identify([("x-api-key", text)])

    async def refusal(self, text: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.caller(text)
        assert text not in caught.value.message
        return caught.value.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_caller_has_two_live_keys_at_most(path: Path) -> None:
    first, second, third = new_key(), new_key(), new_key()
    with changing(path) as held:
        held[0] = held[0].with_key(record(first), NOW).with_key(record(second, expires=NOW + timedelta(days=1)), NOW)
    with pytest.raises(KeyFileError, match=rf"{first.id} and {second.id}"), changing(path) as held:
        held[0] = held[0].with_key(record(third), NOW)
    with changing(path) as held:  # one of them is over by then
        held[0] = held[0].with_key(record(third), NOW + timedelta(days=2))
    assert list(read_key_file(path).by_id) == [first.id, second.id, third.id]


def _add(path: Path, caller: str) -> None:
    with changing(path) as held:
        held[0] = held[0].with_key(record(new_key(), caller), NOW)


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    names = [f"caller-{number}" for number in range(12)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_add, [(path, name) for name in names])
    assert sorted(each.caller for each in read_key_file(path).keys) == sorted(names)


def test_a_link_to_the_file_stays_one_and_rights_stay(path: Path, tmp_path: Path) -> None:
    write(path, record(new_key()))
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    _add(link, "bob")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert len(read_key_file(path).keys) == 2


def test_the_file_holds_no_key(path: Path) -> None:
    key = new_key()
    write(path, record(key))
    assert key.text not in path.read_text()
    assert key.text.split("_")[3] not in path.read_text()


GOOD = {"id": "0123456789", "caller": "alice", "sha256": "0" * 64, "scopes": ["infer"], "created": "2030-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"keys": [GOOD, GOOD]}).encode(),
        json.dumps({"keys": [GOOD | {"id": "../../etc"}]}).encode(),
        json.dumps({"keys": [GOOD | {"caller": "a\nb"}]}).encode(),
        json.dumps({"keys": [GOOD | {"sha256": "0"}]}).encode(),
        json.dumps({"keys": [GOOD | {"scopes": ["root"]}]}).encode(),
        json.dumps({"keys": [GOOD | {"created": "2030-01-01T00:00:00"}]}).encode(),
        json.dumps({"keys": [GOOD | {"surplus": 1}]}).encode(),
        json.dumps({"version": 2}).encode(),
        b" " * (5 << 20),
    ],
    ids=range(14),
)
def test_what_is_no_file_of_keys_is_refused_in_one_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=str(path)) as caught:
        read_key_file(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(StartError, match=r"auth\.keys_file"):
        Known(path)


async def test_a_key_gives_its_caller(path: Path) -> None:
    key = new_key()
    write(path, record(key, scopes=(Scope.INFER, Scope.READ), avatars=("demo", "anna-*")))
    caller = await Known(path).caller(key.text)
    assert (caller.name, caller.scopes, caller.key_id) == ("alice", {Scope.INFER, Scope.READ}, key.id)
    assert [name for name in ("demo", "demo2", "anna-1", "Demo", "anna") if caller.may_use(name)] == ["demo", "anna-1"]
    with pytest.raises(PermissionDenied):
        caller.check(Scope.ADMIN)


async def test_unknown_and_wrong_keys_are_refused_in_the_same_words(path: Path) -> None:
    key, other = new_key(), new_key()
    write(path, record(key), record(NewKey(other.id, "with another secret"), "bob"))
    known = Known(path)
    assert await known.refusal(new_key().text) == await known.refusal(other.text) == "this API key is not known"
    assert await known.refusal("a-token") == "this credential is not known"


async def test_a_key_is_good_until_it_expires(path: Path) -> None:
    key = new_key()
    write(path, record(key, expires=NOW + timedelta(seconds=10)))
    known = Known(path)
    known.unix_now += 9.9
    caller = await known.caller(key.text)
    known.unix_now += 0.1
    assert await known.refusal(key.text) == "this API key has expired"
    assert not caller.is_revoked


async def test_without_a_credential_callers_may_do_what_anonymous_ones_may(path: Path) -> None:
    write(path)
    with pytest.raises(Unauthenticated, match="send an API key"):
        await Known(path).authority.identify([])
    caller = await Known(path, anonymous=("infer",)).authority.identify([("user-agent", "old")])
    assert (caller.name, caller.scopes) == ("anonymous", {Scope.INFER})
    await Known(path, anonymous=("infer",)).refusal(new_key().text)  # a bad key is not none


async def test_the_file_is_read_again_when_it_changes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = Known(path)  # there is none yet
    assert "is not there yet" in caplog.text
    told: list[str] = []
    known.authority.on_change(lambda: told.append("changed"))
    key, other = new_key(), new_key()
    async with beside(known.authority.follow()):
        await known.clock.asleep()

        async def look() -> None:
            await known.clock.advance(RELOAD_S)
            await known.clock.asleep()

        write(path, record(key), record(other, "bob"))
        await look()
        alice, bob = await known.caller(key.text), await known.caller(other.text)
        write(path, record(other, "bob"))
        await look()
        await known.refusal(key.text)
        assert (alice.is_revoked, bob.is_revoked) == (True, False)
        path.write_text("{")  # noqa: ASYNC240
        await look()
        path.unlink()  # noqa: ASYNC240
        await look()
        await known.caller(other.text)
        assert "cannot be used" in caplog.text
        assert "is gone" in caplog.text
        write(path, record(other, "bob"), revoked=("bob",))
        await look()
        assert bob.is_revoked
        with pytest.raises(Unauthenticated, match="revoked"):
            await known.caller(other.text)
    assert len(told) == 3
    assert key.text not in caplog.text
    assert other.text not in caplog.text


async def test_only_a_gateway_may_call_in_the_name_of_others(path: Path) -> None:
    gateway, alice = new_key(), new_key()
    write(
        path,
        record(gateway, "gateway", scopes=tuple(Scope), avatars=("demo",), limits={"sessions": 1}),
        record(alice, scopes=(Scope.INFER, Scope.ADMIN)),
        revoked=("mallory",),
    )
    identify: Callable[..., object] = Known(path).authority.identify

    async def named(key: NewKey, *names: str) -> Caller:
        return await identify([("x-api-key", key.text), *(("x-lipsync-caller", name) for name in names)])  # type: ignore[misc, no-any-return]

    bob = await named(gateway, "bob@example.com")
    assert (bob.name, bob.scopes, bob.avatars) == ("bob@example.com", {Scope.INFER, Scope.READ}, ("demo",))
    assert bob.limits == ()  # not those of the gateway
    with pytest.raises(Unauthenticated, match="revoked"):
        await named(gateway, "mallory")
    with pytest.raises(PermissionDenied):
        await named(alice, "bob")
    for names in (("bob", "carol"), ("",), ("a\nb",), ("b" * 200,)):
        with pytest.raises(ServiceError):
            await named(gateway, *names)


async def test_a_gateway_passes_the_limits_of_others_on(path: Path) -> None:
    gateway, alice = new_key(), new_key()
    write(path, record(gateway, "gateway", scopes=tuple(Scope)), record(alice, limits={"sessions": 1}))
    identify = Known(path).authority.identify
    assert (await identify([("x-api-key", alice.text)])).limits == (("sessions", 1),)
    for_bob = [("x-api-key", gateway.text), ("x-lipsync-caller", "bob")]
    bob = await identify([*for_bob, ("x-lipsync-caller-limits", '{"sessions": 2.0, "loads_per_hour": null}')])
    assert bob.limits == (("sessions", 2), ("loads_per_hour", None))
    for wrong in ("", "{", "[]", '{"sessions": -1}', '{"more": 1}', "[" * 5000):
        with pytest.raises(Unauthenticated):
            await identify([*for_bob, ("x-lipsync-caller-limits", wrong)])
    # Nobody raises a limit for itself.
    alone = await identify([("x-api-key", alice.text), ("x-lipsync-caller-limits", '{"sessions": 99}')])
    assert alone.limits == (("sessions", 1),)


def work_of(check: Callable[[], object]) -> tuple[str, ...]:
    """The functions that a check calls, in Python and in C, one after the other."""
    called: list[str] = []

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)
        elif event == "c_call":
            called.append(getattr(function, "__qualname__", ""))

    sys.setprofile(note)
    try:
        with suppress(Unauthenticated):
            check()
    finally:
        sys.setprofile(None)
    return tuple(called)


def test_a_refusal_takes_the_same_work_however_near_the_key_is(tmp_path: Path) -> None:
    """Counted, not timed. `compare_digest` takes the same time wherever two digests differ first."""
    key, path = new_key(), tmp_path / "keys.json"
    right = bytearray(digest(key.text))
    first, last = bytearray(right), bytearray(right)
    first[0] ^= 1
    last[-1] ^= 1
    works = {}
    for name, kept in {"first byte": first, "last byte": last, "all": bytes(32), "no such key": None}.items():
        write(path, *([record(key, sha256=kept.hex())] if kept else []))
        ring = KeyRing(path, reload_seconds=RELOAD_S, clock=VirtualClock(), unix_now=NOW.timestamp)
        works[name] = work_of(lambda ring=ring: ring.caller_of(key.text))
    assert len(set(works.values())) == 1, works
    assert works["all"].count("compare_digest") == 1
