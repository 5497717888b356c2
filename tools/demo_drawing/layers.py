"""Draws the layers that `scene` moves against each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE
from tools.demo_drawing.background import draw_background
from tools.demo_drawing.body import draw_body
from tools.demo_drawing.canvas import Layer
from tools.demo_drawing.eyes import draw_eyeballs, draw_irises, draw_lids, draw_sockets, opening
from tools.demo_drawing.hair import back_hair, front_hair
from tools.demo_drawing.head import draw_head
from tools.demo_drawing.motion import LIDS
from tools.demo_drawing.mouths import resting_mouth
from tools.demo_drawing.scene import (
    BACK_HAIR,
    BODY,
    DENSITY,
    EYES_PART,
    HEAD,
    HEIGHT,
    MOUTH,
    RECT_SIZE,
    WIDTH,
    part_of_head,
)

Stored = NDArray[np.uint8]

_MOUTH_PART = (-60, 77, 120, 62)  # left, top, width and height in the drawing


def draw_layers() -> dict[str, Stored]:
    """By name the pixels of every layer: grey, BGR or BGRA, the colours not multiplied by the coverage."""
    room = _drawn((0, 0, WIDTH, HEIGHT), draw_background)
    front = _drawn(HEAD, front_hair)
    head = _drawn(HEAD, draw_head)
    _draw_mouth(head)
    lids = [_drawn(EYES_PART, partial(draw_lids, lid=lid)) for lid in LIDS]
    openings = [opening(Layer(*EYES_PART), lid) for lid in LIDS]
    return {
        "room": _whole(cv2.resize(room.pixels[..., 2::-1], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)),
        "back_hair": _transparent(_drawn(BACK_HAIR, back_hair)),
        "body": _transparent(_drawn(BODY, draw_body)),
        "head": _finished(head, front),
        "fringe": _transparent(front, part_of_head(EYES_PART)),
        "eyeballs": _transparent(_drawn(EYES_PART, draw_eyeballs)),
        "irises": _transparent(_drawn(EYES_PART, draw_irises)),
        "lids": np.concatenate([_transparent(layer) for layer in lids]),
        "openings": _whole(np.concatenate(openings)),
    }


def draw_bare_head() -> Stored:
    """The head's layer without a mouth."""
    return _finished(_drawn(HEAD, draw_head), _drawn(HEAD, front_hair))


def _finished(head: Layer, front: Layer) -> Stored:
    head.put(front)
    draw_sockets(head)
    return _transparent(head)


def _drawn(window: tuple[int, int, int, int], draw: Callable[[Layer], None]) -> Layer:
    layer = Layer(*window)
    draw(layer)
    return layer


def _draw_mouth(head: Layer) -> None:
    """Draws the mouth at rest as the network paints it."""
    part = head.pixels[part_of_head(_MOUTH_PART)][..., :3]
    centre = ((MOUTH[0] - _MOUTH_PART[0]) * DENSITY - 0.5, (MOUTH[1] - _MOUTH_PART[1]) * DENSITY - 0.5)
    part[...] = resting_mouth(part[..., ::-1], centre, CROP_SIZE / RECT_SIZE / DENSITY)[..., ::-1]


def _transparent(layer: Layer, part: tuple[slice, slice] = np.s_[:, :]) -> Stored:
    """BGRA, with the colours not multiplied by the coverage."""
    premultiplied = layer.pixels[part]
    colours, coverage = premultiplied[..., 2::-1], premultiplied[..., 3:]
    stored = _whole(np.concatenate([colours / np.maximum(coverage, 1e-6), coverage], axis=-1))
    stored[stored[..., 3] == 0] = 0
    return stored


def _whole(values: NDArray[Any]) -> Stored:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
