"""Live sessions through each balancer: neither silence, nor length, nor the amount of sound ends one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from tests.end_to_end.avatars import write_avatar
from tests.end_to_end.processes import Service
from tests.end_to_end.talking import Talk

from .balancers import Balancer, balancing, compositors

BALANCERS = ["nginx", "envoy", "haproxy", "front"]
# Longer than what balancers allow without settings of their own: nginx a minute of silence from either side.
QUIET_S = 66
SOUND = (0.1 * np.random.default_rng(1).standard_normal(3200)).astype("<f4").tobytes()
ALONE = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("live")
    write_avatar(root, "small")
    with compositors(root, root, 1) as (one,):
        yield one


@pytest.mark.slow
def test_a_session_in_which_nobody_says_anything_stays_where_it_is(service: Service, repository: Path, tmp_path: Path) -> None:
    config = pb.SessionConfig(model_id="small", idle=pb.IDLE_NONE)
    with ExitStack() as stack:
        talks = {}
        for name in BALANCERS:
            folder = tmp_path / name
            folder.mkdir()
            address = stack.enter_context(balancing(Balancer(name), repository, folder, [service]))
            channel = stack.enter_context(grpc.insecure_channel(address, ALONE))
            grpc.channel_ready_future(channel).result(30)
            talks[name] = stack.enter_context(Talk(CompositingServiceStub(channel), config, timeout_s=QUIET_S + 100))
        for talk in talks.values():
            talk.say(SOUND)
            talk.wait(lambda talk=talk: talk.of("segment_ended"))
        threading.Event().wait(QUIET_S)
        for name, talk in talks.items():
            talk.say(SOUND)
            talk.close()
            talk.wait(lambda talk=talk: len(talk.of("segment_ended")) == 2)
            assert len(talk.speech) == 10, name
            assert len(talk.of("status")) >= 2, name


@pytest.mark.slow
@pytest.mark.parametrize("name", BALANCERS)
def test_a_session_may_send_more_than_one_request_could(name: str, service: Service, repository: Path, tmp_path: Path) -> None:
    """Sends 140 MiB, in messages that only say that the client is there: what they hold is a field that nobody knows."""
    padding = b"\x82\x06" + b"\x80\x80\x40" + bytes(1 << 20)  # field 96, of 1 MiB

    def messages() -> Iterator[bytes]:
        config = pb.SessionConfig(model_id="small", pacing=pb.AS_FAST_AS_POSSIBLE)
        yield pb.SessionRequest(config=config).SerializeToString()
        for _ in range(140):
            yield padding
        yield pb.SessionRequest(audio=pb.SessionAudio(data=SOUND)).SerializeToString()

    with balancing(Balancer(name), repository, tmp_path, [service]) as address, grpc.insecure_channel(address, ALONE) as channel:
        method: Any = channel.stream_stream("/compositing.CompositingService/StreamComposite")
        events = [pb.SessionEvent.FromString(event) for event in method(messages(), timeout=120, wait_for_ready=True)]
    assert sum(len(event.frames.frames) for event in events) == 5
