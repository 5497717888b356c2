"""Two compositing services count together in a redis-server, which stands still and is killed while sessions run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from lipsync_cli.keys import create
from lipsync_client import Client, Frame, LipsyncError

from ..end_to_end.processes import Service, running, until
from ..redis_server import RedisServer, running_redis
from .session_frames import next_frame

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
TIMEOUT_S = 2


@dataclass(frozen=True)
class Shared:
    store: RedisServer
    services: tuple[Service, Service]
    keys: dict[str, str]

    def client(self, number: int, caller: str) -> Client:
        return Client(self.services[number].address, api_key=self.keys[caller])


@pytest.fixture(scope="module")
def shared(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    file = folder / "keys.json"
    names = ("ann", "ben", "cat", "dan", "eve")
    keys = {name: create(file, name, scopes=["infer", "admin"], avatars=None, valid=None).text for name in names}
    with running_redis(folder / "redis") as store, ExitStack() as services:
        encoder = f"audio_encoder_path={models_root / 'none.onnx'}"
        inference = services.enter_context(running("inference", f"models_root={models_root}", encoder, log=folder / "inference"))
        settings = (
            f"models_root={models_root}",
            f"inference_server.url={inference.address}",
            f"auth.keys_file={file}",
            "quotas.per_caller.sessions=1",
            "quotas.per_caller.batch_frames_per_minute=10",
            "quotas.per_caller.loads_per_hour=1",
            f"quotas.store.url={store.url}",
            f"quotas.store.timeout_seconds={TIMEOUT_S}",
        )
        first, second = (
            services.enter_context(running("compositing", *settings, log=folder / f"compositing-{number}")) for number in (1, 2)
        )
        yield Shared(store, (first, second), keys)


def is_refused(client: Client) -> bool:
    """Tells if a session is refused."""
    try:
        with client.session("small", admission_timeout=0) as session:
            next(iter(session))
    except LipsyncError as error:
        if error.code is not EXHAUSTED:
            raise
        return bool(error.retry_after_ms)
    return False


def lines(service: Service, words: str) -> int:
    return service.log.read_text().count(words)


def test_frames_and_loads_at_one_service_count_at_the_other(shared: Shared) -> None:
    sound = np.zeros(640 * 10, np.float32)
    with shared.client(0, "ann") as first, shared.client(1, "ann") as second, shared.client(1, "ben") as ben:
        assert len(first.composite("small", sound, batch_size=10).frames) == 10
        with pytest.raises(LipsyncError) as caught:
            second.composite("small", sound, batch_size=10)
        assert caught.value.code is EXHAUSTED
        assert caught.value.retry_after_ms
        assert len(ben.composite("small", sound, batch_size=10).frames) == 10
        first.load("small")
        with pytest.raises(LipsyncError) as caught:
            second.load("small")
        assert caught.value.code is EXHAUSTED


def test_a_session_at_one_service_takes_the_place_at_the_other(shared: Shared) -> None:
    with shared.client(0, "cat") as first, shared.client(1, "cat") as second, first.session("small") as session:
        next(iter(session))
        assert is_refused(second)


def test_while_the_store_stands_still_sessions_go_on_and_all_are_let_in(shared: Shared) -> None:
    """A caller that it has not answered is let in. When it goes on, the session that ran all the time still has its place."""
    with shared.client(0, "dan") as first, shared.client(1, "dan") as second, first.session("small") as session:
        events = iter(session)
        next_frame(events)
        assert is_refused(second)
        shared.store.signal(signal.SIGSTOP)
        try:
            assert not is_refused(second)
            for service in shared.services:
                until(lambda service=service: service.metric("lipsync_quota_store_up") == 0)  # type: ignore[misc]
                assert service.metric("lipsync_quota_unchecked_total") > 0
            numbers = [event.number for _ in range(50) if isinstance(event := next(events), Frame)]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        finally:
            shared.store.signal(signal.SIGCONT)
        for service in shared.services:
            until(lambda service=service: service.metric("lipsync_quota_store_up") == 1)  # type: ignore[misc]
            assert lines(service, "the shared store of quotas is lost") == lines(service, "the shared store of quotas is back")
        until(lambda: is_refused(second))
        next_frame(events)


def test_a_store_that_was_killed_learns_again_who_is_there(shared: Shared) -> None:
    with shared.client(0, "eve") as first, shared.client(1, "eve") as second, first.session("small") as session:
        events = iter(session)
        next_frame(events)
        assert is_refused(second)
        shared.store.kill()
        assert not is_refused(second)
        next_frame(events)
        shared.store.start()
        until(lambda: is_refused(second))
        next_frame(events)
