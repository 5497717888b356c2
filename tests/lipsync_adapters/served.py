"""Services for the tests of adapters, in processes of the usual environment, and what they say."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import numpy as np

from ..end_to_end.processes import PYTHON, TREE

RATE = 16_000
# Two drawn persons of other sizes; neither needs much of the processor.
BUILD = """
import sys
from pathlib import Path
from avatar_tools.demo import build_demo
from tests.end_to_end.avatars import write_avatar
build_demo(Path(sys.argv[1]))
write_avatar(Path(sys.argv[1]), "small")
"""


def build_avatars(root: Path) -> None:
    """Writes the avatars "demo" and "small" into a folder."""
    subprocess.run([PYTHON, "-c", BUILD, root], cwd=TREE, check=True, capture_output=True)


def speech(seconds: float) -> np.ndarray:
    """The beginning of the shipped recording: int16 [samples] at 16 kHz."""
    with wave.open(str(TREE / "avatar_tools/demo/speech/speech.wav")) as recording:
        return np.frombuffer(recording.readframes(int(seconds * RATE)), np.int16)
