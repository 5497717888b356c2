"""The shared store of limits can be lost: what is let through meanwhile, how seldom it is asked, and that it comes back."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.limits.redis_store import PAUSE_S, RedisStore, redis_store
from service_kit.limits.settings import QuotaStoreSection
from service_kit.limits.store import Refusal, Stream, Use
from service_kit.listening import StartError
from service_kit.metrics import Metrics

from ..redis_server import RedisServer, running_redis
from ..tls.authority import Authority
from ..virtual_clock import VirtualClock

ONE = [Use("one", 1 / 3600, 1, 1)]
# Those that the server must let us use, as docs/callers.md names them.
COMMANDS = ["evalsha", "script|load", "time", "get", "set", "zadd", "zrem", "zcard", "zrange", "zremrangebyscore", "pexpire"]
PASSWORD = "correct-horse-battery"


class Opened:
    """A store, and what it shows."""

    def __init__(self, store: RedisStore, metrics: Metrics) -> None:
        self.store, self._metrics = store, metrics

    @property
    def is_up(self) -> bool:
        return bool(self._metrics.registry.get_sample_value("lipsync_quota_store_up"))

    @property
    def unchecked(self) -> float:
        return self._metrics.registry.get_sample_value("lipsync_quota_unchecked_total", {"operation": "take"}) or 0


@asynccontextmanager
async def opened(clock: Clock, **section: object) -> AsyncIterator[Opened]:
    metrics = Metrics()
    async with redis_store(QuotaStoreSection.model_validate({"timeout_seconds": 20, **section}), clock, metrics) as store:
        yield Opened(store, metrics)


def lost_and_found(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if "shared store" in record.message]


async def test_a_store_that_never_answers_is_asked_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it but the first, and one after each pause."""
    caplog.set_level(logging.INFO)
    connections: list[asyncio.StreamWriter] = []
    clock = VirtualClock()
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    async with server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with opened(clock, url=url, timeout_seconds=0.2) as there:
            assert await asyncio.gather(*(there.store.take(ONE) for _ in range(8))) == [None] * 8
            asked = len(connections)
            assert 1 <= asked <= 8
            for _ in range(20):
                assert await there.store.take(ONE) is None
            assert len(connections) == asked
            await clock.advance(PAUSE_S)
            assert await asyncio.gather(*(there.store.take(ONE) for _ in range(8))) == [None] * 8
            assert len(connections) == asked + 1
            assert not there.is_up
            assert there.unchecked == 36
        for writer in connections:
            writer.close()
    assert lost_and_found(caplog) == ["ERROR"]


async def test_a_store_that_is_killed_comes_back_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = VirtualClock()
    with running_redis(tmp_path) as server:
        async with opened(clock, url=server.url) as there:
            assert await there.store.take(ONE) is None
            assert await there.store.take(ONE) == Refusal("one", pytest.approx(3600, abs=600))  # type: ignore[arg-type]
            server.kill()
            assert await there.store.take(ONE) is None
            assert (there.is_up, there.unchecked) == (False, 1)
            server.start()
            assert await there.store.take(ONE) is None
            assert there.unchecked == 2
            await clock.advance(PAUSE_S)
            # It has forgotten what it knew, and counts again.
            assert await there.store.take(ONE) is None
            assert await there.store.take(ONE) is not None
            assert (there.is_up, there.unchecked) == (True, 2)
    assert lost_and_found(caplog) == ["ERROR", "INFO"]


async def test_a_store_that_stands_still_forgets_nothing(tmp_path: Path) -> None:
    clock = VirtualClock()
    with running_redis(tmp_path) as server:
        async with opened(clock, url=server.url) as there:
            assert await there.store.take(ONE) is None
        async with opened(clock, url=server.url, timeout_seconds=0.2) as there:
            server.signal(signal.SIGSTOP)
            assert await there.store.take(ONE) is None
            assert not there.is_up
            server.signal(signal.SIGCONT)
        async with opened(clock, url=server.url) as there:
            assert await there.store.take(ONE) is not None


async def test_the_password_is_read_again_and_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    clock = VirtualClock()
    password = tmp_path / "password"
    password.write_text("mistyped\n")
    with running_redis(tmp_path / "redis", "--requirepass", PASSWORD) as server:
        async with opened(clock, url=server.url, password_file=password) as there:
            assert await there.store.take(ONE) is None
            assert not there.is_up
            password.write_text(f"{PASSWORD}\n")
            await clock.advance(PAUSE_S)
            assert await there.store.take(ONE) is None
            assert await there.store.take(ONE) is not None
            assert there.is_up
    assert lost_and_found(caplog) == ["ERROR", "INFO"]
    assert PASSWORD not in caplog.text
    assert "mistyped" not in caplog.text


async def test_tls_and_a_name_of_a_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, strange = Authority.make(tmp_path / "own"), Authority.make(tmp_path / "strange")
    pair = own.issue(tmp_path / "issued")
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    options = (
        *("--tls-cert-file", pair.certificate, "--tls-key-file", pair.key, "--tls-ca-cert-file", own.certificate),
        *("--user", "limits", "on", f">{PASSWORD}", "~lipsync:*", *(f"+{command}" for command in COMMANDS)),
        *("--user", "default", "off"),
    )
    server = RedisServer(tmp_path, ("--port", "0", *map(str, options)))
    server.options = (*server.options, "--tls-port", str(server.port))
    try:
        server.start()
        url = f"rediss://localhost:{server.port}"
        common = {"url": url, "username": "limits", "password_file": password}
        shown = {"certificate_file": pair.certificate, "key_file": pair.key}
        for wrong in ({"ca_file": strange.certificate, **shown}, {"ca_file": own.certificate}):
            async with opened(SYSTEM_CLOCK, **common, **wrong) as there:
                assert await there.store.take(ONE) is None
                assert not there.is_up
        async with opened(SYSTEM_CLOCK, **common, **shown, ca_file=own.certificate) as there:
            assert await there.store.take(ONE) is None
            assert await there.store.take(ONE) is not None, caplog.text
            stream = Stream("session", "0" * 32, ("sessions",))
            for most in (1, 1, 2):
                await there.store.begin(stream, [most], ONE)
            await there.store.renew([stream])
            await there.store.end(stream, is_over=False)
            assert there.is_up, caplog.text
    finally:
        server.stop()
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("name", ["password_file", "ca_file", "certificate_file", "key_file"])
async def test_files_that_cannot_be_used_are_named_at_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(StartError, match=rf"quotas\.store\.{name}"):
            async with opened(SYSTEM_CLOCK, url="rediss://localhost:1", **{name: path}):
                pass


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://localhost", "redis://", "redis://:secret@localhost", "redis://me@localhost", "redis://a?db=1"],
)
def test_addresses_that_are_none_or_hold_a_secret(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QuotaStoreSection(url=url)
    assert "secret" not in str(caught.value.errors(include_input=False))
