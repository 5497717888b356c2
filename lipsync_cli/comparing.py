"""`lipsync avatar inspect --compare`: one avatar and one sound with two settings, side by side in a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.geometry import Picture
from avatar_kit.model_entry import ModelEntry
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import idle_positions
from avatar_tools.progress import Progress
from avatar_tools.sheet_style import BACKGROUND, BOLD, FAINT, TEXT, write
from lipsync_cli.avatars import read_setting
from lipsync_cli.demo import face_of
from lipsync_cli.failures import CliError
from lipsync_cli.files import replacing
from lipsync_cli.movie import write_movie
from lipsync_cli.recording import Speech, opened_recording
from lipsync_client import frame_count
from monolithic_service.speaker import Speaker
from shared_proto.timing import SAMPLE_RATE_HZ

SETTINGS = ("loop", "paste", "mask", "reference", "idle", "idle_mouth")

_IDLE_FRAMES = 200  # eight seconds without speech, to compare idle ranges and mouths
_MAX_WIDTH, _MAX_HEIGHT = 1200, 800  # of each half
_MAX_SCALE = 3.0
_GAP = 8
_LABEL_HEIGHT = 56
_LETTER_SIZE, _LEAST_LETTER_SIZE = 26, 10


def changed_entry(settings: Sequence[str]) -> ModelEntry:
    """Reads settings, each KEY=VALUE, as the services' configuration has them. Raises CliError with everything that is wrong."""
    values: dict[str, object] = {}
    problems = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in SETTINGS or not equals:
            problems.append(f"--compare {setting[:60]!r}: expected SETTING=VALUE, where SETTING is one of {', '.join(SETTINGS)}")
        elif key in values:
            problems.append(f"--compare: {key} is given twice")
        else:
            try:
                values[key] = read_setting(key, value, option=f"--compare {key}={value[:60]}")
            except CliError as error:
                problems.append(str(error))
                values[key] = None
    if problems:
        raise CliError("; ".join(problems))
    return ModelEntry.model_validate(values)


def compare(
    models_root: Path, avatar_id: str, change: ModelEntry, *, audio: Path, out: Path, report: Progress
) -> tuple[int, list[str]]:
    """Renders the film, the avatar as it is on the left, changed on the right. Returns its frames, and notes about it.

    Raises CliError, AvatarError, ServiceError.
    """
    catalog, changed_catalog = AvatarCatalog(models_root), AvatarCatalog(models_root, {avatar_id: change})
    avatar, changed = catalog.get(avatar_id), changed_catalog.get(avatar_id)
    keys = [key for key in SETTINGS if getattr(change, key) is not None]
    before, after = (", ".join(f"{key} {_setting(each, key)}" for key in keys) for each in (avatar, changed))
    if before == after:
        raise CliError(f"nothing to compare: the avatar has {before} already")
    with opened_recording(audio) as recording:
        speech = recording.speech()
        count = frame_count(speech.size, SAMPLE_RATE_HZ)
        silent = _IDLE_FRAMES if {"idle", "idle_mouth"} & set(keys) else 0
        start = max(0, avatar.frame_count - 1 - count // 2) if "loop" in keys else 0
        positions = range(start, start + count)
        left = _half(Speaker(avatar, catalog), ("as it is", before), speech, positions, silent)
        right = _half(Speaker(changed, changed_catalog), ("changed", after), speech, positions, silent)
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            write_movie(partial, _joined(left, right, count + silent, report), recording.track())
    notes = [*recording.warnings]
    if start:
        notes.append(f"starts at frame {start}, so that the clip's end, where the two differ, is half way through")
    if silent:
        notes.append(f"ends with {silent / avatar.fps:g} s without speech, where the two differ")
    return count + silent, notes


def _half(speaker: Speaker, label: tuple[str, str], speech: Speech, positions: range, silent: int) -> Iterator[Picture]:
    """Yields one side of the film, each picture under its label: those with speech, then `silent` without."""
    avatar = speaker.avatar
    x1, y1, x2, y2 = face_of(avatar)
    scale = min(_MAX_HEIGHT / (y2 - y1), _MAX_WIDTH / (x2 - x1), _MAX_SCALE)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (x2 - x1, y2 - y1))  # even, as H.264 needs it
    bar = _label(*label, width)

    def labelled(picture: Picture) -> Picture:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        return np.concatenate([bar, cv2.resize(picture[y1:y2, x1:x2], (width, height), interpolation=way)])

    yield from map(labelled, speaker.pictures(speech, positions))
    idle, _ = idle_positions(positions.stop, silent, frame_count=avatar.frame_count, loop=avatar.loop, idle=avatar.idle)
    yield from (labelled(speaker.silent(position)) for position in idle)


def _label(title: str, settings: str, width: int) -> Picture:
    """Draws the label over a half; letters get smaller until the text fits."""
    bar: Picture = np.full((_LABEL_HEIGHT, width, 3), BACKGROUND, np.uint8)
    face = cv2.FontFace("sans")
    size = _LETTER_SIZE

    def width_of(text: str) -> int:
        return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, BOLD)[2])

    while size > _LEAST_LETTER_SIZE and width_of(f"{title}   {settings}") > width - 32:
        size -= 1
    baseline = (_LABEL_HEIGHT + size) // 2 - size // 8
    write(bar, title, (16, baseline), FAINT, size)
    write(bar, settings, (16 + width_of(f"{title}  "), baseline), TEXT, size, weight=BOLD)
    return bar


def _joined(left: Iterator[Picture], right: Iterator[Picture], total: int, report: Progress) -> Iterator[Picture]:
    report("frames", 0, total)
    for done, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        yield np.concatenate([one, np.full((one.shape[0], _GAP, 3), BACKGROUND, np.uint8), other], axis=1)
        report("frames", done, total)


def _setting(avatar: Avatar, key: str) -> str:
    """Writes a setting of the avatar as the command line has it."""
    mask = avatar.mask
    return {
        "loop": avatar.loop.value,
        "paste": avatar.paste.value,
        "mask": f"{mask.x},{mask.y},{mask.width},{mask.height}",
        "reference": str(Reference(avatar.reference_frame)),
        "idle": f"{avatar.idle.first},{avatar.idle.last}" if avatar.idle else "the whole clip",
        "idle_mouth": avatar.idle_mouth.value,
    }[key]
