"""The sizes of a network's runs: how a batch is cut into them, and which give the same bytes.

A GPU chooses kernels by the shape of a run, and kernels round differently. So smaller runs than the usual one are used only where
they were seen to give the same bytes, or a frame would depend on who else calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from inference_service.engines.engine import NO_PICTURES, EngineInput, EngineOutput

log = logging.getLogger(__name__)


def runs_of(count: int, sizes: Sequence[int]) -> list[int]:
    """Returns the sizes of the runs for `count` frames: full ones of the largest, then the smallest that holds the rest.

    `sizes` ascend.
    """
    full, rest = divmod(count, sizes[-1])
    return [sizes[-1]] * full + ([next(size for size in sizes if size >= rest)] if rest else [])


def sizes_of_equal_bytes(
    avatar_id: str, sizes: Sequence[int], frame_count: int, run: Callable[[EngineInput, int], EngineOutput]
) -> tuple[int, ...]:
    """Returns those of the ascending sizes whose runs give the bytes that runs of the largest give. Says in the log which not.

    `run` runs an input of at least `size` frames in runs of that size; the crops of all frames up to the largest size must be
    there, of an avatar of `frame_count`. Raises EngineError.
    """
    most = sizes[-1]
    windows = np.maximum(np.random.default_rng(2).normal(0, 1, (most, 16, 512)), 0).astype(np.float32)  # as features are
    batch = EngineInput(windows, np.arange(most) % frame_count, NO_PICTURES, want_float=True, want_uint8=True)
    expected = run(batch, most)
    equal = tuple(size for size in sizes[:-1] if _are_equal(run(batch, size), expected))
    if len(equal) < len(sizes) - 1:
        others = ", ".join(str(size) for size in sizes[:-1] if size not in equal)
        log.warning(
            "avatar %s: runs of %s frames give other bytes than runs of %d and are not used (onnx.batch_buckets)",
            avatar_id,
            others,
            most,
        )
    return (*equal, most)


def _are_equal(one: EngineOutput, other: EngineOutput) -> bool:
    return np.array_equal(np.asarray(one.mouths_float), np.asarray(other.mouths_float)) and np.array_equal(
        np.asarray(one.mouths_uint8), np.asarray(other.mouths_uint8)
    )
