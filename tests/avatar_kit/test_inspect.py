from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avatar_kit.avatar import Avatar, Rect
from avatar_kit.inspect import contact_sheet, summary
from avatar_kit.verify import verify_avatar
from avatar_kit.writer import AvatarWriter

RECT_GREEN = (120, 230, 90)


def share_near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> float:
    return float((np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance).mean())


def test_the_sheet_shows_frames_rectangles_and_the_crop(avatar: Avatar, frame: Callable[..., np.ndarray]) -> None:
    sheet = contact_sheet(avatar)
    assert sheet.dtype == np.uint8
    assert 1400 < sheet.shape[1] < 1800
    assert share_near(sheet, RECT_GREEN) > 0.003
    skin = (150, 180, 230)
    assert share_near(sheet, skin) > 0.1
    side = sheet[120:600, -508:-28]
    assert share_near(side, skin) > 0.4, "the crop is enlarged on the right"
    assert share_near(sheet[-300:, -260:-28], (0, 0, 0)) > 0.3, "and masked below"


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
    assert share_near(contact_sheet(avatar), (40, 90, 200)) > 0.02


def test_frames_that_can_not_be_read_are_shown_as_such(avatar: Avatar) -> None:
    whole = contact_sheet(avatar)
    for path in avatar.frame_paths[1:]:
        path.write_bytes(b"broken")
    sheet = contact_sheet(avatar)
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
