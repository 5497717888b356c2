"""The order of the two kinds of work: what is due first, fair shares of avatars, batch work in what is left."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from inference_service.scheduling.due_queue import MIN_SLICE
from inference_service.scheduling.fair_queue import Slice
from inference_service.scheduling.work_queue import WorkQueue

from .counted import Counted

Queue = WorkQueue[str, int]


@dataclass(frozen=True)
class Asked:
    key: str
    frames: int
    due_s: float | None = None


keys = st.sampled_from("abc")
due_times = st.floats(0, 10)
due_requests = st.builds(Asked, keys, st.integers(1, 30), due_times)
small_due_requests = st.builds(Asked, keys, st.integers(1, MIN_SLICE), due_times)
batch_requests = st.builds(Asked, keys, st.integers(1, 60), st.none())
mixed = st.lists(due_requests | batch_requests, min_size=1, max_size=14)
rooms = st.integers(1, 20)
run_sizes = st.sampled_from([1, 4, 8])


def queue_of(asked: list[Asked]) -> Queue:
    queue: Queue = WorkQueue()
    for number, each in enumerate(asked):
        queue.push(each.key, number, each.frames, due_s=each.due_s)
    return queue


def frames_of(pieces: list[Slice[int]]) -> int:
    return sum(piece.count for piece in pieces)


@given(mixed, rooms, run_sizes)
def test_every_frame_is_taken_once_and_in_order(asked: list[Asked], room: int, run_frames: int) -> None:
    queue = queue_of(asked)
    next_frame = dict.fromkeys(range(len(asked)), 0)
    assert queue.waiting_frames == sum(each.frames for each in asked)
    while key := queue.head:
        pieces = queue.take(room, run_frames=run_frames)
        assert 1 <= frames_of(pieces) <= room
        assert {asked[piece.request].key for piece in pieces} == {key}
        assert len({piece.request for piece in pieces}) == len(pieces), "one message a request"
        for piece in pieces:
            assert piece.start == next_frame[piece.request]
            next_frame[piece.request] += piece.count
    assert list(next_frame.values()) == [each.frames for each in asked]
    assert (queue.waiting_frames, len(queue), queue.has_due) == (0, 0, False)


@given(mixed, rooms, run_sizes)
def test_batch_work_never_holds_up_what_is_due(asked: list[Asked], room: int, run_frames: int) -> None:
    """Beside due frames it fills the batch; while more is due, only as far as the run takes no longer for it."""
    queue = queue_of(asked)
    while queue.head:
        due_waits = queue.has_due
        pieces = queue.take(room, run_frames=run_frames)
        kinds = [asked[piece.request].due_s is None for piece in pieces]
        assert kinds == sorted(kinds), "due frames come first"
        if due_waits:
            assert not kinds[0]
            due = frames_of([piece for piece in pieces if asked[piece.request].due_s is not None])
            if queue.has_due:
                assert frames_of(pieces) <= -(-due // run_frames) * run_frames


@given(st.lists(due_requests, min_size=1, max_size=14), rooms)
def test_avatars_with_due_work_take_turns(asked: list[Asked], room: int) -> None:
    queue = queue_of(asked)
    left = {key: sum(each.frames for each in asked if each.key == key) for key in "abc"}
    waited = dict.fromkeys("abc", 0)
    while key := queue.head:
        left[key] -= frames_of(queue.take(room))
        waited[key] = 0
        for other in "abc":
            if other != key and left[other]:
                waited[other] += 1
                assert waited[other] < 3, "as many turns of others as there are others, at most"


@given(st.lists(small_due_requests, min_size=1, max_size=14), rooms)
def test_the_earliest_due_of_an_avatar_runs_first(asked: list[Asked], room: int) -> None:
    queue = queue_of([Asked("one", each.frames, each.due_s) for each in asked])
    order = []
    while queue.has_due:
        order += [piece.request for piece in queue.take(room) if piece.start == 0]
    assert order == sorted(range(len(asked)), key=lambda number: asked[number].due_s or 0)


@given(st.lists(due_requests, min_size=1, max_size=8), st.integers(1, 60), rooms)
def test_batch_work_fills_what_is_left(asked: list[Asked], batch_frames: int, room: int) -> None:
    queue = queue_of([*(Asked("one", each.frames, each.due_s) for each in asked), Asked("one", batch_frames)])
    waiting = queue.waiting_frames
    while waiting:
        taken = frames_of(queue.take(room))
        assert taken == min(room, waiting)
        waiting -= taken


def test_small_requests_of_several_sessions_share_a_run() -> None:
    queue = queue_of([Asked("one", 4, 1.2), Asked("one", 1, 1.0), Asked("one", 5, 1.1), Asked("other", 3, 0.5)])
    assert queue.take(12) == [Slice(1, 0, 1), Slice(2, 0, 5), Slice(0, 0, 4)]


def test_the_later_frames_of_a_long_request_are_due_later() -> None:
    """A request for many frames, due now, does not go before another one that is due 200 ms later."""
    queue = queue_of([Asked("one", 40, 0.0), Asked("one", 4, 0.2)])
    assert [piece.request for _ in range(4) for piece in queue.take(4)] == [0, 0, 1, 0]


def test_batch_work_keeps_its_turns_behind_due_work() -> None:
    queue = queue_of([Asked("greedy", 1000), Asked("modest", 4), Asked("live", 4, 9.0)])
    assert [piece.request for _ in range(4) for piece in queue.take(4)] == [2, 0, 1, 0]


def test_what_is_removed_is_never_taken() -> None:
    queue = queue_of([Asked("one", 10, 1.0), Asked("one", 3, 2.0), Asked("one", 9)])
    queue.take(4)
    queue.remove(0)
    queue.remove(7)
    assert queue.take(4) == [Slice(1, 0, 3), Slice(2, 0, 1)]
    queue.remove(2)
    assert (len(queue), queue.waiting_frames, queue.head) == (0, 0, None)


def test_a_key_is_forgotten_with_all_that_waits_for_it() -> None:
    queue = queue_of([Asked("gone", 10, 1.0), Asked("stays", 3, 2.0), Asked("gone", 9)])
    assert sorted(queue.remove_key("gone")) == [0, 2]
    assert queue.remove_key("gone") == []
    assert (len(queue), queue.waiting_frames, queue.head) == (1, 3, "stays")


def test_a_call_costs_the_same_however_much_is_due() -> None:
    costs = []
    for waiting in (10, 10_000):
        queue: WorkQueue[str, Counted] = WorkQueue()
        requests = [Counted(number) for number in range(waiting)]
        for number, request in enumerate(requests):
            queue.push("avatar", request, 8, due_s=number)
        Counted.touched = 0
        queue.remove(requests[waiting // 2])
        queue.push("avatar", Counted("new"), 8, due_s=0)
        queue.take(16)
        costs.append(Counted.touched)
    assert costs[0] == costs[1]
