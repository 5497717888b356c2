from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.geometry import Paste, Rect
from compositing_service.backgrounds.avatar_frames import EncodedFrame
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.outputs import JpegOutput
from compositing_service.picture.jpeg.splicing import encode_spliceable, region_around
from compositing_service.picture.paste import place_in, ring_around
from compositing_service.picture.patch import Patch

RECT = Rect(20, 20, 40, 40)


@pytest.fixture(scope="module")
def encoded(make_texture):
    picture = make_texture(64, 64, seed=1)
    region = region_around(RECT, width=64, height=64, restart_interval=2)
    patch = Patch.cut(picture, region.pixels, place_in(RECT, Paste.REFERENCE, width=64, height=64))
    return EncodedFrame(patch, encode_spliceable(picture, region, quality=75, restart_interval=2))


@pytest.fixture(scope="module")
def whole(make_texture):
    return make_texture(64, 64, seed=1)


@pytest.fixture(scope="module")
def ring(whole):
    return ring_around(whole, RECT)


@pytest.fixture(scope="module")
def frame_bytes(encoded):
    """Bytes that one frame is accounted with."""
    cache = FrameCache(max_bytes=10**9, policy="lfu")
    cache.put(cache.open(max_frames=1), 0, 75, encoded)
    return cache.nbytes


def test_a_frame_is_accounted_with_at_least_its_bytes(encoded, frame_bytes):
    assert frame_bytes >= len(encoded.jpeg.data) + encoded.patch.nbytes


def play(cache, avatar, indices, encoded, quality=75):
    """Asks for frames as the composer does; returns how many were there."""
    found = 0
    for index in indices:
        if cache.use(avatar, index, quality) is None:
            cache.put(avatar, index, quality, encoded)
        else:
            found += 1
    return found


@pytest.mark.parametrize("policy", ["lfu", "lru"])
@pytest.mark.parametrize("bounces", [False, True])
@pytest.mark.parametrize("length", [100, 55, 200])
def test_as_much_of_a_clip_is_found_as_fits(encoded, policy, length, bounces):
    """No choice could find more than the share that fits, and dropping the oldest would find nothing in a loop."""
    cache = FrameCache(max_bytes=10**9, policy=policy)
    avatar = cache.open(max_frames=50)
    clip = [*range(length), *(range(length - 2, 0, -1) if bounces else ())]
    play(cache, avatar, clip, encoded)
    assert play(cache, avatar, clip * 10, encoded) >= 0.85 * 50 / length * len(clip) * 10


def test_a_caller_close_behind_another_finds_its_frames(encoded):
    cache = FrameCache(max_bytes=10**9, policy="lfu")
    avatar = cache.open(max_frames=50)
    play(cache, avatar, range(100), encoded)
    play(cache, avatar, range(70, 90), encoded)
    assert play(cache, avatar, range(85, 90), encoded) == 5


@pytest.mark.parametrize("policy", ["lfu", "lru"])
def test_a_part_of_a_clip_that_fits_is_found_before_long(encoded, policy):
    """A person who waits, in a clip of which the cache is full; dropping the latest would never keep a frame of it."""
    cache = FrameCache(max_bytes=10**9, policy=policy)
    avatar = cache.open(max_frames=50)
    play(cache, avatar, range(100), encoded)
    waiting = [*range(70, 90)]
    play(cache, avatar, waiting * 12, encoded)
    assert play(cache, avatar, waiting * 10, encoded) == len(waiting) * 10


def test_frames_per_avatar_is_held_for_each_avatar(encoded):
    cache = FrameCache(max_bytes=10**9, policy="lfu")
    avatars = [cache.open(max_frames=limit) for limit in (1, 5)]
    for avatar in avatars:
        play(cache, avatar, range(20), encoded)
    assert [len(avatar.encoded) for avatar in avatars] == [1, 5]


@pytest.mark.parametrize(("policy", "gone"), [("lfu", 1), ("lru", 0)])
def test_an_avatar_that_nobody_uses_gives_way_by_the_policy(encoded, frame_bytes, policy, gone):
    cache = FrameCache(max_bytes=frame_bytes * 4, policy=policy)
    often, rarely, newcomer = (cache.open(max_frames=100) for _ in range(3))
    play(cache, often, [0, 1, 0, 1, 0, 1], encoded)
    play(cache, rarely, [0, 1], encoded)
    cache.pin(newcomer)
    play(cache, newcomer, [0, 1], encoded)
    assert [len(avatar.encoded) for avatar in (often, rarely, newcomer)] == [2 if gone == 1 else 0, 2 if gone == 0 else 0, 2]


