"""The painter, judged by areas, centres and colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.demo_drawing.canvas import DENSITY, Layer, Linear, Radial, ellipse, moved, rgb, spline, symmetric, taper

FATTER = 1 / 16  # picture pixels: OpenCV fills the outline itself as well, half a subsample to each side
coordinates = st.floats(-50, 50, allow_nan=False)


@settings(max_examples=40)
@given(x=st.floats(20, 40), y=st.floats(20, 40), a=st.floats(3, 15), b=st.floats(3, 15))
def test_an_ellipse_covers_its_area_around_its_centre(x: float, y: float, a: float, b: float) -> None:
    covered = Layer(0, 0, 60, 60).mask(ellipse((x, y), (a, b)))
    assert covered.sum() / DENSITY**2 == pytest.approx(np.pi * (a + FATTER) * (b + FATTER), rel=0.02)
    rows, columns = np.indices(covered.shape)
    assert (covered * columns).sum() / covered.sum() == pytest.approx(x * DENSITY - 0.5, abs=0.1)
    assert (covered * rows).sum() / covered.sum() == pytest.approx(y * DENSITY - 0.5, abs=0.1)


@pytest.mark.parametrize("blur", [0.5, 2.0, 9.0])
def test_blur_keeps_the_area_and_the_edge_of_the_layer_does_not_show(blur: float) -> None:
    shape = ellipse((50, 50), (12, 8))
    assert Layer(0, 0, 100, 100).mask(shape, blur=blur).sum() == pytest.approx(Layer(0, 0, 100, 100).mask(shape).sum(), rel=0.03)
    whole, cut = Layer(0, 0, 100, 100).mask(shape, blur=blur), Layer(0, 0, 50, 100).mask(shape, blur=blur)
    np.testing.assert_allclose(cut, whole[:, : 50 * DENSITY], atol=0.02)


@settings(max_examples=50)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9, unique=True))
def test_a_curve_passes_through_its_knots(knots: list[tuple[float, float]]) -> None:
    for closed in (True, False):
        curve = spline(knots, closed=closed)
        assert np.isfinite(curve).all()
        for knot in knots:
            assert np.hypot(*(curve - knot).T).min() < 1e-6


def test_a_shape_outside_the_layer_changes_nothing() -> None:
    layer = Layer(0, 0, 20, 20)
    layer.fill(ellipse((200, 200), (5, 5)), "#ffffff")
    assert not layer.pixels.any()


def test_paint_over_paint_is_premultiplied() -> None:
    layer, everything = Layer(0, 0, 10, 10), np.array([(-5, -5), (15, -5), (15, 15), (-5, 15)], float)
    layer.fill(everything, "#ff0000", alpha=0.5)
    np.testing.assert_allclose(layer.pixels[5, 5], (0.5, 0, 0, 0.5), atol=1e-6)
    layer.fill(everything, "#0000ff", alpha=0.5)
    np.testing.assert_allclose(layer.pixels[5, 5], (0.25, 0, 0.5, 0.75), atol=1e-6)


def test_ramps_run_between_their_stops() -> None:
    x, y = np.meshgrid(np.array([0.0, 5.0, 10.0]), np.array([0.0]))
    stops = ((0.0, "#000000"), (1.0, "#ffffff"))
    np.testing.assert_allclose(Linear((0, 0), (10, 0), stops).at(x, y)[0, :, 0], (0, 0.5, 1))
    np.testing.assert_allclose(Radial((0, 0), (5, 5), stops).at(x, y)[0, :, 0], (0, 1, 1))
    np.testing.assert_allclose(rgb("#336699"), (0.2, 0.4, 0.6), atol=1e-6)


def test_a_stroke_is_as_wide_as_asked() -> None:
    covered = Layer(0, 0, 60, 40).mask(taper([(10, 20), (30, 20), (50, 20)], (6, 6)))
    assert covered.sum() / DENSITY**2 == pytest.approx((40 + 2 * FATTER) * (6 + 2 * FATTER), rel=0.01)


def test_symmetry_and_moving() -> None:
    shape = spline(symmetric([(0, -10), (8, 0), (0, 12)]))
    assert shape[:, 0].max() == pytest.approx(-shape[:, 0].min(), abs=1e-6)
    np.testing.assert_allclose(moved(shape, 3, -2) - shape, np.broadcast_to((3, -2), shape.shape))
