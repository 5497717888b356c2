"""The moment of the shipped speech that `lipsync avatar inspect` shows."""

from __future__ import annotations

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_tools.demo import SPEECH_PATH
from avatar_tools.inspect import Composite
from lipsync_cli.failures import CliError
from lipsync_cli.recording import Speech, read_recording
from monolithic_service.speaker import Speaker
from service_kit.errors import ServiceError
from shared_proto.timing import SAMPLES_A_FRAME


def loud_moment(avatar: Avatar, catalog: AvatarCatalog) -> Composite | str:
    """Composites the clip's middle picture with the mouth for the loudest moment of the shipped speech, or says why it cannot.

    Without an audio encoder the mouth is the one for the clip's own sound, if the avatar's features are stored.
    """
    index = avatar.frame_count // 2
    try:
        speaker = Speaker(avatar, catalog)
        speech = read_recording(SPEECH_PATH).speech()
        try:
            return Composite(index, speaker.moment(speech, index, heard=_loudest(speech)))
        except AvatarError:
            if avatar.features_path is None:
                raise
            return Composite(index, speaker.stored_moment(index))
    except (AvatarError, CliError, ServiceError) as error:
        return str(error)


def _loudest(speech: Speech) -> int:
    """Returns the number of the loudest 40 ms."""
    pieces = speech[: speech.size // SAMPLES_A_FRAME * SAMPLES_A_FRAME].reshape(-1, SAMPLES_A_FRAME)
    return int(np.argmax(np.square(pieces).mean(axis=1)))
