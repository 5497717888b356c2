"""The queue's policy: nothing lost, nothing twice, turns between avatars, shares between requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_service.scheduling.fair_queue import FairQueue

from .counted import Counted

requests = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), min_size=1, max_size=12)


@given(requests, st.integers(1, 20))
def test_every_frame_is_taken_once_and_in_order(pushed: list[tuple[str, int]], max_frames: int) -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number, (key, frames) in enumerate(pushed):
        queue.push(key, number, frames)
    next_frame = dict.fromkeys(range(len(pushed)), 0)
    while batch := queue.take(max_frames):
        assert 1 <= sum(piece.count for piece in batch) <= max_frames
        assert len({pushed[piece.request][0] for piece in batch}) == 1
        for piece in batch:
            assert piece.start == next_frame[piece.request]
            assert piece.count > 0
            next_frame[piece.request] += piece.count
    assert [next_frame[number] for number in range(len(pushed))] == [frames for _, frames in pushed]
    assert queue.waiting_frames == 0
    assert len(queue) == 0


@given(requests, st.integers(1, 20))
def test_a_batch_is_full_when_enough_frames_wait(pushed: list[tuple[str, int]], max_frames: int) -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number, (_, frames) in enumerate(pushed):
        queue.push("one", number, frames)
    waiting = queue.frames_at_head()
    batch = queue.take(max_frames)
    assert sum(piece.count for piece in batch) == min(waiting, max_frames)


@given(requests, st.integers(1, 20))
def test_a_batch_has_few_pieces(pushed: list[tuple[str, int]], max_frames: int) -> None:
    """Each is a message: all but the last are the rest of their requests."""
    queue: FairQueue[str, int] = FairQueue()
    for number, (key, frames) in enumerate(pushed):
        queue.push(key, number, frames)
    while pieces := queue.take(max_frames):
        assert all(piece.start + piece.count == pushed[piece.request][1] for piece in pieces[:-1])


def test_many_small_requests_run_together() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(20):
        queue.push("avatar", number, 1)
    batch = queue.take(16)
    assert [piece.request for piece in batch] == list(range(16))


def test_avatars_take_turns_however_much_one_asks() -> None:
    queue: FairQueue[str, str] = FairQueue()
    queue.push("greedy", "huge", 1000)
    queue.push("modest", "small", 4)
    assert [piece.request for _ in range(3) for piece in queue.take(4)] == ["huge", "small", "huge"]


def test_a_huge_request_holds_up_a_small_one_of_the_same_avatar_by_a_batch() -> None:
    queue: FairQueue[str, str] = FairQueue()
    queue.push("avatar", "huge", 1000)
    queue.take(8)
    queue.push("avatar", "small", 4)
    assert [[(piece.request, piece.count) for piece in queue.take(8)] for _ in range(2)] == [
        [("huge", 8)],
        [("small", 4), ("huge", 4)],
    ]


def test_requests_take_turns() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(2):
        queue.push("avatar", number, 24)
    assert [[(piece.request, piece.count) for piece in queue.take(16)] for _ in range(3)] == [
        [(0, 16)],
        [(1, 16)],
        [(0, 8), (1, 8)],
    ]


def test_what_is_removed_is_never_taken() -> None:
    queue: FairQueue[str, str] = FairQueue()
    queue.push("avatar", "gone", 10)
    queue.push("avatar", "stays", 2)
    queue.take(2)
    queue.remove("gone")
    queue.remove("never there")
    taken = [piece.request for _ in range(5) for piece in queue.take(4)]
    assert taken == ["stays"]
    assert queue.waiting_frames == 0


def test_a_key_is_forgotten_with_all_that_waits_for_it() -> None:
    queue: FairQueue[str, str] = FairQueue()
    for key, request, frames in (("gone", "one", 3), ("stays", "two", 5), ("gone", "three", 9)):
        queue.push(key, request, frames)
    assert queue.remove_key("gone") == ["one", "three"]
    assert queue.remove_key("gone") == []
    queue.remove("three")
    assert (len(queue), queue.waiting_frames, queue.frames_at_head(), queue.head) == (1, 5, 5, "stays")


def test_a_call_costs_the_same_however_much_waits() -> None:
    costs = []
    for waiting in (10, 10_000):
        queue: FairQueue[str, Counted] = FairQueue()
        requests = [Counted(number) for number in range(waiting)]
        for request in requests:
            queue.push("avatar", request, 8)
        Counted.touched = 0
        queue.remove(requests[waiting // 2])
        len(queue)
        queue.frames_at_head()
        queue.take(16)
        costs.append(Counted.touched)
    assert costs[0] == costs[1]
