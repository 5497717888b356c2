"""Tickets as such: what is taken, for how long, and from whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_service.identity.tickets import Tickets
from service_kit.callers.caller import ALL_SCOPES, Caller, Scope
from service_kit.errors import Unauthenticated

SECONDS = 30.0


class Made:
    """Tickets at a time that the test says."""

    def __init__(self, secret: bytes = b"s" * 32) -> None:
        self.now = 1e9
        self.revoked: set[str] = set()
        self.tickets = Tickets(
            secret, seconds=SECONDS, stands=lambda caller: caller.name not in self.revoked, unix_now=lambda: self.now
        )

    def refusal(self, ticket: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.tickets.take(ticket)
        return caught.value.message


ALICE = Caller("alice", ALL_SCOPES, ("anna-*", "demo"), "0123456789", (("sessions", 4), ("loads_per_hour", None)))


def test_a_ticket_gives_the_caller_without_the_scopes_of_operators() -> None:
    made = Made()
    caller = made.tickets.take(made.tickets.make(ALICE))
    assert (caller.name, caller.avatars, caller.key_id) == (ALICE.name, ALICE.avatars, ALICE.key_id)
    assert caller.limits == ALICE.limits
    assert caller.scopes == {Scope.INFER, Scope.READ}


def test_a_ticket_is_good_once_and_for_a_short_time() -> None:
    made = Made()
    first, second, third = (made.tickets.make(ALICE) for _ in range(3))
    made.tickets.take(first)
    assert "used already" in made.refusal(first)
    made.now += SECONDS - 0.001
    made.tickets.take(second)
    made.now += 0.001
    assert "expired" in made.refusal(third)
    assert "expired" in made.refusal(first)


def test_a_ticket_of_a_revoked_caller_is_worth_nothing() -> None:
    made = Made()
    ticket, running = made.tickets.make(ALICE), made.tickets.take(made.tickets.make(ALICE))
    made.revoked.add("alice")
    assert "revoked" in made.refusal(ticket)
    assert running.is_revoked


def test_another_gateways_ticket_needs_the_same_secret() -> None:
    ticket = Made().tickets.make(ALICE)
    assert Made().tickets.take(ticket).name == "alice"
    assert "not good" in Made(b"t" * 32).refusal(ticket)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    assert Made().refusal(text) == "the ticket is not good: get another one"


@given(st.data())
def test_a_changed_ticket_is_refused(data: st.DataObject) -> None:
    made = Made()
    ticket = made.tickets.make(ALICE)
    place = data.draw(st.integers(0, len(ticket) - 1))
    changed = data.draw(st.characters().filter(lambda character: character != ticket[place]))
    assert "not good" in made.refusal(ticket[:place] + changed + ticket[place + 1 :])


def test_memory_of_used_tickets_does_not_grow() -> None:
    made = Made()
    for _ in range(1000):
        made.tickets.take(made.tickets.make(ALICE))
        made.now += 1
    assert len(made.tickets._used) <= SECONDS + 1
