"""The encoder of video alone, judged by FFmpeg's decoder: its stream, its rate, sizes and repeated pictures."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from service_kit.h264 import H264Encoder, Packet, constant_quality, highest_rate, is_available

SPS, PPS, SEI, IDR, SLICE = 7, 8, 6, 5, 1


def jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])[1].tobytes()


def smooth(width: int, height: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def units(packet: Packet) -> list[int]:
    """The kinds of a packet's NAL units."""
    parts = packet.data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    assert parts[0] == b""
    return [part[0] & 31 for part in parts[1:]]


def decoded(packets: list[Packet]) -> tuple[list[np.ndarray], av.CodecContext]:
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = [picture for packet in packets for picture in decoder.decode(av.Packet(packet.data))]
    pictures += decoder.decode(None)
    return [picture.to_ndarray(format="bgr24") for picture in pictures], decoder


def test_a_stream_is_what_every_browser_decodes() -> None:
    assert is_available()
    encoder = H264Encoder(75)
    packets = [encoder.encode(jpeg(smooth(1280, 720, seed)), key=seed == 2) for seed in range(4)]
    assert [packet.is_key for packet in packets] == [True, False, True, False]
    assert [unit for unit in units(packets[0]) if unit != SEI] == [SPS, PPS, IDR]
    assert [unit for unit in units(packets[2]) if unit != SEI] == [SPS, PPS, IDR]
    assert units(packets[1]) == units(packets[3]) == [SLICE]
    start = packets[0].data.index(b"\0\0\1\x67")
    profile, constraints, level = packets[0].data[start + 4 : start + 7]
    assert (profile, level) == (66, 31)
    assert constraints & 0x40, "constrained baseline"
    assert decoded(packets)[1].has_b_frames is False


def test_no_packet_waits_for_another_picture() -> None:
    encoder = H264Encoder(75)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count, decoder.flags = 1, decoder.flags | av.codec.context.Flags.low_delay
    for seed in range(3):
        packet = encoder.encode(jpeg(smooth(320, 240, seed)), key=False)
        assert len(decoder.decode(av.Packet(packet.data))) == 1


@pytest.mark.parametrize(("width", "height"), [(65, 48), (64, 49), (131, 97), (16, 16), (17, 17)])
def test_an_odd_column_or_row_is_cut_off(width: int, height: int) -> None:
    encoder, picture = H264Encoder(95), smooth(width, height)[..., :1].repeat(3, axis=2)
    ((shown,), _) = decoded([encoder.encode(jpeg(picture, 95), key=False)])
    assert shown.shape == (height & ~1, width & ~1, 3)
    assert np.abs(shown.astype(int) - picture[: height & ~1, : width & ~1]).mean() < 3


def test_another_size_begins_anew() -> None:
    encoder = H264Encoder(75)
    sizes = [(64, 48)] * 3 + [(128, 96)] * 3 + [(64, 48)] * 2
    packets = [encoder.encode(jpeg(smooth(*size, seed)), key=False) for seed, size in enumerate(sizes)]
    assert [place for place, packet in enumerate(packets) if packet.is_key] == [0, 3, 6]
    assert [picture.shape[1::-1] for picture in decoded(packets)[0]] == sizes


def test_a_picture_that_stays_takes_next_to_nothing() -> None:
    encoder, picture = H264Encoder(75), jpeg(smooth(1280, 720))
    packets = [encoder.encode(picture, key=False) for _ in range(10)]
    assert sum(len(packet.data) for packet in packets[5:]) < 5 * 100


def test_the_rate_is_bounded_and_follows_quality() -> None:
    grain = np.random.default_rng(1).integers(0, 256, (12, 240, 320, 3), np.uint8)
    rates = {}
    for quality in (50, 75, 90):
        encoder = H264Encoder(quality)
        packets = [encoder.encode(jpeg(grain[place % 12]), key=place == 40) for place in range(100)]
        rates[quality] = sum(len(packet.data) for packet in packets[25:]) * 8 / 3
        assert rates[quality] < 1.2 * highest_rate(320, 240, quality)
    assert rates[50] < rates[75] < rates[90]
    assert [constant_quality(quality) for quality in (50, 75, 90)] == [28, 23, 20]