def test_frames_of_avatars_in_use_go_last_and_from_the_largest(encoded, frame_bytes):
    cache = FrameCache(max_bytes=frame_bytes * 6, policy="lfu")
    large, small, idle = (cache.open(max_frames=100) for _ in range(3))
    cache.pin(large)
    cache.pin(small)
    play(cache, large, [0, 1, 2], encoded)
    play(cache, small, [0], encoded)
    play(cache, idle, [0, 0, 1, 1], encoded)
    play(cache, small, [1, 2], encoded)
    assert [len(avatar.encoded) for avatar in (large, small, idle)] == [3, 3, 0]
    for avatar in (small, large) * 3:  # now that they are even, each drops its own
        play(cache, avatar, [10, 11], encoded)
        assert [len(avatar.encoded) for avatar in (large, small)] == [3, 3]


def test_pictures_take_only_room_that_is_left_and_go_first(encoded, frame_bytes, whole):
    cache = FrameCache(max_bytes=frame_bytes * 2 + whole.nbytes, policy="lfu")
    raw, other = cache.open(max_frames=100), cache.open(max_frames=100)
    cache.pin(raw)
    play(cache, other, [0, 1], encoded)
    for index in range(3):
        cache.put_picture(raw, index, whole)
    assert (len(raw.pictures), len(other.encoded)) == (1, 2)
    play(cache, other, [2], encoded)
    assert (len(raw.pictures), len(other.encoded)) == (0, 3)


def test_pictures_of_an_unused_avatar_make_room_for_anothers(whole):
    cache = FrameCache(max_bytes=whole.nbytes * 2, policy="lfu")
    unused, used = cache.open(max_frames=100), cache.open(max_frames=100)
    cache.pin(used)
    for avatar in (unused, used):
        for index in range(3):
            cache.put_picture(avatar, index, whole)
    assert (len(unused.pictures), len(used.pictures)) == (0, 2)


MOUTH = bytes(400)
RESTING = JpegOutput(75)


def rest(cache, avatar, indices):
    for index in indices:
        cache.offer_resting(avatar, index, RESTING, MOUTH)


def test_mouths_of_silence_take_room_from_unused_avatars_and_go_before_frames_of_used_ones(encoded, frame_bytes):
    cache = FrameCache(max_bytes=frame_bytes * 4, policy="lfu")
    used, unused = cache.open(max_frames=100), cache.open(max_frames=100)
    cache.pin(used)
    play(cache, unused, [0, 1], encoded)
    play(cache, used, [0, 1], encoded)
    rest(cache, used, range(3))
    assert (used.resting_count, len(used.encoded), len(unused.encoded)) == (3, 2, 1)
    play(cache, used, [2, 3], encoded)
    assert (used.resting_count, len(used.encoded), len(unused.encoded)) == (0, 4, 0)
    assert cache.nbytes == used.nbytes == frame_bytes * 4
    rest(cache, used, range(3))
    assert (used.resting_count, len(used.encoded)) == (0, 4), "they drop no frame of an avatar in use"


def test_mouths_of_silence_of_an_unused_avatar_go_after_its_frames(encoded, frame_bytes):
    cache = FrameCache(max_bytes=frame_bytes * 2, policy="lfu")
    unused, used = cache.open(max_frames=100), cache.open(max_frames=100)
    play(cache, unused, [0], encoded)
    rest(cache, unused, [0])
    cache.pin(used)
    play(cache, used, [0], encoded)
    assert (unused.resting_count, len(unused.encoded)) == (1, 0)
    play(cache, used, [1], encoded)
    assert (unused.resting_count, len(used.encoded)) == (0, 2)


def test_mouths_of_silence_are_kept_while_they_fit(encoded, frame_bytes):
    cache = FrameCache(max_bytes=frame_bytes + 3000, policy="lfu")
    avatar = cache.open(max_frames=100)
    play(cache, avatar, [0], encoded)
    rest(cache, avatar, range(20))
    assert 2 <= avatar.resting_count == len([index for index in range(20) if index not in avatar.unrested(range(20), RESTING)])
    assert cache.max_bytes - 1000 < cache.nbytes <= cache.max_bytes
    assert len(avatar.encoded) == 1
    cache.close(avatar)
    assert cache.nbytes == 0


