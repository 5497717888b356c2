"""The painting network, judged by its pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest

from .conftest import BOX, Renderer, lip_width, opening

Draw = Callable[..., np.ndarray]


def test_what_is_not_mouth_or_jaw_comes_back_unchanged(renderer: Renderer) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (328, 328, 3), np.uint8)
    window = np.random.default_rng(6).random((16, 512), np.float32) * 10
    out = renderer.mouth(noise, window)
    given = noise[4:324, 4:324]
    for region in (np.s_[:104], np.s_[316:], np.s_[:, :32], np.s_[:, 288:]):
        np.testing.assert_array_equal(out[region], given[region])


def test_a_batch_is_its_frames(renderer: Renderer, speech: np.ndarray) -> None:
    windows, crop = renderer.windows(speech[:16000]), renderer.crop(0)
    together = renderer.mouths(crop, windows[10:15])
    for alone, window in zip(together, windows[10:15], strict=True):
        np.testing.assert_array_equal(renderer.mouth(crop, window), alone)


@pytest.mark.parametrize("index", [0, 37, 75, 110, 149])
def test_at_rest_the_frame_stays_as_it_is(renderer: Renderer, index: int) -> None:
    drawn = renderer.mouth(renderer.crop(index), np.zeros((16, 512), np.float32)).astype(int)
    off = np.abs(drawn - renderer.crop(index)[4:324, 4:324])
    assert off.mean() < 0.6
    assert np.quantile(off, 0.99) <= 10  # lips alone, which are redrawn a little crisper than the frame shows them
    assert off[:100].max() == 0


@pytest.mark.parametrize("index", [0, 40, 80, 120])
def test_no_seam_along_the_rectangle(renderer: Renderer, index: int) -> None:
    window = np.zeros((16, 512), np.float32)
    window[:, :2] = 0.9, 0.3
    rect = renderer.avatar.rects[index]
    frame, composed = renderer.avatar.read_frame(index), renderer.composed(index, window)
    off = np.abs(cv2.cvtColor(composed, cv2.COLOR_BGR2GRAY).astype(int) - cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    inside = off[rect.y1 : rect.y2, rect.x1 : rect.x2]
    border = np.concatenate([inside[:4].ravel(), inside[-4:].ravel(), inside[:, :4].ravel(), inside[:, -4:].ravel()])
    assert np.quantile(border, 0.999) <= 2  # the rest: hair against skin, which no resizing there and back leaves alone
    assert border.max() <= 4
    off[rect.y1 : rect.y2, rect.x1 : rect.x2] = 0
    assert off.max() == 0


def test_the_skin_around_the_mouth_has_no_step(posed: Draw) -> None:
    """Along a ring of cheeks and chin around the painted part neighbouring pixels differ as little as in the frame."""
    resting, speaking = posed().astype(int), posed(rounded=1.0, opened=0.2).astype(int)
    cheeks = np.s_[150:180, 60:84]
    for picture in (resting, speaking):
        assert np.abs(np.diff(picture[cheeks], axis=1)).max() <= 6
    assert np.abs(resting[cheeks] - speaking[cheeks]).max() <= 5


def test_the_mouth_opens_by_degrees(posed: Draw) -> None:
    areas = [opening(posed(opened=amount)) for amount in np.linspace(0, 0.75, 11)]
    assert areas[0] == 0
    assert all(after >= before for before, after in pairwise(areas))
    assert areas[-1] > 2000


def test_mouths_have_the_shapes_of_their_sounds(posed: Draw) -> None:
    resting, wide, narrow = posed(), posed(spread=0.9, opened=0.2), posed(rounded=0.95, opened=0.2)
    assert lip_width(wide) > lip_width(resting) + 10
    assert lip_width(narrow) < lip_width(resting) - 30
    assert opening(posed(pressed=1.0)) == 0
    assert opening(posed(pressed=1.0, opened=0.6)) == 0  # closing wins
    assert opening(posed(opened=0.9)) > 2 * opening(posed(rounded=0.95, opened=0.2)) > 0


@pytest.mark.parametrize("movement", ["bitten", "clenched"])
def test_teeth_show(posed: Draw, movement: str) -> None:
    part = posed(**{movement: 1.0})[BOX].astype(int)
    assert ((part.min(-1) > 150) & (part.max(-1) - part.min(-1) < 42)).sum() > 150


def test_the_tongue_shows(posed: Draw) -> None:
    def pink_within(picture: np.ndarray) -> int:
        part = picture[150:166, 135:185].astype(int)
        return int((part[..., 2] - part[..., 1] > 70).sum())

    assert pink_within(posed(opened=0.35, tongue=1.0)) > pink_within(posed(opened=0.35)) + 100


def test_between_two_shapes_edges_stay_sharp(posed: Draw) -> None:
    """A cross-fade of pictures would halve the contrast at the lips half way between them."""
    steepest = [
        np.abs(np.diff(posed(opened=amount)[BOX][:, 76].astype(int).sum(-1))).max() for amount in np.linspace(0.25, 0.6, 15)
    ]
    assert min(steepest) > 0.55 * max(steepest)


def test_the_chin_goes_down_with_the_jaw(posed: Draw) -> None:
    def chin_row(picture: np.ndarray) -> int:
        column = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[225:300, 160].astype(int)
        return int(np.argmin(np.diff(column)))  # the edge from the lit chin to the shaded neck

    assert 5 <= chin_row(posed(opened=0.75)) - chin_row(posed()) <= 20


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_the_mouth_goes_where_the_face_is(renderer: Renderer, dx: int, dy: int) -> None:
    """Rectangles are whole pixels: within one, the network must find the face itself."""

    def centre(crop: np.ndarray) -> np.ndarray:
        picture = renderer.mouth(crop, np.zeros((16, 512), np.float32))[BOX].astype(float)
        redness = np.maximum(picture[..., 2] - picture[..., 1] - 70, 0)
        y, x = np.indices(redness.shape)
        return np.array([(redness * x).sum(), (redness * y).sum()]) / redness.sum()

    crop = renderer.crop(0)
    found = centre(np.roll(crop, (dy, dx), (0, 1))) - centre(crop)
    np.testing.assert_allclose(found, (dx, dy), atol=0.3)


@pytest.mark.parametrize(
    "crop", [np.zeros((328, 328, 3), np.uint8), np.full((328, 328, 3), 255, np.uint8)], ids=["black", "white"]
)
def test_a_foreign_picture_does_no_harm(renderer: Renderer, crop: np.ndarray) -> None:
    window = np.full((16, 512), 50, np.float32)
    assert renderer.mouth(crop, window).shape == (320, 320, 3)


def test_values_are_of_zero_to_one(renderer: Renderer) -> None:
    visual = np.random.default_rng(1).random((1, 6, 320, 320), np.float32)
    out = renderer.network.run(None, {"visual": visual, "audio": np.zeros((1, 32, 16, 16), np.float32)})[0]
    assert 0 <= out.min() <= out.max() <= 1
