from __future__ import annotations

import pytest

from avatar_kit.geometry import Rect
from compositing_service.picture.jpeg.interval import choose_restart_interval
from compositing_service.picture.jpeg.splicing import region_around


def square(x, y, side):
    return Rect(x, y, x + side, y + side)


def mean_area(rects, interval, *, width, height):
    regions = [region_around(rect, width=width, height=height, restart_interval=interval).pixels for rect in rects]
    return sum((r.x2 - r.x1) * (r.y2 - r.y1) for r in regions) / len(rects)


@pytest.mark.parametrize(
    "rects",
    [
        pytest.param([square(549 + step, 300, 182) for step in range(-6, 7)], id="in-the-middle"),
        pytest.param([square(400 + step, 200, 182) for step in range(0, 60, 5)], id="across-a-boundary"),
        pytest.param([square(0, 0, 100), square(1180, 620, 100)], id="in-two-corners"),
    ],
)
def test_the_rule_holds(judges, make_texture, rects):
    """Smallest regions within 4 % of file size; within 5 % of those, the largest interval."""
    width, height = 1280, 720
    sample = make_texture(width, height, seed=1, smoothness=3)
    plain = len(judges.turbojpeg(sample, quality=75, restart_interval=0))
    allowed = {
        interval: mean_area(rects, interval, width=width, height=height)
        for interval in (1, 2, 4, 5, 8, 10, 16, 20, 40, 80)
        if interval == 80 or len(judges.turbojpeg(sample, quality=75, restart_interval=interval)) <= plain * 1.04
    }
    assert len(allowed) > 2
    expected = max(interval for interval, area in allowed.items() if area <= min(allowed.values()) * 1.05)
    assert choose_restart_interval(sample, rects) == expected


def test_a_realistic_avatar_takes_sixteen(make_texture):
    """Rectangles of some 182 pixels in the middle of 1280 fit between 512 and 768."""
    rects = [square(549 + step, 300, 182 + step) for step in range(-6, 7)]
    assert choose_restart_interval(make_texture(1280, 720, seed=2, smoothness=6), rects) == 16


def test_the_choice_is_the_same_each_time_and_whatever_the_order(make_texture):
    sample = make_texture(640, 480, seed=3)
    rects = [square(200 + 3 * step, 200, 90) for step in range(20)]
    assert {choose_restart_interval(sample, rects[shift:] + rects[:shift]) for shift in range(5)} == {
        choose_restart_interval(sample, rects)
    }


@pytest.mark.parametrize(
    "rect",
    [
        pytest.param(Rect(0, 0, 640, 480), id="the-whole-picture"),
        pytest.param(Rect(10, 10, 630, 470), id="nearly"),
        pytest.param(Rect(0, 0, 640, 400), id="five-sixths"),
    ],
)
def test_a_rectangle_over_most_of_the_picture_means_whole_encoding(make_texture, rect):
    assert choose_restart_interval(make_texture(640, 480, seed=4), [rect]) == 0


def test_markers_that_cost_too_much_are_not_used_for_a_few_pixels(make_texture):
    """A small flat picture is nearly all header and markers: one segment a row is all that it gets."""
    flat = make_texture(320, 240, seed=5)
    flat[...] = 90
    assert choose_restart_interval(flat, [square(100, 100, 30)]) == 20
