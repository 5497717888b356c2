"""Frames on their way to be sent: times, pictures, sound, and what waits for a viewer."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from aiortc.codecs.h264 import h264_depayload
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway_service.webrtc.sound import PIECE_US, SoundEncoder
from gateway_service.webrtc.timeline import FRAME_US, MOST_OFF_S, MediaTimeline
from gateway_service.webrtc.units import MOST_WAITING, MediaUnit, UnitQueue
from gateway_service.webrtc.video import VideoEncoder
from lipsync_client.cutting import sample_of_frame


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(-0.5, 5)), min_size=1, max_size=80))
def test_times_in_the_media_grow_and_follow_the_real_time(steps: list[tuple[int, float]]) -> None:
    """A session's clock may do anything: frames are left out, it stands still, or is set anew."""
    timeline, pts_us, real_s, last_us = MediaTimeline(), 0, 100.0, -FRAME_US
    for count, late_s in steps:
        pts_us += FRAME_US * count
        real_s += max(0.0, FRAME_US * count / 1e6 + late_s)
        media_us = timeline.media_us(pts_us, real_s)
        assert media_us >= last_us + FRAME_US
        if media_us > last_us + FRAME_US:
            assert abs(media_us / 1e6 - (real_s - 100 - first(steps))) <= MOST_OFF_S + 1e-6
        last_us = media_us


def first(steps: list[tuple[int, float]]) -> float:
    """Seconds before the first frame, with which the media begins."""
    count, late_s = steps[0]
    return max(0.0, FRAME_US * count / 1e6 + late_s)


def test_times_are_even_however_unevenly_frames_come() -> None:
    timeline = MediaTimeline()
    generator = np.random.default_rng(1)
    came = 50 + 0.04 * np.arange(200) + generator.uniform(0, 0.2, 200)
    assert [timeline.media_us(FRAME_US * (7 + n), at) for n, at in enumerate(came)] == [FRAME_US * n for n in range(200)]


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG file with smooth colours."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 24), np.zeros(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def shown(units: list[MediaUnit]) -> list[av.VideoFrame]:
    """Decodes them, as another than their encoder does."""
    decoder = av.CodecContext.create("h264", "r")
    found = []
    for unit in units:
        found += decoder.decode(av.Packet(b"".join(h264_depayload(payload) for payload in unit.payloads)))
    return found + decoder.decode(None)


def test_pictures_keep_their_colours_and_name_them() -> None:
    encoder = VideoEncoder(75)
    jpeg = picture(640, 360)
    frames = shown([encoder.encode(jpeg, 40_000 * n, key=n == 0) for n in range(12)])
    assert len(frames) == 12
    assert (frames[0].color_range, frames[0].colorspace) == (2, 6)  # full range, SMPTE 170M: ITU-T H.273
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    seen = frames[-1].to_ndarray(format="bgr24")
    assert cv2.PSNR(seen, expected) > 38


@pytest.mark.parametrize("size", [(641, 361), (642, 361), (641, 360), (16, 16)])
def test_pictures_of_any_size_are_shown(size: tuple[int, int]) -> None:
    frames = shown([VideoEncoder(75).encode(picture(*size), 0, key=True)])
    assert (frames[0].width, frames[0].height) == (size[0] & ~1, size[1] & ~1)


def test_key_pictures_come_when_they_are_asked_for_and_with_another_size() -> None:
    encoder = VideoEncoder(75)
    jpegs = [picture(320, 240, n) for n in range(40)] + [picture(416, 304)] * 2
    keys = [encoder.encode(jpeg, 40_000 * n, key=n == 20).is_key for n, jpeg in enumerate(jpegs)]
    assert [n for n, is_key in enumerate(keys) if is_key] == [0, 20, 40]


def sung(rate: int, seconds: float) -> NDArray[np.float32]:
    """A tone that rises, so each moment is like no other: float32 [samples]."""
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 150 * time**2))).astype(np.float32)


def heard(units: list[MediaUnit]) -> NDArray[np.float32]:
    """Decodes them: [samples] at 48 kHz."""
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    found = []
    for unit in units:
        packet = av.Packet(bytes(unit.payloads[0]))
        packet.time_base = Fraction(1, 48_000)
        found += [frame.to_ndarray().reshape(-1) for frame in decoder.decode(packet)]
    return np.concatenate(found).astype(np.float32) / 32768


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100, 48_000, 8021])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_sound_is_what_it_was_at_its_time(rate: int, dtype: type) -> None:
    encoder = SoundEncoder(rate, 64)
    tone = sung(rate, 4)
    pushed = (tone * 32767).astype(np.int16) if dtype is np.int16 else tone
    units: list[MediaUnit] = []
    for frame in range(100):
        sound = pushed[sample_of_frame(frame, rate) : sample_of_frame(frame + 1, rate)]
        units += encoder.encode(sound, 1_000_000 + FRAME_US * frame)
    begin_us = units[0].media_us
    assert [unit.media_us for unit in units] == [begin_us + PIECE_US * n for n in range(len(units))]
    assert len(units) in range(195, 201)
    came, expected = heard(units), sung(48_000, 4)
    size = len(came) + len(expected)
    likeness = np.fft.irfft(np.fft.rfft(came, size) * np.conj(np.fft.rfft(expected, size)))
    assert likeness.max() > 0.95 * np.linalg.norm(came) * np.linalg.norm(expected[: len(came)])
    assert abs(begin_us - 1_000_000 + 1e6 * np.argmax(likeness) / 48_000) < 2000


def test_silence_fills_what_has_no_sound_and_after_a_gap_the_times_go_on_there() -> None:
    encoder = SoundEncoder(16_000, 32)
    units = encoder.encode(None, 0)
    units += encoder.encode(np.ones(100, np.float32) / 2, FRAME_US)  # a segment's end
    units += encoder.encode(None, 2 * FRAME_US)
    units += encoder.encode(None, 50 * FRAME_US)
    begin_us = units[0].media_us
    assert [unit.media_us - begin_us for unit in units] == [*range(0, 120_000, PIECE_US), 2_000_000, 2_020_000]
    assert np.abs(heard(units[:2])).max() < 0.01


class Asked:
    """Counts requests for key pictures."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def unit(at: int, *, is_key: bool = False) -> MediaUnit:
    return MediaUnit((b"",), FRAME_US * at, is_key)


async def taken(queue: UnitQueue, count: int) -> list[int]:
    async with asyncio.timeout(10):
        return [(await queue.next()).media_us // FRAME_US for _ in range(count)]


async def test_a_viewer_begins_with_a_key_picture_once_it_takes_something() -> None:
    asked = Asked()
    queue = UnitQueue(asked)
    queue.give(unit(0, is_key=True))
    first = asyncio.create_task(taken(queue, 2))
    await asyncio.sleep(0)
    assert asked.times == 1
    for each in (unit(1), unit(2, is_key=True), unit(3)):
        queue.give(each)
    assert await first == [2, 3]
    queue.end()
    assert await queue.next() is None


async def test_a_viewer_who_takes_nothing_misses_what_waits_and_goes_on_with_a_key_picture() -> None:
    asked = Asked()
    queue = UnitQueue(asked)
    first = asyncio.create_task(taken(queue, 1))
    await asyncio.sleep(0)
    queue.give(unit(0, is_key=True))
    await first
    for at in range(1, MOST_WAITING + 2):
        queue.give(unit(at))
    assert asked.times == 2
    queue.give(unit(100, is_key=True))
    assert await taken(queue, 1) == [100]
