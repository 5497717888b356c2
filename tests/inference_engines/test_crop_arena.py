"""The arena of crops, on the CPU: whatever it holds, frames have the bytes that they have without it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.crops import CropBank
from inference_service.engines.device_copies import DeviceCopies
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine

from ..inference_service.conftest import MakeAvatar
from .conftest import CPU, OPTIONS, SHARING, on_cpu, run, windows
from .mixing_network import mixing

SLOTS = 8  # two of them for crops that pass
KEPT = 6


def arena(slots: int = SLOTS) -> CropArena:
    return CropArena(CPU, slots * CROP_BYTES + 1)


def crop_of(frame: int) -> NDArray[np.uint8]:
    return np.full((3, 320, 320), frame, np.uint8)


class Uploads:
    """Makes crops and counts them."""

    def __init__(self) -> None:
        self.frames: list[int] = []

    def __call__(self, frame: int) -> NDArray[np.uint8]:
        self.frames.append(frame)
        return crop_of(frame)


def seen(held: CropArena, slots: NDArray[np.int64] | None) -> list[int]:
    """Returns the content of the slots' memory."""
    assert slots is not None
    room = np.empty(CROP_BYTES, np.uint8)
    values = []
    for slot in slots:
        DeviceCopies(CPU).copy(held.bank.address + int(slot) * CROP_BYTES, room.ctypes.data, CROP_BYTES)
        assert (room == room[0]).all()
        values.append(int(room[0]))
    return values


def take(held: CropArena, owner: object, frames: list[int], crop: Callable[[int], NDArray[np.uint8]]) -> None:
    with held.lent(owner, frames, crop) as slots:
        assert seen(held, slots) == frames


def test_a_budget_is_kept_to() -> None:
    assert arena(5).memory.nbytes == 5 * CROP_BYTES


def test_a_crop_is_uploaded_once_and_stays() -> None:
    held, uploads, owner = arena(), Uploads(), object()
    take(held, owner, [3, 1, 3], uploads)
    take(held, owner, [1, 2], uploads)
    assert uploads.frames == [3, 1, 2]
    assert held.held(owner) == 3
    held.hold(owner, 1, crop_of(1))
    held.hold(owner, 9, crop_of(9))
    take(held, owner, [9], uploads)
    assert uploads.frames == [3, 1, 2]


def test_avatars_have_crops_of_their_own_and_free_them() -> None:
    held, one, other = arena(), object(), object()
    take(held, one, [1, 2, 3], crop_of)
    take(held, other, [1, 2], crop_of)
    held.forget(one)
    assert (held.held(one), held.held(other)) == (0, 2)
    uploads = Uploads()
    take(held, other, [1, 2, 3, 4, 5, 6], uploads)
    assert uploads.frames == [3, 4, 5, 6]
    assert held.held(other) == KEPT, "the slots of the one that is gone are used again"


def test_a_clip_that_does_not_fit_keeps_the_part_that_does() -> None:
    held, owner, uploads = arena(), object(), Uploads()
    for _ in range(4):
        for frame in range(10):
            take(held, owner, [frame], uploads)
    assert uploads.frames[:10] == [*range(10)]
    assert uploads.frames[10:] == [6, 7, 8, 9] * 3


def test_crops_of_an_avatar_that_is_not_used_any_more_make_room() -> None:
    held, before, now, uploads = arena(), object(), object(), Uploads()
    take(held, before, [*range(KEPT)], crop_of)
    for _ in range(20):
        for frame in range(4):
            take(held, now, [frame], uploads)
    before_long = len(uploads.frames)
    take(held, now, [0, 1, 2, 3], uploads)
    assert held.held(now) == 4
    assert held.held(before) == 2
    assert len(uploads.frames) == before_long


def test_crops_in_use_are_left_alone_and_a_run_too_many_is_told() -> None:
    held, owners = arena(), [object() for _ in range(3)]
    with ExitStack() as runs:
        first = runs.enter_context(held.lent(owners[0], [*range(KEPT)], crop_of))
        second = runs.enter_context(held.lent(owners[1], [20, 21], crop_of))
        assert runs.enter_context(held.lent(owners[2], [30], crop_of)) is None
        assert seen(held, first) == [*range(KEPT)]
        assert seen(held, second) == [20, 21]
    assert held.held(owners[1]) == 0, "they were there for their run alone"
    take(held, owners[2], [30, 31], crop_of)


def test_a_crop_that_cannot_be_had_leaves_all_as_it_was() -> None:
    held, owner = arena(), object()

    def broken(frame: int) -> NDArray[np.uint8]:
        raise OSError(frame)

    for _ in range(2 * SLOTS):
        with pytest.raises(OSError, match="4"), held.lent(owner, [4], broken):
            pass
    assert held.held(owner) == 0
    take(held, owner, [*range(SLOTS)], crop_of)


@pytest.mark.parametrize("slots", [0, 3, 4, 8, 64])
@pytest.mark.parametrize("reference", [None, 3])
def test_bytes_are_the_same_whatever_is_there(make_avatar: MakeAvatar, slots: int, reference: int | None) -> None:
    held = arena(slots)
    avatars = [make_avatar(f"a{seed}", model=mixing(seed), reference_frame=reference) for seed in range(2)]
    shared = SharedSessions(SHARING)
    engines = [OnnxEngine(avatar, CPU, SHARING, run_frames=3, arena=held, shared=shared) for avatar in avatars]
    plain = [on_cpu(avatar) for avatar in avatars]
    for turn, frames in enumerate([[0, 1, 2], [2, 1], [4, 4, 3, 0, 1], [0], [3, 2, 1, 0, 4]]):
        for engine, alone in zip(engines, plain, strict=True):
            expected, _ = run(alone, frames, windows(len(frames), turn))
            np.testing.assert_allclose(run(engine, frames, windows(len(frames), turn))[0], expected, atol=2e-6)
    if slots == 64:
        ours = run(engines[0], [1, 2, 4], windows(3))[0]
        again = OnnxEngine(avatars[0], CPU, SHARING, run_frames=3, shared=SharedSessions(SHARING))
        np.testing.assert_array_equal(ours, run(again, [1, 2, 4], windows(3))[0])


def test_unloading_an_avatar_frees_its_slots(make_avatar: MakeAvatar) -> None:
    held = arena(64)
    bank = CropBank(make_avatar(), CPU, arena=held)
    bank.fill()
    other = CropBank(make_avatar("other"), CPU, arena=held)
    other.fill()
    with other.fed(np.arange(5)) as feed:
        assert len(set(feed.slots)) == 5
    free = held.free
    del bank
    gc.collect()
    assert held.free == free + 5


def test_runs_at_the_same_time_see_their_own_crops(make_avatar: MakeAvatar) -> None:
    """More frames are asked for than there are slots, by four threads at once."""
    held = arena(10)
    avatars = [make_avatar(f"a{seed}", model=mixing(seed)) for seed in range(4)]
    engines = [OnnxEngine(avatar, CPU, OPTIONS, run_frames=2, arena=held) for avatar in avatars]
    sound = windows(2)
    plain = [on_cpu(avatar) for avatar in avatars]
    expected = {(place, frame): run(plain[place], [frame, frame], sound)[0] for place in range(4) for frame in range(5)}
    start = threading.Barrier(4)

    def work(place: int) -> None:
        start.wait()
        order = np.random.default_rng(place).integers(0, 5, 25)
        for frame in order.tolist():
            np.testing.assert_allclose(run(engines[place], [frame, frame], sound)[0], expected[place, frame], atol=2e-6)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, place) for place in range(4)]:
            done.result()
