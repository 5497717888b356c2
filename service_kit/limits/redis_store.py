"""The state of limits in a Valkey or Redis server, shared by all processes that use it.

One script decides at the server's own time, in one round trip: the clocks of processes need not agree. While the server cannot be
had, everything is let through. Then no call waits for it but one now and then, and that one for a short time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from service_kit.clock import Clock
from service_kit.limits.settings import QuotaStoreSection
from service_kit.limits.store import KEPT_S, LEASE_S, Refusal, Stream, Use
from service_kit.listening import StartError
from service_kit.metrics import Metrics

PAUSE_S = 2.0
MAX_PASSWORD_BYTES = 4096
_CONNECTIONS = 16
_US = 1_000_000
_SCRIPT = files(__package__).joinpath("redis_store.lua").read_text()

log = logging.getLogger(__name__)


class RedisStore:
    """Asks the server at `client`."""

    def __init__(self, client: Redis, section: QuotaStoreSection, clock: Clock, metrics: Metrics) -> None:
        self._script = client.register_script(_SCRIPT)
        self._prefix = f"{section.prefix}:"
        self._timeout_s = section.timeout_seconds
        self._clock = clock
        self._is_lost = False
        self._again_s = float("-inf")
        """While the server is lost, it is not asked before."""
        self._up = metrics.gauge("lipsync_quota_store_up", "1 while the shared store of quotas answers.")
        self._up.set(1)
        self._unchecked = metrics.counter(
            "lipsync_quota_unchecked_total", "What quotas let through because their shared store did not answer.", ("operation",)
        )

    async def take(self, uses: Sequence[Use]) -> Refusal | None:
        """Counts all uses, or none."""
        return await self._ask("take", uses=uses)

    async def charge(self, uses: Sequence[Use]) -> None:
        """Counts what was used already."""
        await self._ask("charge", uses=uses)

    async def begin(self, stream: Stream, most: Sequence[int | None], uses: Sequence[Use]) -> Refusal | None:
        """Gives a stream its places."""
        limits = [-1 if limit is None else limit for limit in most]
        return await self._ask("begin", uses=uses, sessions=_members([stream]), most=limits)

    async def renew(self, streams: Sequence[Stream]) -> None:
        """Keeps the places of streams."""
        await self._ask("renew", sessions=_members(streams))

    async def end(self, stream: Stream, *, is_over: bool) -> None:
        """Ends a stream."""
        await self._ask("leave", sessions=_members([stream]), most=[0 if is_over else -1] * len(stream.keys))

    async def _ask(
        self, operation: str, *, uses: Sequence[Use] = (), sessions: dict[str, list[str]] | None = None, most: Sequence[int] = ()
    ) -> Refusal | None:
        sessions = sessions or {}
        keys = [*(use.key for use in uses), *sessions]
        content = {
            "uses": [(_US / use.per_second, _US * use.burst / use.per_second, use.amount) for use in uses],
            "members": list(sessions.values()),
            "most": most,
            "lease_us": LEASE_S * _US,
            "kept_us": KEPT_S * _US,
        }
        answer = await self._answer([self._prefix + key for key in keys], operation, json.dumps(content))
        if not answer:
            return None
        number, wait_us = answer
        return Refusal(keys[number - 1], None if wait_us < 0 else wait_us / _US)

    async def _answer(self, keys: Sequence[str], *arguments: str) -> Any:
        """Returns the server's answer; None while it cannot be had."""
        now_s = self._clock.now()
        if self._is_lost and now_s < self._again_s:
            self._unchecked.labels(arguments[0]).inc()
            return None
        self._again_s = now_s + PAUSE_S  # while this one tries a lost server, others pass by
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._script(keys, arguments)
        except (RedisError, OSError) as error:  # OSError: also TimeoutError
            self._unchecked.labels(arguments[0]).inc()
            self._lost(error)
            return None
        self._found()
        return answer

    def _lost(self, error: Exception) -> None:
        self._again_s = self._clock.now() + PAUSE_S
        self._up.set(0)
        if not self._is_lost:
            reason = str(error) or f"no answer for {self._timeout_s:g} s"
            log.error("the shared store of quotas is lost, so everything is let through until it is back: %s", reason)
        self._is_lost = True

    def _found(self) -> None:
        self._up.set(1)
        if self._is_lost:
            log.info("the shared store of quotas is back")
        self._is_lost = False


@asynccontextmanager
async def redis_store(section: QuotaStoreSection, clock: Clock, metrics: Metrics) -> AsyncIterator[RedisStore]:
    """Opens the store. The server need not be there yet. Raises StartError for files that cannot be used."""
    assert section.url
    for name in ("password_file", "ca_file", "certificate_file", "key_file"):
        if path := getattr(section, name):
            _check(path, f"quotas.store.{name}")
    files_of_tls: dict[str, Any] = {}
    if section.has_tls:
        files_of_tls = {
            "ssl_ca_certs": section.ca_file,
            "ssl_certfile": section.certificate_file,
            "ssl_keyfile": section.key_file,
            "ssl_check_hostname": True,
        }
    pool = BlockingConnectionPool.from_url(
        section.url,
        max_connections=_CONNECTIONS,
        timeout=None,  # ours counts
        socket_connect_timeout=None,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        credential_provider=_Password(section.username, section.password_file) if section.password_file else None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **{key: str(value) if isinstance(value, Path) else value for key, value in files_of_tls.items()},
    )
    client = Redis.from_pool(pool)
    try:
        yield RedisStore(client, section, clock, metrics)
    finally:
        await client.aclose()


class _Password(CredentialProvider):
    """Reads the password for each new connection, so that it can be changed."""

    def __init__(self, username: str | None, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Returns the name, if there is one, and the password. Raises OSError."""
        password = self._path.read_text()[:MAX_PASSWORD_BYTES].strip()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Returns the same, from a thread."""
        return await asyncio.to_thread(self.get_credentials)


def _check(path: Path, key: str) -> None:
    try:
        with path.open("rb") as file:
            content = file.read(1)
    except OSError as error:
        raise StartError(f"{key}: {path} cannot be read: {error.strerror}") from None
    if not content:
        raise StartError(f"{key}: {path} is empty")


def _members(streams: Sequence[Stream]) -> dict[str, list[str]]:
    """Returns the members of each key. Callers choose the ids of sessions: digests of them are short."""
    members: dict[str, list[str]] = defaultdict(list)
    for stream in streams:
        session = sha256(stream.session.encode(errors="surrogatepass")).hexdigest()[:32]
        for key in stream.keys:
            members[key].append(stream.id + session)
    return members
