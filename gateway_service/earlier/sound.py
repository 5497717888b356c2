"""Turns the sound of a request into the 16 pieces that the earlier server takes."""

from __future__ import annotations

import numpy as np
import soxr

from gateway_service.earlier.errors import BadMessage

RATE_HZ = 16_000
PIECE_SAMPLES = 640
PIECE_BYTES = 4 * PIECE_SAMPLES
PIECES_BEFORE, PIECES_AFTER = 8, 7
PIECES = PIECES_BEFORE + 1 + PIECES_AFTER
MOST_PIECES = 50

# The earlier pages record so, and send the same 16 pieces.
PAGE_RATE_HZ = 24_000
PAGE_BYTES = PIECES * 2 * (PAGE_RATE_HZ // 25)


def pieces_of(sound: bytes) -> list[bytes]:
    """Returns 16 pieces of 640 float32 samples at 16 kHz; number 8 is heard with the frame. Raises BadMessage.

    `sound` is 1 to 50 pieces of 640 float32 samples at 16 kHz, or 16 pieces of 960 int16 samples at 24 kHz, little endian, mono.
    The frame is heard with its middle piece: number 8 of 16, or the only one. Silence is put where pieces are missing.
    """
    if len(sound) == PAGE_BYTES:
        recorded = np.frombuffer(sound, "<i2").astype(np.float32) / 32768
        sound = soxr.resample(recorded, PAGE_RATE_HZ, RATE_HZ).astype("<f4").tobytes()
    count, rest = divmod(len(sound), PIECE_BYTES)
    if rest or not 1 <= count <= MOST_PIECES:
        raise BadMessage(
            f"the sound has {len(sound)} bytes; send 1 to {MOST_PIECES} times {PIECE_BYTES} ({PIECE_SAMPLES} float32 samples at "
            f"16 kHz), or {PAGE_BYTES} ({PIECES} x 960 int16 samples at 24 kHz)"
        )
    middle = count // 2
    return [_piece(sound, number) for number in range(middle - PIECES_BEFORE, middle + PIECES_AFTER + 1)]


def _piece(sound: bytes, number: int) -> bytes:
    if number < 0:
        return bytes(PIECE_BYTES)
    return sound[number * PIECE_BYTES : (number + 1) * PIECE_BYTES].ljust(PIECE_BYTES, b"\0")
