"""Writes the clip, the rectangles and the network of the demo."""

from __future__ import annotations

from avatar_kit.rectangles import rects_text
from avatar_tools.demo.build import CLIP_PATH, NETWORK_PATH, RECTS_PATH
from tools.demo_drawing.clip import write_clip
from tools.demo_drawing.face import demo_network
from tools.demo_drawing.layers import draw_layers
from tools.demo_drawing.motion import FRAME_COUNT, posture
from tools.demo_drawing.scene import Scene, mouth_place

if __name__ == "__main__":
    layers = draw_layers()
    postures = [posture(index) for index in range(FRAME_COUNT)]
    write_clip(CLIP_PATH, map(Scene(layers).frame, postures))
    RECTS_PATH.write_text(rects_text([mouth_place(each).rect() for each in postures]), encoding="utf-8")
    NETWORK_PATH.write_bytes(demo_network(layers).SerializeToString(deterministic=True))
