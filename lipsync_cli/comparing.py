"""`lipsync avatar inspect --compare`: one sound, one avatar, two settings, side by side in a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.geometry import Picture
from avatar_kit.model_entry import ModelEntry
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import idle_positions
from avatar_tools.paper import BOLD, FAINT, PAPER, TEXT, write
from lipsync_cli.demo import face_of
from lipsync_cli.failures import CliError
from lipsync_cli.files import replacing
from lipsync_cli.movie import write_movie
from lipsync_cli.recording import SPEECH_RATE_HZ, opened_recording
from lipsync_cli.screen import Report
from lipsync_cli.speaking import open_speaker
from lipsync_cli.strip import Box
from lipsync_client import frame_count

if TYPE_CHECKING:
    from lipsync_cli.speaker import Speaker

Speech = NDArray[np.float32]  # [samples], mono at 16 kHz

SETTINGS = ("loop", "paste", "mask", "reference", "idle")

_IDLE_FRAMES = 200  # eight seconds without speech, where they are what is compared
_HALF_WIDTH, _HALF_HEIGHT = 1200, 800
_MOST_ENLARGED = 3.0
_BETWEEN = 8
_BAR_HEIGHT = 56
_LETTERS, _FEWEST_LETTERS = 26, 10  # sizes


@dataclass(frozen=True)
class Compared:
    """What was rendered. `told` says what is to be known about it."""

    frames: int
    told: tuple[str, ...]


def changed_entry(settings: Sequence[str]) -> ModelEntry:
    """The settings, each KEY=VALUE, as the services' configuration has them. Raises CliError with everything wrong with them."""
    values: dict[str, str] = {}
    problems = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in SETTINGS or not equals:
            problems.append(f"--compare {setting[:60]!a}: expected SETTING=VALUE, where SETTING is one of {', '.join(SETTINGS)}")
        elif key in values:
            problems.append(f"--compare: {key} is there twice")
        else:
            values[key] = value
    for key, value in values.items():
        try:
            ModelEntry.model_validate({key: value})
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(f"--compare {key}={value[:60]}: {said}")
    if problems:
        raise CliError("; ".join(problems))
    return ModelEntry.model_validate(values)


def compare(models_root: Path, avatar_id: str, change: ModelEntry, *, audio: Path, out: Path, report: Report) -> Compared:
    """Renders the film: the avatar as it is on the left, changed on the right. Raises CliError, AvatarError, ServiceError."""
    catalog, changed_catalog = AvatarCatalog(models_root), AvatarCatalog(models_root, {avatar_id: change})
    avatar = catalog.get(avatar_id)
    changed = changed_catalog.get(avatar_id)
    keys = [key for key in SETTINGS if getattr(change, key) is not None]
    if all(_said(avatar, key) == _said(changed, key) for key in keys):
        raise CliError(f"nothing to compare: the avatar has {_listed(avatar, keys)} already")
    with opened_recording(audio) as recording:
        speech = recording.speech()
        count = frame_count(speech.size, SPEECH_RATE_HZ)
        start, told = _start(avatar, count, keys)
        silent = _IDLE_FRAMES if "idle" in keys else 0
        halves = [
            _Half(open_speaker(avatar, catalog), "as it is", _listed(avatar, keys)),
            _Half(open_speaker(changed, changed_catalog), "changed", _listed(changed, keys)),
        ]
        left, right = (half.pictures(speech, range(start, start + count), silent) for half in halves)
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            write_movie(partial, _counted(_joined(left, right), count + silent, report), recording.track())
    return Compared(count + silent, (*recording.warnings, *told))


def _start(avatar: Avatar, count: int, keys: Sequence[str]) -> tuple[int, list[str]]:
    """Where on the timeline the film starts, and what is to be said of that."""
    told = []
    start = max(0, avatar.frame_count - 1 - count // 2) if "loop" in keys else 0
    if start:
        told.append(f"starts at frame {start}, so that the clip's end, where the two part, is half way through")
    if "idle" in keys:
        told.append(f"ends with {_IDLE_FRAMES / avatar.fps:g} s without speech, where the two part")
    return start, told


@dataclass(frozen=True)
class _Half:
    """One side of the film."""

    speaker: Speaker
    title: str
    settings: str

    def pictures(self, speech: Speech, positions: range, silent: int) -> Iterator[Picture]:
        """Its pictures, each under its label: those of the speech, then so many without."""
        box = face_of(self.speaker.avatar)
        bar = None
        for picture in self._whole(speech, positions, silent):
            face = _face(picture, box)
            bar = _bar(self.title, self.settings, face.shape[1]) if bar is None else bar
            yield np.concatenate([bar, face])

    def _whole(self, speech: Speech, positions: range, silent: int) -> Iterator[Picture]:
        avatar = self.speaker.avatar
        yield from self.speaker.pictures(speech, positions)
        idle, _ = idle_positions(positions.stop, silent, frame_count=avatar.frame_count, loop=avatar.loop, idle=avatar.idle)
        yield from map(self.speaker.silent, idle)


def _face(picture: Picture, box: Box) -> Picture:
    """That part of the picture, as large as is of use, both sides even."""
    x1, y1, x2, y2 = box
    part = picture[y1:y2, x1:x2]
    scale = min(_HALF_HEIGHT / part.shape[0], _HALF_WIDTH / part.shape[1], _MOST_ENLARGED)
    height, width = (max(2, 2 * round(side * scale / 2)) for side in part.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=way), np.uint8)


def _bar(title: str, settings: str, width: int) -> Picture:
    """The label over a half; what is too long for it is written smaller."""
    bar: Picture = np.full((_BAR_HEIGHT, width, 3), PAPER, np.uint8)
    face = cv2.FontFace("sans")
    size = _LETTERS

    def width_of(text: str) -> int:
        return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, BOLD)[2])

    while size > _FEWEST_LETTERS and width_of(f"{title}   {settings}") > width - 32:
        size -= 1
    baseline = (_BAR_HEIGHT + size) // 2 - size // 8
    write(bar, title, (16, baseline), FAINT, size)
    write(bar, settings, (16 + width_of(f"{title}  "), baseline), TEXT, size, weight=BOLD)
    return bar


def _joined(left: Iterator[Picture], right: Iterator[Picture]) -> Iterator[Picture]:
    for one, other in zip(left, right, strict=True):
        yield np.concatenate([one, np.full((one.shape[0], _BETWEEN, 3), PAPER, np.uint8), other], axis=1)


def _counted(pictures: Iterator[Picture], total: int, report: Report) -> Iterator[Picture]:
    report("frames", 0, total)
    for done, picture in enumerate(pictures, start=1):
        yield picture
        report("frames", done, total)


def _listed(avatar: Avatar, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {_said(avatar, key)}" for key in keys)


def _said(avatar: Avatar, key: str) -> str:
    """A setting of the avatar as the command line has it."""
    mask = avatar.mask
    return {
        "loop": avatar.loop.value,
        "paste": avatar.paste.value,
        "mask": f"{mask.x},{mask.y},{mask.width},{mask.height}",
        "reference": str(Reference(avatar.reference_frame)),
        "idle": f"{avatar.idle.first},{avatar.idle.last}" if avatar.idle else "the whole clip",
    }[key]
