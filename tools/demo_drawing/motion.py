"""The person's movements: breathing, a slow sway and nod, blinks and glances, as functions of the frame that form a loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME_COUNT = 150
FPS = 25.0

LIDS = (0.9, 0.55, 0.12, 0.0, 0.22, 0.58, 0.85, 0.97, 1.0)
"""Openings of the lids, 0 shut .. 1 open: in the frames of a blink, and last between blinks."""

_BLINKS = (27, 89)  # their first frames: uneven, as people do
_GLANCES = ((44, 78, 1.9, -0.5), (112, 141, -1.6, 0.5))  # from frame, to frame, aside, down
_GLANCE_FRAMES = 2.0  # the eyes jump; they do not drift


@dataclass(frozen=True, slots=True)
class Posture:
    """The person's posture in one frame; lengths in picture pixels, angles in radians."""

    shift: tuple[float, float]
    roll: float
    yaw: float
    pitch: float
    breath: float
    lid: int
    """Index into `LIDS`."""
    gaze: tuple[float, float]


_OPEN = len(LIDS) - 1
STILL = Posture((0.0, 0.0), 0.0, 0.0, 0.0, 0.0, _OPEN, (0.0, 0.0))


def posture(frame: int) -> Posture:
    """The posture of a frame of the loop, 0 .. FRAME_COUNT - 1."""
    yaw = np.deg2rad(_wave(frame, (1, 2.3, 0.3), (2, 0.9, 1.9), (3, 0.5, 0.7)))
    pitch = np.deg2rad(_wave(frame, (1, 0.7, 2.1), (2, 1.0, 0.4), (5, 0.25, 1.0)))
    aside, down = _glance(frame)
    # The eyes stay on the camera while the head turns.
    return Posture(
        shift=(
            _wave(frame, (1, 3.4, 0.1), (2, 1.1, 1.4), (3, 0.5, 2.0)),
            _wave(frame, (1, 0.8, 1.0), (2, 1.5, 0.2), (3, 0.5, 2.6)),
        ),
        roll=np.deg2rad(_wave(frame, (1, 0.75, 0.5), (2, 0.3, 2.4))),
        yaw=yaw,
        pitch=pitch,
        breath=_wave(frame, (2, 1.0, -0.6)),
        lid=next((frame - blink for blink in _BLINKS if 0 <= frame - blink < _OPEN), _OPEN),
        gaze=(aside - 14.0 * yaw, down + 10.0 * pitch),
    )


def _wave(frame: int, *parts: tuple[int, float, float]) -> float:
    """Sum of sines of (cycles in the loop, amplitude, phase)."""
    turn = 2 * np.pi * frame / FRAME_COUNT
    return float(sum(size * np.sin(cycles * turn + phase) for cycles, size, phase in parts))


def _glance(frame: int) -> tuple[float, float]:
    aside = down = 0.0
    for start, end, dx, dy in _GLANCES:
        there = float(np.clip((frame - start) / _GLANCE_FRAMES, 0, 1) * np.clip((end - frame) / _GLANCE_FRAMES, 0, 1))
        aside, down = aside + dx * there, down + dy * there
    return aside, down
