"""Writes an MP4 file of access units of H.264 as they are, with sound as AAC: nothing is decoded or encoded again."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av

from lipsync_cli.failures import CliError
from lipsync_cli.files import ffmpeg_name
from lipsync_cli.movie import SoundTrack
from lipsync_cli.recording import Track
from shared_proto.timing import FRAME_RATE


class Unit(NamedTuple):
    """An access unit in Annex B."""

    data: bytes
    is_key: bool


def write_units(path: Path, units: Iterable[Unit], sound: Track | None) -> None:
    """Writes every unit with its 40 ms of sound, or silence after the sound's end. Without `sound` there is no sound track.

    The first one is a key frame. Raises CliError when there are none, or when they are no H.264.
    """
    waiting = iter(units)
    first = next(waiting, None)
    if first is None:
        raise CliError("there are no pictures to write")
    try:
        with (
            av.open(io.BytesIO(first.data), format="h264") as parsed,
            av.open(ffmpeg_name(path), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            video = container.add_stream_from_template(parsed.streams.video[0])
            track = SoundTrack(container, sound) if sound else None
            for index, unit in enumerate(chain([first], waiting)):
                packet = av.Packet(unit.data)
                packet.stream, packet.is_keyframe = video, unit.is_key
                packet.pts = packet.dts = index
                packet.time_base, packet.duration = Fraction(1, FRAME_RATE), 1
                container.mux(packet)
                if track:
                    track.write(index)
            if track:
                track.end()
    except (av.error.InvalidDataError, IndexError) as error:
        raise CliError("the server sent a frame that is no H.264") from error
