from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_kit.errors import BrokenAvatar
from avatar_kit.frames import PictureFrames
from avatar_kit.geometry import Paste, Rect
from avatar_kit.held import Held
from compositing_service.outputs import JpegOutput, RawOutput


@st.composite
def avatars(draw):
    """A size and three rectangles, touching edges now and then."""
    width, height = draw(st.integers(16, 150)), draw(st.integers(16, 150))

    def side(length):
        start = draw(st.one_of(st.just(0), st.integers(0, length - 2)))
        return start, draw(st.one_of(st.just(length), st.integers(start + 1, length)))

    rects = []
    for _ in range(3):
        (x1, x2), (y1, y2) = side(width), side(height)
        rects.append(Rect(x1, y1, x2, y2))
    return (width, height), rects


@settings(max_examples=settings().max_examples * 60 // 100)
@given(avatar=avatars(), paste=st.sampled_from(Paste), quality=st.integers(1, 100), seed=st.integers(0, 1000))
def test_frames_are_the_whole_picture_way_byte_for_byte(
    judges, make_avatar, make_composer, mouths, tmp_path_factory, avatar, paste, quality, seed
):
    size, rects = avatar
    root = tmp_path_factory.getbasetemp()
    loaded = make_avatar(root, "drawn", size=size, rects=rects, paste=paste, seed=seed, replace=True)
    composer = make_composer(loaded)
    interval = composer.restart_interval
    for index, rect in enumerate(rects):
        picture = loaded.read_frame(index)
        expected = judges.pasted(picture, rect, mouths[index], paste)

        spliced = composer.composite(index, mouths[index], JpegOutput(quality))

        assert spliced == judges.opencv(expected, quality=quality, restart_interval=interval)
        assert spliced == judges.turbojpeg(expected, quality=quality, restart_interval=interval)
        assert composer.composite(index, mouths[index], RawOutput()) == expected.tobytes()
        for output, picture_at_rest in ((JpegOutput(quality), spliced), (RawOutput(), expected.tobytes())):
            assert composer.resting(index, output) is None
            assert composer.keep_resting(index, mouths[index], output) == picture_at_rest
            assert composer.resting(index, output) == picture_at_rest
        assert composer.stored(index, JpegOutput(quality)) == judges.opencv(picture, quality=quality, restart_interval=interval)
        assert composer.stored(index, RawOutput()) == picture.tobytes()


@pytest.mark.parametrize(
    ("rect", "spliced"),
    [
        pytest.param(Rect(60, 40, 100, 80), True, id="a-mouth"),
        pytest.param(Rect(2, 2, 158, 118), False, id="most-of-the-picture"),
    ],
)
def test_both_ways_of_encoding_give_the_same_pixels(judges, make_avatar, make_composer, mouths, tmp_path, rect, spliced):
    avatar = make_avatar(tmp_path, size=(160, 120), rects=[rect])
    composer = make_composer(avatar)
    assert (composer.restart_interval > 0) == spliced
    expected = judges.pasted(avatar.read_frame(0), rect, mouths[0], Paste.REFERENCE)
    without_markers = judges.opencv(expected, quality=80, restart_interval=0)
    decoded = [
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        for data in (composer.composite(0, mouths[0], JpegOutput(80)), without_markers)
    ]
    np.testing.assert_array_equal(*decoded)


def test_a_mouth_leaves_no_trace_in_later_frames(make_avatar, make_composer, mouths, tmp_path):
    avatar = make_avatar(tmp_path)
    composer = make_composer(avatar)
    first = composer.composite(0, mouths[0], JpegOutput(75))
    idle = composer.stored(0, JpegOutput(75))
    for mouth in mouths:
        composer.composite(1, mouth, JpegOutput(75))
        composer.composite(0, mouth, RawOutput())
    assert composer.composite(0, mouths[0], JpegOutput(75)) == first
    assert composer.stored(0, JpegOutput(75)) == idle


@pytest.mark.parametrize("max_frames", [1000, 2], ids=["all-kept", "hardly-any-kept"])
def test_threads_get_the_same_bytes_as_one(make_avatar, make_composer, mouths, tmp_path, max_frames):
    rects = [Rect(30 + 2 * step, 20, 62 + 2 * step, 52) for step in range(6)]
    avatar = make_avatar(tmp_path, rects=rects)
    jobs = [(index, which, quality) for index in range(6) for which in range(4) for quality in (40, 75)] * 5

    def make(composer, job):
        index, which, quality = job
        return composer.composite(index, mouths[which], JpegOutput(quality)), composer.composite(
            index, mouths[which], RawOutput()
        )

    alone = make_composer(avatar)
    expected = [make(alone, job) for job in jobs]
    shared = make_composer(avatar, max_frames=max_frames)
    order = np.random.default_rng(0).permutation(len(jobs))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: make(shared, jobs[number]), order))
    assert results == [expected[number] for number in order]


