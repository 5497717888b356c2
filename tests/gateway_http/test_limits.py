"""Rates and places, with time that the tests tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_service.guard.places import NoPlace, Places
from service_kit.limits.rates import Rates


class Bucket:
    """A token bucket, the textbook's other form of the same limit."""

    def __init__(self, per_second: float, burst: int) -> None:
        self.per_second, self.burst = per_second, burst
        self.tokens, self.last_s = float(burst), 0.0

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now_s - self.last_s) * self.per_second)
        self.last_s = now_s
        if self.tokens < 1 - 1e-6:
            return False
        self.tokens -= 1
        return True


@given(
    st.sampled_from([0.5, 1.0, 7.0, 50.0]),
    st.integers(1, 20),
    st.lists(st.floats(0, 3, allow_nan=False), max_size=100),
)
def test_a_rate_lets_through_what_a_token_bucket_does(per_second: float, burst: int, waits: list[float]) -> None:
    rates, bucket, now_s = Rates(per_second, burst), Bucket(per_second, burst), 0.0
    for wait_s in waits:
        now_s += wait_s
        assert (rates.take("one", now_s) == 0) == bucket.take(now_s)


@given(st.integers(1, 20), st.floats(0.1, 100))
def test_what_is_refused_is_let_through_after_the_wait_that_was_told(burst: int, per_second: float) -> None:
    rates = Rates(per_second, burst)
    assert [rates.take("one", 0.0) for _ in range(burst)] == [0.0] * burst
    wait_s = rates.take("one", 0.0)
    assert 0 < wait_s <= 1 / per_second + 1e-9
    assert rates.take("one", wait_s * 0.9) > 0
    assert rates.take("one", wait_s) == 0


def test_each_key_has_a_rate_of_its_own_and_the_table_is_bounded() -> None:
    rates = Rates(1.0, 1, keys=100)
    assert rates.take("first", 0.0) == 0
    assert rates.take("first", 0.0) > 0
    for number in range(1000):
        assert rates.take(f"other {number}", 0.0) == 0
    assert len(rates) == 100


def test_places_are_limited_by_key_and_in_all_and_come_back() -> None:
    places = Places(2, 3)
    with places.held("a"), places.held("a"):
        with pytest.raises(NoPlace):
            places.take("a")
        with places.held("b"), pytest.raises(NoPlace):
            places.take("c")
    assert places.taken == 0
    with places.held("c"):
        assert places.taken == 1
