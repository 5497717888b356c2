"""Builds the avatar that benchmarks run: with the size and cost of a real one, and without a face.

`network="full"` is the family's exact network with random weights; `network="free"` costs next to nothing, so that everything
around the network can be measured.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.cores import usable_cores
from avatar_kit.writer import AvatarWriter
from avatar_tools.benchmark_frames import HEIGHT, WIDTH, benchmark_clip
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.free import free_encoder, free_network
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from avatar_tools.progress import Progress, silent

FRAME_COUNT = 523  # as in the real avatar that the old servers were measured with

BenchmarkNetwork: TypeAlias = Literal["full", "free"]

_SEED = 3
_FREE_MOUTHS = 8


def build_benchmark(
    models_root: Path,
    avatar_id: str = "benchmark",
    *,
    frame_count: int = FRAME_COUNT,
    network: BenchmarkNetwork = "full",
    replace: bool = False,
    progress: Progress = silent,
) -> Avatar:
    """Writes the avatar `models_root/avatar_id`, and `models_root/audio_encoder.onnx` when there is none. Takes some seconds.

    Raises AvatarExists when the id is taken and `replace` is False, InvalidAvatarId, and ValueError for an unknown network or
    less than one frame.
    """
    if network not in get_args(BenchmarkNetwork):
        raise ValueError(f"network {network!r}: expected one of {', '.join(get_args(BenchmarkNetwork))}")
    if frame_count < 1:
        raise ValueError(f"{frame_count} frames: at least 1")
    with AvatarWriter(models_root, avatar_id, width=WIDTH, height=HEIGHT, replace=replace) as writer:
        progress("drawing", 0, frame_count)
        clip = benchmark_clip()
        with ThreadPoolExecutor(usable_cores()) as pool:  # OpenCV encodes without the interpreter's lock
            for index, jpeg in enumerate(pool.map(clip.jpeg, range(frame_count))):
                writer.add_frame(jpeg, clip.rect(index))
                progress("drawing", index + 1, frame_count)
        progress("networks", 0, 1)
        if network == "full":
            mouths, encoder = (each.graph(random_weights(each, _SEED)) for each in (UNET, AUDIO_ENCODER))
        else:
            mouths, encoder = free_network(clip.mouths(_FREE_MOUTHS)), free_encoder()
        encoder_bytes = encoder.SerializeToString(deterministic=True)
        writer.set_network(mouths.SerializeToString(deterministic=True))
        writer.set_audio_encoder(encoder_bytes)
        avatar = writer.finish()
        progress("networks", 1, 1)
    shared = models_root / AUDIO_ENCODER_NAME
    if not shared.exists():
        shared.write_bytes(encoder_bytes)
    return avatar
