"""Draws the layers that `avatar_tools.demo.scene` moves against each other, and writes them as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE
from avatar_tools.demo.motion import LIDS
from avatar_tools.demo.scene import (
    BACK_HAIR,
    BODY,
    DENSITY,
    EYES_PART,
    HEAD,
    HEIGHT,
    LAYERS_PATH,
    MOUTH,
    MOUTH_PART,
    RECT_SIZE,
    WIDTH,
    part_of_head,
)
from tools.demo_drawing.background import draw_background
from tools.demo_drawing.body import draw_body
from tools.demo_drawing.canvas import Layer
from tools.demo_drawing.eyes import draw_eyeballs, draw_irises, draw_lids, draw_sockets, opening
from tools.demo_drawing.hair import back_hair, front_hair
from tools.demo_drawing.head import draw_head
from tools.demo_drawing.mouth import resting_mouth

Stored = NDArray[np.uint8]


def main() -> None:
    """Draws and writes all layers."""
    for name, pixels in draw_layers().items():
        cv2.imwrite(str(LAYERS_PATH / f"{name}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def draw_layers() -> dict[str, Stored]:
    """By name the pixels of every file: grey, BGR or BGRA."""
    room = _drawn((0, 0, WIDTH, HEIGHT), draw_background)
    front = _drawn(HEAD, front_hair)
    head = _drawn(HEAD, draw_head)
    speaking = head.copy()
    _draw_mouth(speaking)
    for face in (head, speaking):
        face.put(front)
        draw_sockets(face)
    lids = [_drawn(EYES_PART, partial(draw_lids, lid=lid)) for lid in LIDS]
    openings = [opening(Layer(*EYES_PART), lid) for lid in LIDS]
    return {
        "room": _opaque(cv2.resize(room.pixels[..., :3], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)),
        "back_hair": _transparent(_drawn(BACK_HAIR, back_hair).pixels),
        "body": _transparent(_drawn(BODY, draw_body).pixels),
        "head": _transparent(head.pixels),
        "mouth": _opaque(speaking.pixels[part_of_head(MOUTH_PART)][..., :3]),
        "fringe": _transparent(front.pixels[part_of_head(EYES_PART)]),
        "eyeballs": _transparent(_drawn(EYES_PART, draw_eyeballs).pixels),
        "irises": _transparent(_drawn(EYES_PART, draw_irises).pixels),
        "lids": _transparent(np.concatenate([layer.pixels for layer in lids])),
        "openings": _whole(np.concatenate(openings)),
    }


def _drawn(window: tuple[int, int, int, int], draw: Callable[[Layer], None]) -> Layer:
    layer = Layer(*window)
    draw(layer)
    return layer


def _draw_mouth(head: Layer) -> None:
    """Draws the mouth at rest as the network paints it."""
    part = head.pixels[part_of_head(MOUTH_PART)][..., :3]
    centre = ((MOUTH[0] - MOUTH_PART[0]) * DENSITY - 0.5, (MOUTH[1] - MOUTH_PART[1]) * DENSITY - 0.5)
    part[...] = resting_mouth(part[..., ::-1], centre, CROP_SIZE / RECT_SIZE / DENSITY)[..., ::-1]


def _opaque(colours: NDArray[Any]) -> Stored:
    return _whole(colours[..., ::-1])


def _transparent(premultiplied: NDArray[np.float32]) -> Stored:
    """BGRA, with the colours as PNG files have them: not multiplied by the coverage."""
    colours, coverage = premultiplied[..., 2::-1], premultiplied[..., 3:]
    stored = _whole(np.concatenate([colours / np.maximum(coverage, 1e-6), coverage], axis=-1))
    stored[stored[..., 3] == 0] = 0
    return stored


def _whole(values: NDArray[np.float32]) -> Stored:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
