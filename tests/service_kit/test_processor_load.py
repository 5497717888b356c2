"""The processor time that frames will need, from readings that a model of a machine gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.cores import CoreTime
from service_kit.processor_load import READ_EVERY_S, ProcessorLoad


@dataclass
class Machine:
    """A service that makes frames, other services that take a part in them, and programs that have nothing to do with them."""

    load: ProcessorLoad = field(default_factory=ProcessorLoad)
    cores: float = 2.0
    own_a_frame: float = 0.001
    beside_a_frame: float = 0.001
    others: float = 0.0
    at_s: float = 0.0
    busy_s: float = 0.0
    own_s: float = 0.0

    def __post_init__(self) -> None:
        self.load.note(self.reading)

    @property
    def reading(self) -> CoreTime:
        return CoreTime(self.at_s, self.cores, self.busy_s, self.own_s)

    def work(self, seconds: float, frames_a_second: float, *, own_s: float = 0.0) -> None:
        """Lets time pass. `own_s`: what the service does beside frames in that time."""
        for _ in range(round(seconds / READ_EVERY_S)):
            frames = frames_a_second * READ_EVERY_S
            own = frames * self.own_a_frame + own_s * READ_EVERY_S / seconds
            self.at_s += READ_EVERY_S
            self.own_s += own
            self.busy_s += own + frames * self.beside_a_frame + self.others * READ_EVERY_S
            self.load.note_frames(frames)
            self.load.note(self.reading)


@given(
    own_a_frame=st.floats(0.0001, 0.01),
    beside=st.floats(0, 2),
    cores=st.floats(0.5, 64),
    now=st.floats(25, 500),
    asked=st.floats(0, 1000),
)
def test_it_is_the_time_of_frames_in_all_services_of_the_machine(
    own_a_frame: float, beside: float, cores: float, now: float, asked: float
) -> None:
    machine = Machine(cores=cores, own_a_frame=own_a_frame, beside_a_frame=beside * own_a_frame)
    machine.work(10, now)
    assert machine.load.share(asked) == pytest.approx(asked * (1 + beside) * own_a_frame / cores, rel=1e-6, abs=1e-9)


@given(others=st.floats(0, 1.9), now=st.floats(25, 200))
def test_what_is_measured_now_is_told_however_it_is_shared_among_frames_and_other_programs(others: float, now: float) -> None:
    machine = Machine(others=others)
    machine.work(10, now)
    assert machine.load.share(now) == pytest.approx((others + now * 0.002) / 2, rel=1e-6)
    one_more = machine.load.share(now + 25) - machine.load.share(now)
    assert one_more * (1 + 1e-6) >= 25 * 0.002 / 2, "no less than its time"
    assert one_more <= 25 * 0.003 / 2 * (1 + 1e-6), "others do not grow with the frames"


def test_nothing_is_known_of_a_service_that_starts() -> None:
    machine = Machine()
    assert machine.load.share(1000) == 0
    machine.work(1, 0, own_s=2)
    assert machine.load.share(1000) == 0
    machine.work(1, 25)
    assert machine.load.share(1000) == 0


def test_the_load_of_an_avatar_does_not_count() -> None:
    machine = Machine()
    machine.work(8, 50)
    machine.work(1.5, 50, own_s=3)
    machine.work(0.5, 50)
    assert machine.load.share(100) == pytest.approx(100 * 0.002 / 2)


def test_what_frames_cost_is_remembered_while_none_are_made() -> None:
    machine = Machine()
    machine.work(4, 50)
    machine.work(60, 0)
    assert machine.load.share(100) == pytest.approx(100 * 0.002 / 2)


def test_a_cost_that_changes_is_learned_within_ten_seconds() -> None:
    machine = Machine()
    machine.work(60, 50)
    machine.own_a_frame *= 2
    machine.work(10, 50)
    assert machine.load.share(100) == pytest.approx(100 * 0.003 / 2)
    machine.own_a_frame /= 2
    machine.work(3, 500)
    assert machine.load.share(100) == pytest.approx(100 * 0.002 / 2), "sooner with more frames"
