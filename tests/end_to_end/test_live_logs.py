"""The log lines about live sessions: each names its session, in both services, and one says how much was used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from compositing_service.backgrounds.resting import REST_PREFIX
from shared_proto import compositing_pb2 as pb

from .avatars import write_avatar
from .conftest import Duo, connected, serving
from .processes import Service, until
from .talking import Talk, pcm

LOGGED = "logging.format=json", "logging.log_inference_times=true"
# Lines about the service, not about a session.
OF_THE_SERVICE = {"starting", "ready", "draining", "stopped"}


def noise(seconds: float) -> bytes:
    return pcm(np.random.default_rng(0).standard_normal(int(16_000 * seconds)) * 0.1, pb.PCM_FLOAT32)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Duo]:
    """Services of this test's own, whose log holds nothing else."""
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    with serving(root, tmp_path, *LOGGED, compositing=["sessions.inference_timeout_seconds=1"]) as both:
        yield both


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Those about sessions: mouths of silence are made for all that show an avatar, by requests of their own."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    of_sessions = [line for line in lines if not line.get("request_id", "").startswith(REST_PREFIX)]
    assert not any("session_id" in line for line in lines if line not in of_sessions)
    return [line for line in of_sessions if line["message"] not in OF_THE_SERVICE]


def test_every_line_about_a_session_names_it_and_the_last_says_how_much_was_used(pair: Duo) -> None:
    with Talk(pair.pictures, pb.SessionConfig(model_id="small"), metadata=(("x-session-id", "talk-9"),)) as talk:
        talk.say(noise(0.4))
        talk.wait(lambda: talk.of("segment_ended"))
        talk.send(switch_avatar=pb.SwitchAvatar(model_id="other"))
        talk.wait(lambda: talk.of("avatar_switched"))
        talk.say(noise(0.6))
        talk.end()
    until(lambda: "session ended" in pair.compositing.log.read_text())
    for service in (pair.compositing, pair.inference):
        lines = lines_of(service)
        assert {line.get("session_id") for line in lines} == {"talk-9"}, lines
        assert len({line["request_id"] for line in lines}) == 1
        for avatar in ("small", "other"):
            assert [line["avatar"] for line in lines if line["message"].startswith(f"loaded avatar {avatar}")] == [avatar]
    made = [line["avatar"] for line in lines_of(pair.inference) if line["message"] == "inferred"]
    assert made == sorted(made, reverse=True)
    assert set(made) == {"small", "other"}
    [started] = [line for line in lines_of(pair.compositing) if line["message"] == "session started"]
    [ended] = [line for line in lines_of(pair.compositing) if line["message"] == "session ended"]
    assert started["caller"] == ended["caller"]
    assert ended["caller"].startswith("ipv4:127.0.0.1:")
    assert (started["avatar"], ended["avatar"]) == ("small", "other")
    assert ended["speech_seconds"] == 1.0
    assert ended["frames"] == len(talk.frames)
    assert ended["seconds"] >= 1.0


def test_a_session_without_an_id_gets_one_that_warnings_and_an_operators_order_name_too(pair: Duo) -> None:
    config = pb.SessionConfig(model_id="small")
    with Talk(pair.pictures, config) as ended, Talk(pair.pictures, config) as lost:
        for talk in (ended, lost):
            talk.wait(lambda talk=talk: talk.frames)
        first, second = (talk.of("started")[0].session_id for talk in (ended, lost))
        assert len({first, second, ""}) == 3
        with connected(pair.inference, pair.compositing) as operator:
            assert operator.pictures.EndSession(pb.EndSessionRequest(session_id=first)).ended == 1
        assert ended.failure().code() is grpc.StatusCode.CANCELLED
        pair.inference.process.kill()
        lost.say(noise(1.0))
        assert lost.failure().code() is grpc.StatusCode.UNAVAILABLE
    until(lambda: pair.compositing.log.read_text().count("session ended") == 2)
    lines = lines_of(pair.compositing)
    assert {line.get("session_id") for line in lines} == {first, second}
    assert {line["session_id"] for line in lines if line["level"] == "warning"} == {second}
    assert len([line for line in lines if line["message"].startswith("a session waits for the inference service: ")]) == 1
    assert [line["session_id"] for line in lines if line["message"] == "an operator ends the session"] == [first]
