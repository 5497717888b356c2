from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avatar_kit.geometry import Rect
from compositing_service.picture.jpeg.encoder import encode
from compositing_service.picture.jpeg.markers import JpegLayoutError
from compositing_service.picture.jpeg.splicing import encode_spliceable, region_around


@st.composite
def scenes(draw):
    """A picture's size, a rectangle in it that often touches edges, and a restart interval (0: none)."""
    width, height = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    sides = []
    for length in (width, height):
        start = draw(st.one_of(st.just(0), st.integers(0, length - 1)))
        sides.append((start, draw(st.one_of(st.just(length), st.integers(start + 1, length)))))
    (x1, x2), (y1, y2) = sides
    mcus = -(-width // 16)
    interval = draw(st.sampled_from([0, *(n for n in range(1, mcus + 1) if mcus % n == 0)]))
    return width, height, Rect(x1, y1, x2, y2), interval


def splice(picture, changed, rect, *, quality, interval):
    height, width = picture.shape[:2]
    region = region_around(rect, width=width, height=height, restart_interval=interval)
    stored = encode_spliceable(picture, region, quality=quality, restart_interval=interval)
    pixels = region.pixels
    patch = changed[pixels.y1 : pixels.y2, pixels.x1 : pixels.x2]
    return stored.data, stored.splice(stored.scan(encode(patch, quality=quality, restart_interval=interval)))


def repainted(picture, rect, *, seed):
    changed = picture.copy()
    shape = (rect.height, rect.width, 3)
    changed[rect.y1 : rect.y2, rect.x1 : rect.x2] = np.random.default_rng(seed).integers(0, 256, shape)
    return changed


@settings(max_examples=3 * settings().max_examples)
@given(
    scene=scenes(),
    quality=st.integers(1, 100),
    smoothness=st.sampled_from([0, 0.5, 2, 20]),
    seed=st.integers(0, 2**32 - 1),
)
@example(scene=(1, 1, Rect(0, 0, 1, 1), 1), quality=75, smoothness=0, seed=0)
@example(scene=(1, 100, Rect(0, 50, 1, 51), 1), quality=75, smoothness=0, seed=0)
@example(scene=(17, 33, Rect(16, 32, 17, 33), 1), quality=100, smoothness=0, seed=0)
@example(scene=(128, 128, Rect(0, 0, 128, 128), 2), quality=1, smoothness=0, seed=0)
def test_the_spliced_file_is_the_file_of_the_whole_picture(judges, make_texture, scene, quality, smoothness, seed):
    width, height, rect, interval = scene
    picture = make_texture(width, height, seed=seed, smoothness=smoothness)
    changed = repainted(picture, rect, seed=seed + 1)

    stored, spliced = splice(picture, changed, rect, quality=quality, interval=interval)

    assert spliced == judges.opencv(changed, quality=quality, restart_interval=interval)
    assert spliced == judges.turbojpeg(changed, quality=quality, restart_interval=interval)
    assert stored == judges.turbojpeg(picture, quality=quality, restart_interval=interval)
    without_markers = judges.opencv(changed, quality=quality, restart_interval=0)
    decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (spliced, without_markers)]
    np.testing.assert_array_equal(*decoded)


def test_every_quality_splices(judges, make_texture):
    picture = make_texture(90, 70, seed=1, smoothness=1)
    rect = Rect(20, 30, 55, 70)
    changed = repainted(picture, rect, seed=2)
    for quality in range(1, 101):
        _, spliced = splice(picture, changed, rect, quality=quality, interval=2)
        assert spliced == judges.turbojpeg(changed, quality=quality, restart_interval=2), f"quality {quality}"


@pytest.mark.parametrize("interval", [1, 2, 4, 5, 8, 10, 16, 20, 40, 80])
def test_a_full_size_picture_splices_at_every_divisor(judges, make_texture, interval):
    """1280x720 has over 45 marker numbers round the clock of eight, at every phase."""
    picture = make_texture(1280, 720, seed=3, smoothness=3)
    rect = Rect(549, 297, 731, 479)
    changed = repainted(picture, rect, seed=4)
    _, spliced = splice(picture, changed, rect, quality=75, interval=interval)
    assert spliced == judges.turbojpeg(changed, quality=75, restart_interval=interval)


@settings(max_examples=3 * settings().max_examples)
@given(scene=scenes())
def test_a_region_is_the_fewest_whole_segments_that_hold_the_rectangle(scene):
    width, height, rect, interval = scene
    region = region_around(rect, width=width, height=height, restart_interval=interval)
    mcus = -(-width // 16)
    touched = set()
    for y in range(rect.y1, rect.y2):
        for x in (*range(rect.x1, rect.x2, 16), rect.x2 - 1):
            touched.add(((y // 16) * mcus + x // 16) // interval if interval else 0)
    assert set(region.segments) == touched
    assert list(region.segments) == sorted(region.segments)
    pixels = region.pixels
    assert pixels.x1 <= rect.x1 < rect.x2 <= pixels.x2 <= width
    assert pixels.y1 <= rect.y1 < rect.y2 <= pixels.y2 <= height


@pytest.mark.parametrize(
    ("rect", "interval"),
    [
        pytest.param(Rect(0, 0, 10, 10), 3, id="interval-does-not-divide"),
        pytest.param(Rect(5, 5, 5, 10), 2, id="empty"),
        pytest.param(Rect(0, 0, 65, 10), 2, id="beyond-the-right-edge"),
        pytest.param(Rect(0, -1, 10, 10), 2, id="above-the-upper-edge"),
    ],
)
def test_impossible_regions_are_refused(rect, interval):
    with pytest.raises(ValueError, match=r"divide|within"):
        region_around(rect, width=64, height=64, restart_interval=interval)


@pytest.mark.parametrize("quality", [0, -1, 101, 1000])
def test_qualities_that_the_encoder_would_silently_clamp_are_refused(make_texture, quality):
    with pytest.raises(ValueError, match="1-100"):
        encode(make_texture(16, 16, seed=0), quality=quality, restart_interval=0)


def test_a_patch_of_another_size_is_refused(make_texture):
    picture = make_texture(64, 64, seed=0)
    region = region_around(Rect(0, 0, 32, 32), width=64, height=64, restart_interval=2)
    stored = encode_spliceable(picture, region, quality=75, restart_interval=2)
    with pytest.raises(JpegLayoutError, match="segments"):
        stored.splice(stored.scan(encode(picture, quality=75, restart_interval=2)))
