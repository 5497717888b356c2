"""Messages that are put together and cut up by hand are protobuf's own, in whatever order their fields come."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from shared_proto import inference_pb2 as pb
from shared_proto.mouth_region import decode, encode

regions = st.builds(
    pb.MouthRegion,
    first_frame=st.integers(0, 2**31 - 1),
    frame_count=st.integers(-(2**31), 2**31 - 1),
    data=st.one_of(st.binary(max_size=300), st.integers(0, 3).map(lambda bits: bytes(2 ** (7 * bits)))),
    mouth_format=st.sampled_from([pb.FLOAT32_BGR, pb.UINT8_BGR]),
    inference_time_ms=st.floats(0, 1e6, width=32),
    audio_processing_ms=st.floats(0, 1e6, width=32),
    gpu_id=st.integers(-1, 64),
    widths=st.lists(st.integers(1, 400), max_size=3),
    heights=st.lists(st.integers(1, 400), max_size=3),
)
# A field that this version does not know, of each wire type.
unknown = st.sampled_from([b"\xa0\x06\x01", b"\xa1\x06" + bytes(8), b"\xa2\x06\x03abc", b"\xa5\x06" + bytes(4)])


def joined(message: bytes) -> pb.MouthRegion:
    """All that was read, as one message."""
    read = decode(message)
    assert not read.fields.data
    whole = pb.MouthRegion.FromString(read.fields.SerializeToString())
    whole.data = bytes(read.data)
    return whole


@given(regions)
def test_what_is_encoded_reads_as_it_was(region: pb.MouthRegion) -> None:
    data = region.data
    region.ClearField("data")
    message = encode(region, memoryview(data))
    read = decode(message)
    assert (read.fields, bytes(read.data)) == (region, data)
    region.data = data
    assert pb.MouthRegion.FromString(message) == region


@given(st.lists(st.one_of(regions.map(pb.MouthRegion.SerializeToString), unknown), max_size=4).map(b"".join))
def test_any_parts_in_any_order_read_as_protobuf_reads_them(message: bytes) -> None:
    assert joined(message) == pb.MouthRegion.FromString(message)


@given(st.binary(max_size=40))
@example(b"\x0b\x0c")  # a group, which protobuf skips
@example(b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")  # a length of 2**64 - 1
@example(b"\x9a\x80\x00\x01x")  # the tag of data in more bytes than it needs
def test_nonsense_is_read_or_refused_as_protobuf_does(message: bytes) -> None:
    try:
        expected = pb.MouthRegion.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(message)
        return
    read = decode(message)
    assert bytes(read.data) == expected.data
    assert (read.fields.first_frame, read.fields.frame_count) == (expected.first_frame, expected.frame_count)


def test_the_pixels_are_not_copied() -> None:
    message = pb.MouthRegion(frame_count=1, data=bytes(1000)).SerializeToString()
    assert decode(message).data.obj is message
