"""Places for live sessions, from the measured speed of networks. Time passes only when the test says so."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.scheduling.admission import MAX_AVATARS, Admission
from service_kit.processor_load import READ_EVERY_S

from ..service_kit.test_processor_load import Machine
from ..virtual_clock import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def admitted(admission: Admission, avatar_id: str = "her", *, resumed: bool = False) -> int:
    """Begins sessions until one is refused. Returns their number."""
    for number in count():
        session_id = f"{avatar_id}-{resumed}-{number}"
        if not admission.has_room(session_id, avatar_id, resumed=resumed):
            return number
        admission.note_session(session_id, avatar_id)
    raise AssertionError


def run(admission: Admission, avatar_id: str = "her", *, frames_a_second: float, runs: int = 10, run_frames: int = 1) -> None:
    for _ in range(runs):
        admission.note_run(avatar_id, frames=2 * run_frames, run_frames=run_frames, seconds=2 * run_frames / frames_a_second)


@given(frames_a_second=st.floats(1, 3000), workers=st.integers(1, 4))
def test_new_sessions_leave_a_tenth_for_those_that_resume(frames_a_second: float, workers: int) -> None:
    admission = Admission(workers=workers, clock=VirtualClock())
    run(admission, frames_a_second=frames_a_second)
    assert admission.frames_a_second == pytest.approx(workers * frames_a_second)
    new = admitted(admission)
    assert new == pytest.approx(0.9 * workers * frames_a_second / 25, abs=1)
    assert 25 * new <= 0.9 * workers * frames_a_second * (1 + 1e-9)
    resumed = admitted(admission, resumed=True)
    assert 25 * (new + resumed) <= workers * frames_a_second * (1 + 1e-9)
    assert 25 * (new + resumed + 1) > workers * frames_a_second * (1 - 1e-9)
    assert admission.carried == new + resumed


async def test_a_session_is_carried_for_two_seconds_after_its_last_request(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=60)
    assert admitted(admission) == 2
    await clock.advance(1.5)
    admission.note_session("her-False-0", "her")
    await clock.advance(1.0)
    assert admission.carried == 1
    assert admission.has_room("another", "her")
    await clock.advance(1.0)
    assert admission.carried == 0


def test_a_carried_session_always_has_room(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    admission.note_session("runs", "her")
    run(admission, frames_a_second=5)
    assert admission.has_room("runs", "her")
    assert not admission.has_room("another", "her", resumed=True)


def test_an_avatar_costs_what_its_own_runs_took_else_the_mean_else_its_warm_up(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    assert admission.has_room("first", "her"), "nothing is known"
    admission.note_warm_up("her", run_frames=1, seconds=0.1)
    assert not admission.has_room("first", "her")
    run(admission, "quick", frames_a_second=300)
    assert admission.has_room("first", "her"), "the runs of others count more than a first run"
    run(admission, "her", frames_a_second=20)
    assert not admission.has_room("first", "her")
    assert admission.has_room("first", "quick")


def test_each_session_counts_with_the_cost_of_its_avatar(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, "slow", frames_a_second=50)
    run(admission, "quick", frames_a_second=550)
    assert admitted(admission, "slow") == 1  # half of the time
    assert admitted(admission, "quick") == 8  # 8 x 4.5 % of what is left of nine tenths


async def test_a_session_that_asks_several_replicas_counts_with_what_it_asks_here(clock: VirtualClock) -> None:
    """Whole in its first two seconds, then with the most frames that it asked for in two seconds."""
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=60)

    async def speak(seconds: float, *, frames_a_second: float) -> None:
        for _ in range(round(seconds / 0.32)):
            for session_id in ("one", "two"):
                admission.note_session(session_id, "her", asked_frames=round(0.32 * frames_a_second))
            await clock.advance(0.32)
        run(admission, frames_a_second=60)

    await speak(1.6, frames_a_second=12.5)
    assert not admission.has_room("another", "her")
    await speak(4, frames_a_second=12.5)
    assert admission.has_room("another", "her")
    await speak(4, frames_a_second=25)
    assert not admission.has_room("another", "her")
    await speak(4, frames_a_second=12.5)
    assert not admission.has_room("another", "her"), "it may speak as much again"


def test_a_session_that_changes_its_avatar_counts_once(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, "slow", frames_a_second=27)
    run(admission, "quick", frames_a_second=500)
    admission.note_session("changes", "slow")
    assert not admission.has_room("another", "quick")
    admission.note_session("changes", "quick")
    assert admission.has_room("another", "quick")
    assert admission.carried == 1


async def test_the_last_seconds_count_most(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=10, runs=50)
    assert not admission.has_room("first", "her")
    assert admission.is_measured("her")
    await clock.advance(11)
    assert not admission.is_measured("her")
    assert not admission.has_room("first", "her"), "nothing newer is known"
    run(admission, frames_a_second=100, runs=5)
    assert admission.is_measured("her")
    assert admission.frames_a_second == pytest.approx(100)
    assert admission.has_room("first", "her")


def test_a_few_runs_that_were_held_up_do_not_count(clock: VirtualClock) -> None:
    """Runs are held up when another process has the cores."""
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=2, runs=2)
    run(admission, frames_a_second=100, runs=3)
    assert admission.has_room("first", "her")


def test_every_session_has_room_where_the_operator_says_so(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock, admits_all=True)
    run(admission, frames_a_second=1)
    assert admission.has_room("first", "her")


def test_runs_that_are_not_full_count_as_if_they_were(clock: VirtualClock) -> None:
    """A network that runs 8 frames at once takes as long for one. Only sessions of one avatar share its runs."""
    admission = Admission(workers=1, clock=clock)
    for _ in range(10):
        admission.note_run("her", frames=1, run_frames=8, seconds=0.0078)
    assert admission.frames_a_second == pytest.approx(8 / 0.0078)
    assert admitted(admission) == 36
    alone = Admission(workers=1, clock=clock)
    run(alone, "known", frames_a_second=1020, run_frames=8)
    sessions = 0
    while alone.has_room(f"session-{sessions}", f"avatar-{sessions}"):
        alone.note_session(f"session-{sessions}", f"avatar-{sessions}")
        sessions += 1
    assert sessions == 18, "each needs a run of its own every 160 ms: 50 frames' time a second"


def test_as_many_avatars_as_one_likes_take_bounded_memory(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    for avatar_id in ["first", *(f"avatar-{number}" for number in range(MAX_AVATARS))]:
        run(admission, avatar_id, frames_a_second=1000, runs=5)
    assert not admission.is_measured("first")
    assert admission.is_measured("avatar-0")


async def test_late_frames_keep_new_sessions_out_until_two_seconds_after(clock: VirtualClock) -> None:
    """Whatever the cause: the network alone would keep many more."""
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=1000)
    for _ in range(25):
        admission.note_made(4, first_due_s=clock.now() + 0.01)
    assert admission.share_behind == 0
    for _ in range(2):
        admission.note_made(4, first_due_s=clock.now() - 0.15)  # all four are more than 20 ms behind
    assert admission.share_behind == pytest.approx(8 / 108)
    assert admission.has_room("first", "her")
    admission.note_made(4, first_due_s=clock.now() - 0.15)
    assert admission.share_behind > 0.1
    assert not admission.has_room("first", "her")
    assert admission.has_room("broke", "her", resumed=True)
    admission.note_session("runs", "her")
    assert admission.has_room("runs", "her")
    await clock.advance(2.1)
    assert admission.share_behind == 0
    assert admission.has_room("first", "her")


def test_a_few_late_frames_of_the_only_session_keep_nobody_out(clock: VirtualClock) -> None:
    admission = Admission(workers=1, clock=clock)
    run(admission, frames_a_second=1000)
    admission.note_made(2, first_due_s=clock.now() - 1)
    assert admission.has_room("first", "her")


@given(frames=st.integers(1, 50), after_ms=st.floats(-2000, 2000))
def test_each_frame_has_its_own_time(frames: int, after_ms: float) -> None:
    clock = VirtualClock()
    admission = Admission(workers=1, clock=clock)
    admission.note_made(frames, first_due_s=clock.now() - after_ms / 1000)
    late = [place for place in range(frames) if after_ms - 40 * place > 20 + 1e-6]
    unsure = [place for place in range(frames) if abs(after_ms - 40 * place - 20) <= 1e-6]
    assert len(late) <= admission.share_behind * max(frames, 25) + 1e-6
    assert admission.share_behind * max(frames, 25) <= len(late) + len(unsure) + 1e-6


class Carrying:
    """Sessions that all speak, a network that costs nothing, and the processors, which have 2 ms to do with each frame."""

    def __init__(self, clock: VirtualClock, *, halved: float = 0.5, others: float = 0.0) -> None:
        self.clock = clock
        self.admission = Admission(workers=1, clock=clock, halved=halved)
        self.machine = Machine(load=self.admission._processors, others=others)
        self.sessions: list[str] = []
        run(self.admission, frames_a_second=10_000)

    async def speak(self, seconds: float, *, batch_frames_a_second: float = 0) -> None:
        for _ in range(round(seconds)):
            for session_id in self.sessions:
                self.admission.note_session(session_id, "her", asked_frames=25)
            self.machine.work(1.0, 25 * len(self.sessions) + batch_frames_a_second)
            await self.clock.advance(1.0)

    def ask(self, most: int, *, resumed: bool = False, may_halve: bool = False) -> int:
        """Asks for places until one is refused. Returns how many were given."""
        for number in range(most):
            session_id = f"session-{len(self.sessions)}"
            if not self.admission.has_room(session_id, "her", resumed=resumed, may_halve=may_halve):
                return number
            self.sessions.append(session_id)
            self.admission.note_session(session_id, "her", may_halve=may_halve)
        return most


# 0.9 of 0.9 of two cores, at 2 ms for each of 25 frames a second.
PLACES = 32


@pytest.mark.parametrize("first", [1, 10, 30])
async def test_sessions_are_admitted_while_the_processors_keep_them_though_the_network_would_keep_more(
    clock: VirtualClock, first: int
) -> None:
    """All that come at once, before those that they follow have spoken."""
    carrying = Carrying(clock)
    carrying.ask(first)
    await carrying.speak(5)
    assert carrying.ask(100) == PLACES - first
    await carrying.speak(5)
    assert carrying.ask(100) == 0
    assert carrying.admission.load == pytest.approx(0.9, abs=0.03)
    assert carrying.ask(10, resumed=True) == 10
    assert carrying.admission.has_room("session-0", "her")


@pytest.mark.parametrize("batch", [200, 800])
async def test_batch_work_takes_no_place_of_a_session_however_busy_the_processors_are(clock: VirtualClock, batch: int) -> None:
    carrying = Carrying(clock)
    carrying.ask(4)
    await carrying.speak(5, batch_frames_a_second=batch)
    assert carrying.admission.load == pytest.approx(4 * 0.9 / PLACES, abs=0.01)
    assert carrying.ask(100) == PLACES - 4


async def test_programs_that_have_nothing_to_do_with_it_take_places(clock: VirtualClock) -> None:
    carrying = Carrying(clock, others=1.0)
    for _ in range(20):
        assert carrying.ask(1) == 1 or len(carrying.sessions) > 10
        await carrying.speak(3)
    assert len(carrying.sessions) == pytest.approx(PLACES - 1.0 / (25 * 0.002), abs=1)


async def test_the_first_session_has_a_place_on_a_machine_that_others_fill(clock: VirtualClock) -> None:
    """The cost of frames may have changed, and only frames tell it."""
    carrying = Carrying(clock, others=2.0)
    await carrying.speak(5, batch_frames_a_second=100)
    assert carrying.ask(100) == 1


async def test_sessions_that_may_be_halved_leave_processor_time_too(clock: VirtualClock) -> None:
    carrying = Carrying(clock, halved=0.75)
    carrying.ask(10, may_halve=True)
    await carrying.speak(5)
    assert carrying.ask(100, may_halve=True) == pytest.approx(PLACES / 0.75 - 10, abs=1)


async def test_frames_at_half_rate_cost_the_same_at_full_rate(clock: VirtualClock) -> None:
    """Else the level of overload would fall as soon as it has helped."""
    loads = []
    for apart in (1, 2):
        admission = Admission(workers=1, clock=clock, halved=0.75)
        machine = Machine(load=admission._processors)
        for _ in range(20):
            admission.note_session("one", "her", asked_frames=100, may_halve=True)
            admission.note_made(100 // apart, first_due_s=clock.now(), apart=apart)
            machine.busy_s += 100 * 0.002 * (1 if apart == 1 else 0.75)
            machine.own_s = machine.busy_s
            machine.at_s += READ_EVERY_S
            admission.note_processors(machine.reading)
        loads.append(admission.load)
    assert loads[1] == pytest.approx(loads[0])
