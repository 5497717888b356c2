"""Cuts a recording into utterances, and says when each piece of one is pushed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_cli.failures import CliError
from shared_proto.timing import SAMPLE_RATE_HZ, SAMPLES_A_FRAME

Sound = NDArray[np.float32]  # [samples], mono at 16 kHz

# The first frame reads rows up to the sixth after its own, and row j samples up to 200 floor(16 j / 5) + 3400.
FIRST_FRAME_SAMPLES = 7_200
PIECE_SAMPLES = 1_600
_UTTERANCE_FRAMES = 75
_SEARCH_FRAMES = 20  # to both sides of a cut


@dataclass(frozen=True)
class Piece:
    """A piece of an utterance: samples [first, last), and when it is pushed, in seconds after the utterance's start."""

    first: int
    last: int
    at_s: float

    @property
    def completes_first_frame(self) -> bool:
        """Tells if the first frame can be made from this piece on."""
        return self.first < FIRST_FRAME_SAMPLES <= self.last


def shipped_speech() -> Path:
    """Returns the recording that is shipped with the demo. Its package is not imported, which needs more than this command."""
    spec = find_spec("avatar_tools")
    if spec is None or not spec.submodule_search_locations:
        raise CliError("the demo's recording is not installed here; name another with --audio")
    return Path(spec.submodule_search_locations[0]) / "demo" / "speech" / "speech.wav"


def utterances(sound: Sound) -> list[Sound]:
    """Cuts a sound of at least 40 ms about every three seconds, each time at the quietest moment nearby."""
    loudness = np.square(sound[: sound.size // SAMPLES_A_FRAME * SAMPLES_A_FRAME].reshape(-1, SAMPLES_A_FRAME)).mean(axis=1)
    cuts = [0]
    while loudness.size - cuts[-1] >= 2 * _UTTERANCE_FRAMES - _SEARCH_FRAMES:
        start = cuts[-1] + _UTTERANCE_FRAMES - _SEARCH_FRAMES
        cuts.append(start + int(np.argmin(loudness[start : start + 2 * _SEARCH_FRAMES])))
    return np.split(sound, [cut * SAMPLES_A_FRAME for cut in cuts[1:]])


def pieces(samples: int, ahead_s: float) -> Iterator[Piece]:
    """Yields the pieces of an utterance such that at any time at least `ahead_s` more of it is pushed than has passed."""
    for first in range(0, samples, PIECE_SAMPLES):
        yield Piece(first, min(samples, first + PIECE_SAMPLES), max(0.0, first / SAMPLE_RATE_HZ - ahead_s))
