"""Writes the layers and the network of the demo."""

from __future__ import annotations

import cv2

from avatar_tools.demo.build import NETWORK_PATH
from avatar_tools.demo.scene import LAYERS_PATH
from tools.demo_drawing.face import demo_network
from tools.demo_drawing.layers import draw_layers

if __name__ == "__main__":
    for name, pixels in draw_layers().items():
        cv2.imwrite(str(LAYERS_PATH / f"{name}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    NETWORK_PATH.write_bytes(demo_network().SerializeToString(deterministic=True))