def test_a_ring_that_comes_later_counts_with_its_frame_and_takes_room_from_unused_avatars(encoded, frame_bytes, ring):
    cache = FrameCache(max_bytes=frame_bytes * 2 + ring.nbytes, policy="lfu")
    unused, used = cache.open(max_frames=10), cache.open(max_frames=10)
    cache.pin(used)
    play(cache, unused, [0, 1], encoded)
    play(cache, used, [0], encoded, quality=75)
    cache.put_ring(used, 0, ring)
    cache.put_ring(used, 0, ring)
    assert cache.nbytes - unused.nbytes == used.nbytes == used.encoded_bytes == used.frame_bytes(0) == frame_bytes + ring.nbytes
    assert used.patch(0).ring is ring
    cache.close(used)
    assert cache.nbytes == unused.nbytes


def test_the_qualities_of_a_frame_share_a_ring_and_later_ones_too(encoded, frame_bytes, ring):
    cache = FrameCache(max_bytes=10**9, policy="lfu")
    avatar = cache.open(max_frames=10)
    for quality in (75, 80):
        play(cache, avatar, [0], encoded, quality)
    cache.put_ring(avatar, 0, ring)
    play(cache, avatar, [0], encoded, 90)
    assert {id(cache.peek(avatar, 0, quality).patch) for quality in (75, 80, 90)} == {id(avatar.patch(0))}
    assert cache.nbytes == frame_bytes + ring.nbytes + 2 * encoded.jpeg.nbytes


def test_a_ring_that_does_not_fit_beside_its_frame_or_has_none_is_not_kept(encoded, frame_bytes, ring):
    cache = FrameCache(max_bytes=frame_bytes + ring.nbytes - 1, policy="lfu")
    avatar = cache.open(max_frames=10)
    cache.put_ring(avatar, 0, ring)
    assert cache.nbytes == 0
    play(cache, avatar, [0], encoded)
    cache.put_ring(avatar, 0, ring)
    assert (cache.nbytes, avatar.patch(0).ring) == (frame_bytes, None)


def test_a_frame_larger_than_the_budget_is_not_kept_and_drops_nothing(encoded, frame_bytes):
    cache = FrameCache(max_bytes=frame_bytes + 10, policy="lfu")
    avatar = cache.open(max_frames=10)
    play(cache, avatar, [0], encoded)
    cache.put(avatar, 0, 80, encoded)  # the same frame at a second quality does not fit beside the first
    assert cache.peek(avatar, 0, 75) is not None
    assert cache.peek(avatar, 0, 80) is None


def test_a_closed_avatar_gives_its_bytes_back_and_takes_none(encoded):
    cache = FrameCache(max_bytes=10**9, policy="lfu")
    avatar = cache.open(max_frames=10)
    play(cache, avatar, [0, 1], encoded)
    cache.close(avatar)
    cache.close(avatar)
    play(cache, avatar, [2], encoded)
    assert (cache.nbytes, avatar.nbytes, len(avatar.encoded)) == (0, 0, 0)


def test_room_for_no_frame_is_a_mistake():
    with pytest.raises(ValueError, match="1 or more"):
        FrameCache(max_bytes=1, policy="lfu").open(max_frames=0)


@given(
    policy=st.sampled_from(["lfu", "lru"]),
    room=st.floats(0, 8),
    limit=st.integers(1, 6),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["frame", "ring", "picture", "pin", "unpin"]),
            st.integers(0, 2),
            st.integers(0, 5),
            st.sampled_from([75, 80]),
        ),
        max_size=60,
    ),
)
def test_the_budget_holds_whatever_happens(encoded, whole, ring, frame_bytes, policy, room, limit, steps):
    cache = FrameCache(max_bytes=int(room * frame_bytes), policy=policy)
    avatars = [cache.open(max_frames=limit) for _ in range(3)]
    for what, which, index, quality in steps:
        avatar = avatars[which]
        if what == "frame":
            play(cache, avatar, [index], encoded, quality)
        elif what == "ring":
            cache.put_ring(avatar, index, ring)
        elif what == "picture":
            cache.use_picture(avatar, index)
            cache.put_picture(avatar, index, whole)
        elif what == "pin":
            cache.pin(avatar)
        elif avatar.pins:
            cache.unpin(avatar)
        assert cache.nbytes <= cache.max_bytes
        for each in avatars:
            assert len(each.encoded) <= limit
            assert each.encoded_bytes == sum(each.frame_bytes(index) for index in each.encoded)
            assert each.picture_bytes == sum(picture.nbytes for picture in each.pictures.values())
    assert cache.hits + cache.misses == sum(what in {"frame", "picture"} for what, *_ in steps)
