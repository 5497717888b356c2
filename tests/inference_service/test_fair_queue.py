"""The queue's policy: nothing lost, nothing twice, turns between avatars, shares between requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_service.scheduling.fair_queue import FairQueue

requests = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), min_size=1, max_size=12)


@given(requests, st.integers(1, 20))
def test_every_frame_is_taken_once_and_in_order(pushed: list[tuple[str, int]], max_frames: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, (key, frames) in enumerate(pushed):
        queue.push(key, number, frames)
    next_frame = dict.fromkeys(range(len(pushed)), 0)
    while (batch := queue.take(max_frames)) is not None:
        key, slices = batch
        assert 1 <= sum(piece.count for piece in slices) <= max_frames
        for piece in slices:
            assert pushed[piece.request][0] == key
            assert piece.start == next_frame[piece.request]
            assert piece.count > 0
            next_frame[piece.request] += piece.count
    assert [next_frame[number] for number in range(len(pushed))] == [frames for _, frames in pushed]
    assert queue.waiting_frames == 0
    assert len(queue) == 0


@given(requests, st.integers(1, 20))
def test_a_batch_is_full_when_enough_frames_wait(pushed: list[tuple[str, int]], max_frames: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, (_, frames) in enumerate(pushed):
        queue.push("one", number, frames)
    waiting = queue.frames_at_head()
    batch = queue.take(max_frames)
    assert batch is not None
    assert sum(piece.count for piece in batch[1]) == min(waiting, max_frames)


@given(requests, st.integers(1, 20))
def test_a_request_gets_a_few_frames_at_a_time_unless_the_batch_ends(pushed: list[tuple[str, int]], max_frames: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, (key, frames) in enumerate(pushed):
        queue.push(key, number, frames)
    while (batch := queue.take(max_frames)) is not None:
        pieces = batch[1]
        short = [
            place
            for place, piece in enumerate(pieces)
            if piece.count < 4 and piece.start + piece.count < pushed[piece.request][1]
        ]
        assert short in ([], [len(pieces) - 1])


def test_many_small_requests_run_together() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(20):
        queue.push("avatar", number, 1)
    batch = queue.take(16)
    assert batch is not None
    assert [piece.request for piece in batch[1]] == list(range(16))


def test_avatars_take_turns_however_much_one_asks() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("greedy", "huge", 1000)
    queue.push("modest", "small", 4)
    keys = [batch[0] for _ in range(3) if (batch := queue.take(4)) is not None]
    assert keys == ["greedy", "modest", "greedy"]


def test_a_small_request_is_not_held_up_by_a_huge_one_of_the_same_avatar() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("avatar", "huge", 1000)
    queue.take(8)
    queue.push("avatar", "small", 4)
    batch = queue.take(8)
    assert batch is not None
    assert {piece.request: piece.count for piece in batch[1]} == {"huge": 4, "small": 4}


def test_what_is_removed_is_never_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("avatar", "gone", 10)
    queue.push("avatar", "stays", 2)
    queue.take(2)
    queue.remove("gone")
    queue.remove("never there")
    taken = [piece.request for _ in range(5) if (batch := queue.take(4)) is not None for piece in batch[1]]
    assert taken == ["stays"]
    assert queue.waiting_frames == 0