@pytest.mark.parametrize("output", [JpegOutput(75), RawOutput()], ids=["jpeg", "raw"])
def test_a_picture_at_rest_stays_the_same_when_its_background_is_dropped_and_read_again(
    make_avatar, make_composer, mouths, tmp_path, output
):
    avatar = make_avatar(tmp_path)
    composer = make_composer(avatar, max_frames=1)
    at_rest = [composer.keep_resting(index, mouths[index], output) for index in range(avatar.frame_count)]
    assert composer.cached_frames() <= 1
    assert composer.unrested(range(avatar.frame_count), output) == []
    assert composer.unrested([1, 3], JpegOutput(76)) == [1, 3]
    assert [composer.resting(index, output) for index in range(avatar.frame_count)] == at_rest
    composer.close()
    assert composer.memory_bytes() == 0
    assert composer.unrested([0], output) == [0]


def test_what_is_kept_of_a_picture_at_rest_is_its_mouth_alone(make_avatar, make_composer, mouths, tmp_path):
    """523 of them are to fit beside their backgrounds in a budget that was made for these: some 10 KB each."""
    avatar = make_avatar(tmp_path, size=(1280, 720), rects=[Rect(549, 300, 731, 482)])
    composer = make_composer(avatar)
    smooth = cv2.GaussianBlur(mouths[0], (0, 0), 8)
    composer.stored(0, JpegOutput(75))
    before = composer.memory_bytes()
    picture = composer.keep_resting(0, smooth, JpegOutput(75))
    kept = composer.memory_bytes() - before
    assert 1000 < kept < 30_000
    assert len(picture) > 2 * kept


@pytest.fixture
def opencv_threads():
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


def test_the_bytes_do_not_depend_on_opencvs_own_threads(make_avatar, make_composer, mouths, tmp_path, opencv_threads):
    avatar = make_avatar(tmp_path, size=(640, 480), rects=[Rect(100, 100, 500, 460)])
    frames = set()
    for threads in (1, 4):
        opencv_threads(threads)
        frames.add(make_composer(avatar).composite(0, mouths[0], JpegOutput(75)))
    assert len(frames) == 1


def test_a_frame_of_full_size_keeps_little_besides_its_jpeg(make_avatar, make_composer, tmp_path):
    """523 of them, with JPEGs of some 65 KB, are to fit in 80 MB; the pixels of a picture alone are 2.7 MB."""
    avatar = make_avatar(tmp_path, size=(1280, 720), rects=[Rect(549, 300, 731, 482)])
    composer = make_composer(avatar)
    jpeg = composer.stored(0, JpegOutput(75))
    assert 523 * (composer.memory_bytes() - len(jpeg) + 65_000) < 75e6


def counting_reads(avatar):
    """The avatar as a stand-in that counts its reads, each held until `go_on`."""

    class Counting:
        def __init__(self):
            self.reads = []
            self.begun, self.go_on = threading.Event(), threading.Event()
            self.go_on.set()

        def __getattr__(self, name):
            return getattr(avatar, name)

        def read_frame(self, index):
            self.reads.append(index)
            self.begun.set()
            assert self.go_on.wait(60)
            return avatar.read_frame(index)

    return Counting()


def test_a_missing_frame_is_read_once_however_many_ask(make_avatar, make_composer, mouths, tmp_path):
    avatar = counting_reads(make_avatar(tmp_path))
    composer = make_composer(avatar)
    avatar.reads.clear()
    avatar.begun.clear()
    avatar.go_on.clear()
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(composer.composite, 2, mouths[0], JpegOutput(75)) for _ in range(6)]
        assert avatar.begun.wait(60)
        avatar.go_on.set()
        assert len({future.result(10) for future in futures}) == 1
    assert avatar.reads == [2]
    composer.composite(2, mouths[1], JpegOutput(75))
    assert avatar.reads == [2]
    composer.composite(2, mouths[1], JpegOutput(30))  # another quality needs the picture again
    assert avatar.reads == [2, 2]


def ring_bytes(composer, ask):
    """The bytes by which `ask` makes the frames in memory grow."""
    before = composer.memory_bytes()
    ask()
    return composer.memory_bytes() - before


def test_the_crops_border_is_read_for_a_mouth_that_comes_whole_and_kept(make_avatar, make_composer, mouths, tmp_path):
    """Mouths come resized where that makes them smaller: then the border is in them."""
    avatar = counting_reads(make_avatar(tmp_path))
    composer = make_composer(avatar)
    for quality in (75, 80):
        composer.stored(1, JpegOutput(quality))
    resized = np.zeros((32, 32, 3), np.uint8)
    avatar.reads.clear()
    assert ring_bytes(composer, lambda: composer.composite(1, resized, JpegOutput(75))) == 0
    assert avatar.reads == []
    assert ring_bytes(composer, lambda: composer.composite(1, mouths[0], JpegOutput(75))) == (328**2 - 320**2) * 3
    for quality in (75, 80):
        assert ring_bytes(composer, lambda quality=quality: composer.composite(1, mouths[1], JpegOutput(quality))) == 0
    assert avatar.reads == [1]


