"""Levels of overload: they rise with what sessions ask for and with frames that come late, and fall when that is over."""

from __future__ import annotations

import pytest

from inference_service.request import check_infer_request
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.overload import HOLD_S, Overload
from inference_service.settings import LimitsSection
from shared_proto import inference_pb2 as pb

from ..virtual_clock import VirtualClock
from .test_admission import run


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def carry(admission: Admission, sessions: int, *, may_halve: bool = False) -> None:
    for number in range(sessions):
        admission.note_session(f"session-{number}", "her", asked_frames=1, may_halve=may_halve)


async def test_the_level_follows_what_sessions_ask_for(clock: VirtualClock) -> None:
    """A network that makes 250 frames a second keeps ten sessions, and admits nine."""
    admission = Admission(workers=1, clock=clock)
    overload = Overload(admission, clock)
    run(admission, frames_a_second=250)
    levels = {0: pb.OVERLOAD_NONE, 6: pb.OVERLOAD_NONE, 8: pb.OVERLOAD_LARGER_GROUPS, 10: pb.OVERLOAD_HALF_RATE}
    for sessions, level in levels.items():
        carry(admission, sessions)
        await clock.advance(0.5)
        assert overload.level == level, sessions


async def test_a_level_holds_for_a_while_after_its_cause(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    overload = Overload(admission, clock)
    run(admission, frames_a_second=250)
    carry(admission, 10)
    assert overload.level == pb.OVERLOAD_HALF_RATE
    for _ in range(round(HOLD_S) - 1):  # the sessions are gone after two seconds
        await clock.advance(1.0)
        assert overload.level == pb.OVERLOAD_HALF_RATE
    for _ in range(4):
        await clock.advance(1.0)
        level = overload.level
    assert level == pb.OVERLOAD_NONE


async def test_frames_that_come_late_raise_it_too(clock: VirtualClock) -> None:
    overload = Overload(admission := Admission(workers=1, clock=clock), clock)
    for late, level in ((1, pb.OVERLOAD_NONE), (4, pb.OVERLOAD_LARGER_GROUPS), (20, pb.OVERLOAD_HALF_RATE)):
        await clock.advance(0.3)
        admission.note_made(100, first_due_s=clock.now())
        admission.note_made(late, first_due_s=clock.now() - 2.0)
        assert overload.level == level, late


async def test_a_refusal_raises_it(clock: VirtualClock) -> None:
    overload = Overload(Admission(workers=1, clock=clock), clock)
    overload.note_refused()
    await clock.advance(HOLD_S - 0.5)
    assert overload.level == pb.OVERLOAD_REFUSING
    await clock.advance(1.0)
    assert overload.level == pb.OVERLOAD_NONE


async def test_sessions_that_may_be_halved_count_half_before_others_are_refused(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=250)
    carry(admission, 9)
    assert not admission.has_room("one more", "her", may_halve=True)
    await clock.advance(3.0)
    carry(admission, 9, may_halve=True)
    assert admission.load == pytest.approx(0.9)
    assert admission.has_room("one more", "her")
    admission.note_session("one more", "her")
    assert admission.has_room("another", "her", may_halve=True)
    for number in range(20):
        admission.note_session(f"further-{number}", "her", may_halve=True)
        if not admission.has_room(f"further-{number + 1}", "her", may_halve=True):
            break
    assert number == 6, "1 + (9 + 7) / 2 of ten, and no other half beside the reserve"


async def test_where_halving_saves_less_fewer_have_room(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock, halved=0.75)
    run(admission, frames_a_second=250)
    carry(admission, 11, may_halve=True)
    assert admission.has_room("one more", "her", may_halve=True), "twelve times three quarters of a tenth"
    carry(admission, 12, may_halve=True)
    assert not admission.has_room("one more", "her", may_halve=True)


@pytest.mark.parametrize(
    ("frames", "rate", "asked"),
    [(1, pb.MOUTH_RATE_MAY_HALVE, 1), (1, pb.MOUTH_RATE_HALVED, 2), (4, pb.MOUTH_RATE_HALVED, 4), (5, pb.MOUTH_RATE_HALVED, 6)],
)
def test_a_request_at_half_rate_counts_all_that_is_shown(frames: int, rate: pb.MouthRate.ValueType, asked: int) -> None:
    """Else the level would fall as soon as it has helped."""
    request = pb.InferBatchRequest(model_id="her", batch_size=frames, mouth_rate=rate, stored_features=True)
    assert check_infer_request(request, LimitsSection()).asked_frames == asked
