from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avatar_kit.avatar import Avatar, Rect
from avatar_kit.timeline import FrameRange, IdleMouth
from avatar_kit.writer import AvatarWriter
from avatar_tools.inspect import Composite, contact_sheet, summary
from avatar_tools.verify import verify_avatar

RECT_GREEN = (120, 230, 90)
NONE = "there is no composite"


def share_near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> float:
    return float((np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance).mean())


def test_the_sheet_shows_frames_rectangles_and_the_crop(avatar: Avatar, frame: Callable[..., np.ndarray]) -> None:
    sheet = contact_sheet(avatar, NONE)
    assert sheet.dtype == np.uint8
    assert 1400 < sheet.shape[1] < 1800
    assert share_near(sheet, RECT_GREEN) > 0.003
    skin = (150, 180, 230)
    assert share_near(sheet, skin) > 0.1
    side = sheet[120:600, -508:-28]
    assert share_near(side, skin) > 0.4, "the crop is enlarged on the right"
    assert share_near(sheet[730:920, -260:-28], (0, 0, 0)) > 0.5, "and masked below"


def test_the_sheet_and_the_summary_show_a_fixed_reference_and_the_idle_range(write_avatar: Callable[..., Avatar]) -> None:
    avatar = write_avatar(reference_frame=1, idle=FrameRange(2, 4), idle_mouth=IdleMouth.STORED)
    first_picture, heading = np.s_[730:930, -508:-300], np.s_[60:110, :900]
    with_own = contact_sheet(dataclasses.replace(avatar, reference_frame=None, idle=None), NONE)
    sheet = contact_sheet(avatar, NONE)
    assert (sheet[first_picture] != with_own[first_picture]).any()
    assert (sheet[heading] != with_own[heading]).any()
    avatar.frame_paths[1].write_bytes(b"no picture")
    assert (contact_sheet(avatar, NONE)[first_picture] != sheet[first_picture]).any()
    said = summary(avatar)
    assert "fixed:1, the crop of frame 1 for every frame" in said
    assert "frames 2 to 4, 0.1 s, as stored" in said
    own = summary(dataclasses.replace(avatar, reference_frame=None, idle=None, idle_mouth=IdleMouth.REST))
    assert "current, each frame's own crop" in own
    assert "the whole clip, with the network's mouth for silence" in own


def sheet_with(avatar: Avatar, picture: np.ndarray) -> np.ndarray:
    return contact_sheet(avatar, Composite(2, picture))


def test_the_border_of_a_composite_is_shown_enlarged(avatar: Avatar) -> None:
    """A red square, 60 of 160 pixels wide: strips along its sides are red below their middle and nowhere above."""
    rect, red = avatar.rects[2], (0, 0, 255)
    plain = avatar.read_frame(2)
    pasted = plain.copy()
    pasted[rect.y1 + 1 : rect.y2 - 1, rect.x1 + 1 : rect.x2 - 1] = red
    without, sheet = contact_sheet(avatar, NONE), sheet_with(avatar, pasted)
    panel = sheet[without.shape[0] - 80 :]
    assert share_near(without, red) == 0
    rows = np.flatnonzero((panel[:, 100:500] == red).all(axis=2).mean(axis=1) > 0.9)
    strips = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert [len(strip) for strip in strips] == [50] * 4, "one strip a side, each 5 pixels deep and 10 times enlarged"
    above = [panel[strip[0] - 40 : strip[0], 100:500] for strip in strips]
    assert max(share_near(each, red, 60) for each in above) == 0
    assert share_near(panel[:, -508:-28], red) > 0.2, "the whole region on the right"


def test_what_lies_outside_a_side_is_above_its_line(avatar: Avatar) -> None:
    rect, colours = avatar.rects[2], [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)]
    pasted = np.zeros_like(avatar.read_frame(2))
    x1, y1, x2, y2 = rect.x1, rect.y1, rect.x2, rect.y2
    around = [np.s_[:y1, x1:x2], np.s_[y2:, x1:x2], np.s_[y1:y2, :x1], np.s_[y1:y2, x2:]]
    for where, colour in zip(around, colours, strict=True):
        pasted[where] = colour
    panel = sheet_with(avatar, pasted)[contact_sheet(avatar, NONE).shape[0] - 80 :, 100:500]
    for colour in colours:
        rows = np.flatnonzero((panel == colour).all(axis=2).mean(axis=1) > 0.9)
        assert 30 <= len(rows) <= 50, colour
        assert (panel[rows[-1] + 5 : rows[-1] + 40] == 0).all(), f"{colour} lies above the line, the mouth below"


@pytest.mark.parametrize(
    ("width", "height", "rect"),
    [
        (720, 1280, Rect(0, 0, 720, 720)),
        (16, 16, Rect(0, 0, 16, 16)),
        (1920, 400, Rect(900, 100, 901, 101)),
        (2200, 2200, Rect(50, 60, 2150, 2160)),
    ],
    ids=str,
)
def test_the_border_of_any_rectangle_is_shown(models_root: Path, width: int, height: int, rect: Rect) -> None:
    import cv2

    with AvatarWriter(models_root, "ada", width=width, height=height) as writer:
        writer.add_frame(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes(), rect)
        writer.set_network(b"none")
        avatar = writer.finish()
    sheet = contact_sheet(avatar, Composite(0, np.full((height, width, 3), (40, 90, 200), np.uint8)))
    assert sheet.shape[1] == 1620
    assert share_near(sheet, (40, 90, 200)) > 0.05


def test_why_there_is_no_composite_is_written_on_the_sheet(avatar: Avatar) -> None:
    short, long = contact_sheet(avatar, "no"), contact_sheet(avatar, "running a network needs ONNX Runtime " * 20)
    assert long.shape[0] > short.shape[0], "a long reason takes more lines"
    assert share_near(long[-200:], (80, 80, 235)) > share_near(short[-200:], (80, 80, 235)) > 0


@pytest.mark.parametrize(("width", "height"), [(720, 1280), (400, 400), (1920, 400), (16, 2000)], ids=str)
@pytest.mark.parametrize("count", [1, 13])
def test_any_shape_and_length_fits_on_the_sheet(models_root: Path, width: int, height: int, count: int) -> None:
    import cv2

    picture = cv2.imencode(".jpg", np.full((height, width, 3), (40, 90, 200), np.uint8))[1].tobytes()
    with AvatarWriter(models_root, "ada", width=width, height=height) as writer:
        for _ in range(count):
            writer.add_frame(picture, Rect(2, 2, width - 2, min(height, width) - 2))
        writer.set_network(b"none")
        avatar = writer.finish()
    assert share_near(contact_sheet(avatar, NONE), (40, 90, 200)) > 0.02


def test_frames_that_can_not_be_read_are_shown_as_such(avatar: Avatar) -> None:
    whole = contact_sheet(avatar, NONE)
    for path in avatar.frame_paths[1:]:
        path.write_bytes(b"broken")
    sheet = contact_sheet(avatar, NONE)
    assert sheet.shape == whole.shape
    assert share_near(sheet, (80, 80, 235)) > share_near(whole, (80, 80, 235))


def test_the_summary_fits_on_a_page_and_says_what_was_found(avatar: Avatar) -> None:
    text = summary(avatar)
    for part in ("avatar ada", "160x96", "6 frames", "310x305 at 5,5", "60 wide", "network.onnx"):
        assert part in text
    avatar.frame_paths[2].unlink()
    told = summary(avatar, verify_avatar(avatar))
    assert "problems: 1" in told
    assert "frames/frame_000002.jpg is missing" in told
    assert told.count("\n") < 60
    assert max(map(len, told.splitlines())) < 160
