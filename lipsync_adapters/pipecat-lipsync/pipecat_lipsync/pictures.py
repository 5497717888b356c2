"""Turns the pictures of the server into those of Pipecat."""

from __future__ import annotations

import asyncio
import io

from PIL import Image
from pipecat.frames.frames import OutputImageRawFrame


async def read_picture(jpeg: bytes) -> OutputImageRawFrame:
    """Decodes a JPEG file, on a thread. The output transport shows it once all sound pushed before it has been sent."""
    pixels, size = await asyncio.to_thread(_decode, jpeg)
    frame = OutputImageRawFrame(image=pixels, size=size, format="RGB")
    frame.sync_with_audio = True
    return frame


def _decode(jpeg: bytes) -> tuple[bytes, tuple[int, int]]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return picture.convert("RGB").tobytes(), picture.size
