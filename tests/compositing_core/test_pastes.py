from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avatar_kit import fitting
from avatar_kit.geometry import Paste, Rect
from compositing_service.picture.paste import needs_ring, paste_mouth, place_in, ring_around
from compositing_service.picture.patch import Patch, scratch

WIDTH, HEIGHT = 120, 90


@st.composite
def rects(draw):
    sides = []
    for length in (WIDTH, HEIGHT):
        start = draw(st.one_of(st.just(0), st.integers(0, length - 1)))
        sides.append((start, draw(st.one_of(st.just(length), st.integers(start + 1, length)))))
    (x1, x2), (y1, y2) = sides
    return Rect(x1, y1, x2, y2)


def paste(picture, rect, kind, mouth):
    pixels = picture.copy()
    ring = ring_around(picture, rect) if needs_ring(mouth, rect, kind) else None
    paste_mouth(pixels, place_at(picture, rect, kind), mouth, ring)
    return pixels


def place_at(picture, rect, kind):
    return place_in(rect, kind, width=picture.shape[1], height=picture.shape[0])


@settings(max_examples=settings().max_examples * 150 // 100)
@given(rect=rects(), kind=st.sampled_from(Paste), which=st.integers(0, 3))
@example(rect=Rect(0, 0, 1, 1), kind=Paste.FEATHER, which=0)
@example(rect=Rect(50, 50, 51, 51), kind=Paste.FEATHER, which=0)
@example(rect=Rect(50, 10, 52, 80), kind=Paste.FEATHER, which=1)
@example(rect=Rect(0, 0, WIDTH, HEIGHT), kind=Paste.FEATHER, which=1)
@example(rect=Rect(119, 0, 120, 90), kind=Paste.REFERENCE, which=2)
def test_each_paste_is_its_definition(judges, make_texture, mouths, rect, kind, which):
    picture = make_texture(WIDTH, HEIGHT, seed=7)
    expected = judges.pasted(picture, rect, mouths[which], kind)
    np.testing.assert_array_equal(paste(picture, rect, kind, mouths[which]), expected)


@settings(max_examples=settings().max_examples * 150 // 100)
@given(rect=rects(), kind=st.sampled_from(Paste), which=st.integers(0, 3))
def test_a_mouth_that_was_resized_before_gives_the_same(judges, make_texture, mouths, rect, kind, which):
    picture = make_texture(WIDTH, HEIGHT, seed=7)
    hard = Paste.REFERENCE if kind is Paste.FEATHER else kind
    resized = judges.pasted(picture, rect, mouths[which], hard)[rect.y1 : rect.y2, rect.x1 : rect.x2].copy()
    expected = judges.pasted(picture, rect, mouths[which], kind)
    np.testing.assert_array_equal(paste(picture, rect, kind, resized), expected)


@settings(max_examples=settings().max_examples * 150 // 100)
@given(rect=rects(), kind=st.sampled_from(Paste), margins=st.tuples(*[st.integers(0, 40)] * 4))
def test_what_is_kept_of_the_surroundings_is_enough(judges, make_texture, mouths, rect, kind, margins):
    """Pasting into a restored region gives that region of the pasted picture, whatever lay in the working memory."""
    picture = make_texture(WIDTH, HEIGHT, seed=8)
    left, top, right, bottom = margins
    region = Rect(max(0, rect.x1 - left), max(0, rect.y1 - top), min(WIDTH, rect.x2 + right), min(HEIGHT, rect.y2 + bottom))
    ring = ring_around(picture, rect) if needs_ring(mouths[0], rect, kind) else None
    kept = Patch.cut(picture, region, place_at(picture, rect, kind), ring)
    scratch.pixels(HEIGHT, WIDTH)[...] = 77
    fitting.scratch.crop[...] = 55

    pixels = kept.restore()
    paste_mouth(pixels, kept.place, mouths[0], kept.ring)

    expected = judges.pasted(picture, rect, mouths[0], kind)
    np.testing.assert_array_equal(pixels, expected[region.y1 : region.y2, region.x1 : region.x2])


def test_the_frames_own_mouth_changes_nothing_but_resampling(make_texture):
    """The crop's own middle pasted back is the reference's identity: the crop resized back over the rectangle."""
    picture = make_texture(WIDTH, HEIGHT, seed=9)
    rect = Rect(30, 20, 90, 80)
    crop = cv2.resize(picture[20:80, 30:90], (328, 328), interpolation=cv2.INTER_CUBIC)
    pasted = paste(picture, rect, Paste.REFERENCE, crop[4:324, 4:324])
    expected = picture.copy()
    expected[20:80, 30:90] = cv2.resize(crop, (60, 60), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(pasted, expected)


def test_a_feather_softens_the_worst_edge_and_leaves_the_mouth_alone():
    """White on black: a hard edge steps by 255 or so where the crop's ring ends, the feather by less than half of it."""
    background = np.zeros((400, 400, 3), np.uint8)
    white = np.full((320, 320, 3), 255, np.uint8)
    rect = Rect(100, 100, 282, 282)
    hard, soft = (paste(background, rect, kind, white)[190, 95:130, 0].astype(int) for kind in (Paste.REFERENCE, Paste.FEATHER))
    assert np.max(np.diff(hard)) > 200
    assert np.all(np.diff(soft) >= 0)
    assert np.max(np.diff(soft)) < 100
    assert np.all(paste(background, rect, Paste.FEATHER, white)[108:274, 108:274] == 255)


def test_a_side_on_the_pictures_edge_is_not_feathered():
    """In the lower right corner the feather is the hard paste; at the left and above it is not."""
    background = np.zeros((100, 100, 3), np.uint8)
    white = np.full((320, 320, 3), 255, np.uint8)
    rect = Rect(10, 10, 100, 100)
    hard, soft = (paste(background, rect, kind, white) for kind in (Paste.REFERENCE, Paste.FEATHER))
    np.testing.assert_array_equal(soft[20:, 20:], hard[20:, 20:])
    assert not np.array_equal(soft[10:13, 20:], hard[10:13, 20:])
    assert not np.array_equal(soft[20:, 10:13], hard[20:, 10:13])


@pytest.mark.parametrize("kind", list(Paste))
def test_only_the_rectangle_changes(make_texture, mouths, kind):
    picture = make_texture(WIDTH, HEIGHT, seed=10)
    rect = Rect(17, 13, 77, 66)
    pasted = paste(picture, rect, kind, mouths[1])
    pasted[13:66, 17:77] = picture[13:66, 17:77]
    np.testing.assert_array_equal(pasted, picture)
