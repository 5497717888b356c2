"""Interrupts and switches of avatars, each answered, over the wire."""

from __future__ import annotations

import grpc
import pytest

from shared_proto import compositing_pb2 as pb

from .conftest import Duo
from .talking import Talk, config, noise


def test_ten_thousand_interrupts_are_answered_each(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE)) as talk:
        for _ in range(10_000):
            talk.send(interrupt=pb.Interrupt())
        talk.say(noise(0.2))
        talk.end()
    answers = talk.of("interrupted")
    assert len(answers) == 10_000
    assert {answer.segment for answer in answers} == {-1}
    assert len(talk.speech) == 5


@pytest.mark.parametrize(
    ("switch", "code"),
    [
        (pb.SwitchAvatar(model_id="nobody"), grpc.StatusCode.NOT_FOUND),
        (pb.SwitchAvatar(model_id=""), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SwitchAvatar(model_id="other", start_frame_idx=-1), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_switch_that_fails_leaves_the_session_as_it_is(duo: Duo, switch: pb.SwitchAvatar, code: grpc.StatusCode) -> None:
    with Talk(duo.pictures, config()) as talk:
        talk.send(switch_avatar=switch)
        talk.wait(lambda: talk.of("switch_failed"))
        talk.say(noise(0.2))
        talk.end()
    [failed] = talk.of("switch_failed")
    assert (failed.model_id, failed.code) == (switch.model_id, code.value[0])
    assert failed.message
    assert len(talk.speech) == 5


def test_each_of_many_switches_has_one_answer(duo: Duo) -> None:
    names = ["other", "forward", "nobody", "feather", "small", "other"] * 5
    with Talk(duo.pictures, config()) as talk:
        for name in names:
            talk.send(switch_avatar=pb.SwitchAvatar(model_id=name))
        talk.wait(lambda: len(talk.of("avatar_switched")) + len(talk.of("switch_failed")) == len(names))
        assert talk.of("avatar_switched")[-1].model_id == "other"
        talk.end()
    aborted = [failed for failed in talk.of("switch_failed") if failed.code == grpc.StatusCode.ABORTED.value[0]]
    assert aborted
