"""The full-size lip-sync network: from an avatar's picture and the sound to its mouth."""

from __future__ import annotations

from avatar_tools.networks.layers import Convolution, Layers, T
from avatar_tools.networks.network import Network

VISUAL, AUDIO, OUTPUT = "input", "audio", "output"

# (inputs, outputs) of the blocks, in the order of the data.
STEM = (6, 32)
DOWN = ((32, 32), (32, 64), (64, 128), (128, 256), (256, 512))
FUSE = ((1024, 512), (512, 256))
UP = ((512, 128), (256, 64), (128, 32), (64, 32), (64, 16))


def unet(net: Layers[T], picture: T, sound: T) -> T:
    """[N,6,320,320] pictures and [N,32,16,16] sound to [N,3,320,320] mouths in 0..1, BGR."""
    scales = [net.inverted_residual(picture, "inc.inconv.0", *STEM)]  # from the full size to a 32nd
    for number, widths in enumerate(DOWN, 1):
        scales.append(net.double(scales[-1], f"down{number}.maxpool_conv.0", *widths, stride=2))
    x = net.concatenated([scales.pop(), _audio_branch(net, sound)], "fuse_conv")
    for number, widths in enumerate(FUSE):
        x = net.double(x, f"fuse_conv.{number}", *widths)
    for number, widths in enumerate(UP, 1):
        x = net.concatenated([net.doubled_size(x), scales.pop()], f"up{number}.conv")
        x = net.double(x, f"up{number}.conv", *widths)
    return net.sigmoid(net.convolution(x, Convolution("outc.conv", None, 16, 3, kernel=1)), OUTPUT)


def _audio_branch(net: Layers[T], sound: T) -> T:
    """16 rows of sound to 512 channels of 10x10, the size of the smallest picture."""
    p = "audio_model"
    x = net.inverted_residual(sound, f"{p}.conv1", 32, 64)
    x = net.inverted_residual(x, f"{p}.conv2", 64, 128)
    x = net.relu(net.convolution(x, Convolution(f"{p}.conv3", f"{p}.bn3", 128, 256, padding=1)))
    x = net.inverted_residual(x, f"{p}.conv4", 256, 256, residual=True)
    x = net.relu(net.convolution(x, Convolution(f"{p}.conv5", f"{p}.bn5", 256, 512, stride=(2, 2), padding=3)))
    x = net.inverted_residual(x, f"{p}.conv6", 512, 512, residual=True)
    return net.inverted_residual(x, f"{p}.conv7", 512, 512, residual=True)


UNET = Network(unet, "lipsync_unet_328", {VISUAL: (6, 320, 320), AUDIO: (32, 16, 16)}, OUTPUT, (3, 320, 320))
"""Its state dict has 556 entries."""
