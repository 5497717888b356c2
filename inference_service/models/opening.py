"""Opens an avatar's network in the engine that the choice and the network itself allow: another precision must not be seen.

The network first runs in ONNX Runtime in float32, which any file can be tried in safely; then, on the same frames, in the other
precision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import load_model
from inference_service.engines.devices import DeviceError
from inference_service.engines.engine import NO_PICTURES, Engine, EngineError, EngineInput, EngineOutput
from inference_service.engines.sessions import PRODUCTS
from inference_service.models.choosing import EngineChoice
from inference_service.models.stored_features import StoredFeatures
from service_kit.malloc import return_free_memory
from shared_proto.timing import ROW_SIZE, WINDOW_ROWS

# Of the worst of the frames that are tried, against float32, on pixels of 0..255.
LEAST_PSNR_DB = {"bfloat16": 45.0, "float16": 50.0}
TRIED_FRAMES = 3

log = logging.getLogger(__name__)

Open: TypeAlias = Callable[[], Engine]


class Opened(NamedTuple):
    """An open engine that has warmed up."""

    engine: Engine
    warm_up: EngineOutput
    run_seconds: float
    """The time of one run of the network."""
    psnr_db: float | None
    """Closeness of its mouths to those in float32; None when it computes in float32."""

    @property
    def mouths(self) -> NDArray[np.float32]:
        """Those of the warm-up, [n, 3, 320, 320]."""
        assert self.warm_up.mouths_float is not None
        return self.warm_up.mouths_float


def open_exactly(engine: Engine) -> Opened:
    """Warms up a network that runs in float32. Raises BrokenAvatar and DeviceError."""
    warm_up = engine.warm_up()
    return Opened(engine, warm_up, warm_up.seconds, None)


def reference_mouths(avatar: Avatar, stored: StoredFeatures, open_exact: Open) -> NDArray[np.float32] | None:
    """Returns mouths of the avatar in float32, to compare with. None for a network that another precision would not make quicker.

    Raises BrokenAvatar and DeviceError.
    """
    if not multiplies(avatar):
        return None
    engine = open_exact()
    engine.warm_up()
    try:
        return _tried(engine, stored)[0]
    except EngineError as error:
        log.warning("avatar %s runs in float32, as its network fails on sound of its own: %s", avatar.id, error)
        return None
    finally:
        del engine
        return_free_memory()


def open_quickly(
    avatar: Avatar,
    stored: StoredFeatures,
    open_quick: Open,
    reference: NDArray[np.float32],
    choice: EngineChoice,
) -> Opened | None:
    """Opens the network in the choice's quick precision, and compares.

    Returns None, with a line in the log, where float32 must be used.
    """
    precision = choice.quick_precision
    if precision is None:
        return None
    try:
        engine = open_quick()
        warm_up = engine.warm_up()
        mouths, run_seconds = _tried(engine, stored)  # the first run of all took longer
        psnr_db = worst_psnr_db(mouths, reference)
    except (BrokenAvatar, DeviceError, EngineError) as error:
        if choice.bfloat16_always:
            raise
        log.warning("avatar %s runs in float32, as it cannot run in %s: %s", avatar.id, precision, error)
        return None
    least_db = LEAST_PSNR_DB[precision]
    told = f"{psnr_db:.1f} dB from float32 on its own frames, where {least_db:g} are asked for"
    if psnr_db >= least_db:
        log.info("avatar %s runs in %s: %s", avatar.id, precision, told)
    elif choice.bfloat16_always:
        log.warning("avatar %s runs in %s, as precision says, and its mouths are coarse: %s", avatar.id, precision, told)
    else:
        log.warning("avatar %s runs in float32, as %s would be seen: %s", avatar.id, precision, told)
        return None
    return Opened(engine, warm_up, run_seconds, psnr_db)


def multiplies(avatar: Avatar) -> bool:
    """Tells if the network has operators that another precision makes quicker. Raises BrokenAvatar."""
    return any(node.op_type in PRODUCTS for node in load_model(avatar.network_path).graph.node)


def worst_psnr_db(mouths: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Returns the peak signal-to-noise ratio of the worst of these mouths, [n, 3, 320, 320], values 0..1. Infinite: all equal.

    PSNR = 10 log10(1 / mean square error), of values clamped as pixels are.
    """
    difference = np.clip(mouths, 0, 1).astype(np.float64) - np.clip(reference, 0, 1)
    worst = float(np.square(difference).mean(axis=(1, 2, 3)).max())
    return float("inf") if worst == 0 else -10 * float(np.log10(worst)) if np.isfinite(worst) else float("-inf")


def _tried(engine: Engine, stored: StoredFeatures) -> tuple[NDArray[np.float32], float]:
    """Runs the first pictures with sound of the avatar's own clip, or values like those of sound. Returns also a run's seconds.

    Raises BrokenAvatar, EngineError.
    """
    count = min(TRIED_FRAMES, engine.bank.frame_count)
    if stored.shape:
        places = np.linspace(0, stored.shape[0] - 1, count + 2, dtype=np.int64)[1:-1]
        windows = stored.windows(places.tolist())
    else:
        windows = np.maximum(np.random.default_rng(1).normal(0, 1, (count, WINDOW_ROWS, ROW_SIZE)), 0).astype(np.float32)
    frames = np.arange(count, dtype=np.int64)
    engine.bank.ensure(frames.tolist())
    output = engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=True, want_uint8=False))
    if output.mouths_float is None or not output.finite.all():
        raise EngineError("the network gives values that are not finite")
    return output.mouths_float, output.seconds / -(-count // engine.run_frames)
