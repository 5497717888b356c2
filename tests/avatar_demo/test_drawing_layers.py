"""The shipped clip, rectangles and network are what the program makes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from avatar_kit.rectangles import read_rects
from avatar_kit.video.files import video_pictures
from avatar_kit.video.index import index_video, is_at_25
from avatar_tools.demo.build import CLIP_PATH, FRAME_COUNT, NETWORK_PATH, RECTS_PATH
from tools.demo_drawing import motion
from tools.demo_drawing.face import demo_network
from tools.demo_drawing.layers import draw_bare_head, draw_layers
from tools.demo_drawing.motion import STILL, posture
from tools.demo_drawing.scene import Scene, mouth_place, premultiplied

A_ROUNDING = 1  # processors differ by it
COMPRESSION = 0.2  # grey levels on average


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    return draw_layers()


@pytest.fixture(scope="module")
def scene(layers: dict[str, np.ndarray]) -> Scene:
    return Scene(layers)


def test_the_shipped_clip_is_as_drawn(scene: Scene) -> None:
    shown = list(video_pictures(CLIP_PATH))
    assert len(shown) == motion.FRAME_COUNT == FRAME_COUNT
    assert is_at_25(index_video(CLIP_PATH))
    for index in (*range(0, FRAME_COUNT, 15), 27, 30, 93, 149):  # blinks too, and the last
        drawn = scene.frame(posture(index)).astype(int)
        off, beside = (np.abs(shown[at] - drawn).mean() for at in (index, index - 1))
        assert off < min(COMPRESSION, beside), index


def test_the_shipped_rectangles_are_the_mouths_places() -> None:
    places = [mouth_place(posture(index)).rect() for index in range(FRAME_COUNT)]
    assert read_rects(RECTS_PATH, frame_count=FRAME_COUNT) == places


def test_the_clip_is_small() -> None:
    assert CLIP_PATH.stat().st_size < 1_500_000


def test_colours_are_multiplied_by_their_coverage(layers: dict[str, np.ndarray]) -> None:
    pixels = premultiplied(layers["body"])
    assert pixels.dtype == np.float32
    assert (pixels[..., :3] <= pixels[..., 3:] + 1e-6).all()


def test_still_frames_have_a_resting_mouth_and_bare_ones_none(layers: dict[str, np.ndarray], scene: Scene) -> None:
    mouth = slice(375, 400), slice(605, 675)
    scenes = (scene, Scene({**layers, "head": draw_bare_head()}))
    resting, bare = (each.frame(STILL)[mouth].astype(int) for each in scenes)
    assert (resting[..., 2] - resting[..., 1] > 75).sum() > 300
    assert not (bare[..., 2] - bare[..., 1] > 75).any()


def test_the_shipped_network_is_the_one_for_the_drawn_layers(layers: dict[str, np.ndarray]) -> None:
    shipped, built = onnx.load(NETWORK_PATH), demo_network(layers)
    assert [node.SerializeToString() for node in shipped.graph.node] == [node.SerializeToString() for node in built.graph.node]
    for one, other in zip(shipped.graph.initializer, built.graph.initializer, strict=True):
        tolerance = A_ROUNDING if one.data_type == onnx.TensorProto.UINT8 else 1e-3
        np.testing.assert_allclose(
            numpy_helper.to_array(one), numpy_helper.to_array(other), rtol=0, atol=tolerance, err_msg=one.name
        )
