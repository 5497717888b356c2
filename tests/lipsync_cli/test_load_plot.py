"""The load tester's plots are SVG files whose curves lie where the values are."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync_cli.load.plot import BOTTOM, LEFT, PANEL_HEIGHT, RIGHT, TOP, WIDTH, Axis, Curve, Panel, draw, milliseconds

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*curves: Curve, x: Axis, y: Axis, title: str = "t") -> ET.Element:
    return ET.fromstring(draw([Panel(title, x, y, curves)]))


def points(root: ET.Element) -> np.ndarray:
    """[points, 2] of the first curve, in pixels."""
    line = root.find(f".//{SVG}polyline")
    assert line is not None
    return np.array([pair.split(",") for pair in line.attrib["points"].split()], float)


@given(st.lists(st.tuples(st.floats(-10, 120), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_curves_stay_inside_their_panel(values: list[tuple[float, float]]) -> None:
    y = milliseconds([each for _, each in values], first=0.1, at_least=40)
    found = points(drawn(Curve("c", values), x=Axis("s", 0, 100), y=y))
    assert (found >= [LEFT, TOP]).all()
    assert (found <= [WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM]).all()


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis() -> None:
    found = points(drawn(Curve("c", [(0, 1), (1, 10), (2, 100)]), x=Axis("x", 0, 2), y=Axis("y", 1, 100, logarithmic=True)))
    steps = np.diff(found, axis=0)
    np.testing.assert_allclose(steps[0], steps[1], atol=0.11)  # written with one decimal
    assert (steps[:, 1] < 0).all()  # larger is higher


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("x", 0, 8), [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Axis("x", 0, 3, whole=True), [0, 1, 2, 3]),
        (Axis("x", 0, 1.05, whole=True), [0, 1]),
        (Axis("x", 0, 37), [0, 5, 10, 15, 20, 25, 30, 35]),
        (Axis("x", 1, 100, logarithmic=True), [1, 2, 5, 10, 20, 50, 100]),
        (Axis("x", 0.1, 1e5, logarithmic=True), [0.1, 1, 10, 100, 1000, 10_000, 100_000]),
    ],
)
def test_ticks_are_round_values(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_text_cannot_end_the_drawing() -> None:
    root = drawn(Curve("</svg> & more", [(0, 0)]), x=Axis("x", 0, 1), y=Axis("y", 0, 1), title="<b>")
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"</svg> & more", "<b>"} <= set(texts)