def test_of_a_frame_that_is_not_kept_the_crops_border_is_neither(make_avatar, make_composer, mouths, tmp_path):
    composer = make_composer(make_avatar(tmp_path), max_bytes=1)
    expected = make_composer(composer.avatar).composite(0, mouths[0], JpegOutput(75))
    assert composer.composite(0, mouths[0], JpegOutput(75)) == expected
    assert composer.memory_bytes() == 0


@pytest.mark.parametrize("paste", Paste)
def test_nothing_is_read_again_for_mouths_that_always_come_whole(make_avatar, make_composer, mouths, tmp_path, paste):
    avatar = counting_reads(make_avatar(tmp_path, size=(640, 480), rects=[Rect(100, 100, 430, 420)], paste=paste))
    composer = make_composer(avatar)
    composer.stored(0, JpegOutput(75))
    avatar.reads.clear()
    assert ring_bytes(composer, lambda: composer.composite(0, mouths[0], JpegOutput(75))) == 0
    assert avatar.reads == []


def test_qualities_share_the_pixels_around_the_mouth(make_avatar, make_composer, tmp_path):
    composer = make_composer(make_avatar(tmp_path, size=(320, 240)))
    sizes = []
    for quality in (50, 60):
        composer.stored(0, JpegOutput(quality))
        sizes.append(composer.memory_bytes())
    jpeg_bytes = len(composer.stored(0, JpegOutput(60)))
    assert jpeg_bytes <= sizes[1] - sizes[0] <= jpeg_bytes + 1000


def damage(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "text":
        path.write_text("no picture")


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "text"])
def test_a_broken_frame_fails_alone_and_works_when_mended(make_avatar, make_composer, mouths, tmp_path, how):
    avatar = make_avatar(tmp_path)
    whole = avatar.frame_paths[1].read_bytes()
    damage(avatar.frame_paths[1], how)
    composer = make_composer(avatar)
    for ask in (
        lambda: composer.composite(1, mouths[0], JpegOutput(75)),
        lambda: composer.composite(1, mouths[0], RawOutput()),
        lambda: composer.stored(1, JpegOutput(75)),
        lambda: composer.stored(1, RawOutput()),
    ):
        with pytest.raises(BrokenAvatar, match="frame_000001"):
            ask()
    for index in (0, 2, 3):
        assert composer.composite(index, mouths[0], JpegOutput(75))
    avatar.frame_paths[1].write_bytes(whole)
    assert composer.composite(1, mouths[0], JpegOutput(75))


def test_a_truncated_jpeg_frame_is_no_grey_picture(make_avatar, make_composer, make_texture, mouths, tmp_path):
    """libjpeg fills in what is missing and only warns."""
    avatar = make_avatar(tmp_path)
    jpeg = cv2.imencode(".jpg", make_texture(96, 80, seed=5))[1].tobytes()
    path = avatar.frame_paths[0].with_suffix(".jpg")
    path.write_bytes(jpeg[: len(jpeg) * 2 // 3])
    names = tuple(each.name for each in (avatar.frame_paths[1], path, *avatar.frame_paths[2:]))
    avatar = dataclasses.replace(avatar, frames=PictureFrames(Held(path.parent), names, avatar.width, avatar.height))
    with pytest.raises(BrokenAvatar):
        make_composer(avatar).composite(1, mouths[0], JpegOutput(75))


def test_an_avatar_whose_first_frames_are_broken_opens_and_one_of_nothing_else_does_not(make_avatar, make_composer, tmp_path):
    avatar = make_avatar(tmp_path)
    whole = make_composer(avatar)
    for path in avatar.frame_paths[:2]:
        path.unlink()
    assert make_composer(avatar).stored(3, JpegOutput(75)) == whole.stored(3, JpegOutput(75))
    for path in avatar.frame_paths[2:]:
        path.unlink()
    with pytest.raises(BrokenAvatar) as caught:
        make_composer(avatar)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    "mouth",
    [
        pytest.param(np.zeros((320, 320, 3), np.float32), id="float"),
        pytest.param(np.zeros((3, 320, 320), np.uint8), id="planes"),
        pytest.param(np.zeros((328, 328, 3), np.uint8), id="a-whole-crop"),
    ],
)
def test_other_arrays_than_mouths_are_refused(make_avatar, make_composer, tmp_path, mouth):
    composer = make_composer(make_avatar(tmp_path))
    with pytest.raises(ValueError, match="mouth"):
        composer.composite(0, mouth, JpegOutput(75))
    with pytest.raises(ValueError, match="mouth"):
        composer.composite(0, mouth, RawOutput())


@pytest.mark.parametrize("index", [-1, 4, 10**6])
def test_frames_that_are_not_there_are_index_errors(make_avatar, make_composer, mouths, tmp_path, index):
    composer = make_composer(make_avatar(tmp_path))
    with pytest.raises(IndexError):
        composer.composite(index, mouths[0], JpegOutput(75))
    with pytest.raises(IndexError):
        composer.stored(index, RawOutput())


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_qualities_that_do_not_exist_are_refused(make_avatar, make_composer, mouths, tmp_path, quality):
    with pytest.raises(ValueError, match="1-100"):
        make_composer(make_avatar(tmp_path)).composite(0, mouths[0], JpegOutput(quality))
