"""Writes files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_cli.failures import CliError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives an empty file beside `path` to write to. It is renamed to `path` if the block succeeds, and removed if not.

    Raises CliError, before any work is done, where nothing can be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
    except OSError as error:
        raise CliError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def ffmpeg_name(path: Path) -> str:
    """Returns an absolute name: in a relative one FFmpeg takes the part before a colon for a protocol."""
    return str(path.absolute())


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a picture, uint8 [height, width, 3] BGR."""
    with replacing(path) as partial:
        partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
