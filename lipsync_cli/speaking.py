"""Letting avatars speak without services: the speaker, and the moment that a contact sheet shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.geometry import Picture
from avatar_tools.demo import SPEECH_PATH
from avatar_tools.inspect import Composite
from lipsync_cli.failures import CliError
from lipsync_cli.recording import read_recording
from service_kit.errors import ServiceError

if TYPE_CHECKING:
    from lipsync_cli.speaker import Speaker

_SAMPLES_A_FRAME = 640  # 40 ms at 16 kHz


def open_speaker(avatar: Avatar, catalog: AvatarCatalog) -> Speaker:
    """Raises CliError, also where ONNX Runtime is not installed, AvatarError and ServiceError."""
    try:
        from lipsync_cli.speaker import Speaker  # ONNX Runtime may be missing
    except ImportError as error:
        raise CliError(f"running a network needs ONNX Runtime ({error}): install the extra [cpu] or [gpu]") from error
    return Speaker(avatar, catalog)


def loud_moment(avatar: Avatar, catalog: AvatarCatalog) -> Composite | str:
    """Makes the middle frame speak the loudest moment of the shipped speech; or says why it cannot.

    Without an audio encoder it speaks what it spoke in its clip, if the avatar's features are stored.
    """
    frame = avatar.frame_count // 2
    try:
        speaker = open_speaker(avatar, catalog)
        return Composite(frame, _spoken(speaker, frame))
    except (AvatarError, CliError, ServiceError) as error:
        return str(error)


def _spoken(speaker: Speaker, frame: int) -> Picture:
    speech = read_recording(SPEECH_PATH).speech()
    try:
        return speaker.moment(speech, frame, heard=_loudest(speech))
    except AvatarError:
        if speaker.avatar.features_path is None:
            raise
        return speaker.remembered(frame)


def _loudest(speech: NDArray[np.float32]) -> int:
    """The number of the loudest 40 ms."""
    pieces = speech[: speech.size // _SAMPLES_A_FRAME * _SAMPLES_A_FRAME].reshape(-1, _SAMPLES_A_FRAME)
    return int(np.argmax(np.square(pieces).mean(axis=1)))
