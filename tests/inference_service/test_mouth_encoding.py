"""A message that is put together by hand reads as the one that protobuf makes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from inference_service.mouth_messages import encode_mouths
from shared_proto import inference_pb2 as pb

numbers = st.integers(0, 2**31 - 1)
shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)
regions = st.fixed_dictionaries(
    {
        "first_frame": numbers,
        "frame_count": numbers,
        "mouth_format": st.sampled_from([pb.FLOAT32_BGR, pb.UINT8_BGR]),
        "queue_time_ms": st.floats(0, 1e6, width=32),
        "gpu_id": st.integers(-1, 64),
    }
)


@given(hnp.arrays(st.sampled_from(["<u1", "<f4"]), shapes, elements=st.integers(0, 255)), regions)
def test_encoded_mouths_are_a_mouth_region(mouths: NDArray[Any], fields: dict[str, Any]) -> None:
    encoded = encode_mouths(pb.MouthRegion(**fields), mouths)
    assert pb.MouthRegion.FromString(encoded) == pb.MouthRegion(**fields, data=mouths.tobytes())


def test_a_group_as_large_as_any_is_a_mouth_region() -> None:
    mouths = np.random.default_rng(0).integers(0, 256, (24, 320, 320, 3), np.uint8)
    read = pb.MouthRegion.FromString(encode_mouths(pb.MouthRegion(frame_count=24), mouths))
    assert read.frame_count == 24
    assert read.data == mouths.tobytes()
