"""Opens an avatar's network in the engine that the choice and the network itself allow: another precision must not be seen.

The network first runs in ONNX Runtime in float32, which any file can be tried in safely; then, on the same frames, in the other
precision. How close the two came is kept for later loads, which then open the network once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from inference_service.engines import openvino_models
from inference_service.engines.devices import Device, DeviceError
from inference_service.engines.engine import NO_PICTURES, Engine, EngineError, EngineInput, EngineOutput
from inference_service.engines.load_cache import LoadCache, cache_key
from inference_service.engines.sessions import PRODUCTS
from inference_service.graphs.cpu_form import OPENVINO
from inference_service.models.choosing import EngineChoice
from inference_service.models.stored_features import StoredFeatures
from service_kit.malloc import return_free_memory
from shared_proto.timing import ROW_SIZE, WINDOW_ROWS

# Of the worst of the frames that are tried, against float32, on pixels of 0..255.
LEAST_PSNR_DB = {"bfloat16": 45.0, "float16": 50.0}
TRIED_FRAMES = 3

log = logging.getLogger(__name__)

Open: TypeAlias = Callable[[], Engine]


class Comparison:
    """The closeness of an avatar's mouths in the choice's quick precision to those in float32, as kept by an earlier load."""

    def __init__(
        self, avatar: Avatar, stored: StoredFeatures, digest: str, device: Device, choice: EngineChoice, cache: LoadCache
    ) -> None:
        """Looks it up. `digest`: of the network.

        It depends on that, the frames and features that are tried, the programs, the processor and the device.
        """
        self.psnr_db: float | None = None
        """PSNR of the worst of the frames; None when it is not known yet."""
        self.least_db = LEAST_PSNR_DB[choice.quick_precision] if choice.quick_precision else 0.0
        self._cache = cache
        if not cache.keeps:
            return
        self._key = cache_key(
            "psnr",
            digest,
            (avatar.version, avatar.mask, avatar.reference_frame),
            _windows(stored, avatar.frame_count).tobytes(),
            (choice.numerics, choice.exact_numerics, openvino_models.processor(), device.name, device.providers, OPENVINO),
        )
        kept = cache.get(self._key)
        value = None if kept is None else json.loads(kept)
        self.psnr_db = value if isinstance(value, float) else None

    def allows(self, choice: EngineChoice) -> bool:
        """Tells if the network may run in the quick precision."""
        return choice.bfloat16_always or (self.psnr_db is not None and self.psnr_db >= self.least_db)

    def keep(self, psnr_db: float) -> None:
        """Keeps it for later loads."""
        self.psnr_db = psnr_db
        if self._cache.keeps:
            self._cache.put(self._key, json.dumps(psnr_db).encode())


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


def reference_mouths(
    avatar: Avatar, stored: StoredFeatures, network: onnx.ModelProto, open_exact: Open
) -> NDArray[np.float32] | None:
    """Returns mouths of the avatar in float32, to compare with. None for a network that another precision would not make quicker.

    Raises BrokenAvatar and DeviceError.
    """
    if not any(node.op_type in PRODUCTS for node in network.graph.node):
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
    reference: NDArray[np.float32] | None,
    comparison: Comparison,
    choice: EngineChoice,
) -> Opened | None:
    """Opens the network in the choice's quick precision, and compares, unless an earlier load did. `reference`: None if so.

    Returns None, with a line in the log, where float32 must be used.
    """
    precision = choice.quick_precision
    if precision is None:
        return None
    if reference is None and not comparison.allows(choice):
        _tell(avatar, comparison, choice)
        return None
    try:
        engine = open_quick()
        warm_up = engine.warm_up()
        if reference is None:
            run_seconds = engine.warm_up().seconds  # the first run of all took longer
        else:
            mouths, run_seconds = _tried(engine, stored)
            comparison.keep(worst_psnr_db(mouths, reference))
    except (BrokenAvatar, DeviceError, EngineError) as error:
        if choice.bfloat16_always:
            raise
        log.warning("avatar %s runs in float32, as it cannot run in %s: %s", avatar.id, precision, error)
        return None
    _tell(avatar, comparison, choice)
    return Opened(engine, warm_up, run_seconds, comparison.psnr_db) if comparison.allows(choice) else None


def _tell(avatar: Avatar, comparison: Comparison, choice: EngineChoice) -> None:
    precision, least_db = choice.quick_precision, comparison.least_db
    told = f"{comparison.psnr_db:.1f} dB from float32 on its own frames, where {least_db:g} are asked for"
    if comparison.psnr_db is not None and comparison.psnr_db >= least_db:
        log.info("avatar %s runs in %s: %s", avatar.id, precision, told)
    elif choice.bfloat16_always:
        log.warning("avatar %s runs in %s, as precision says, and its mouths are coarse: %s", avatar.id, precision, told)
    else:
        log.warning("avatar %s runs in float32, as %s would be seen: %s", avatar.id, precision, told)


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
    windows = _windows(stored, engine.bank.frame_count)
    count = len(windows)
    frames = np.arange(count, dtype=np.int64)
    engine.bank.ensure(frames.tolist())
    output = engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=True, want_uint8=False))
    if output.mouths_float is None or not output.finite.all():
        raise EngineError("the network gives values that are not finite")
    return output.mouths_float, output.seconds / -(-count // engine.run_frames)


def _windows(stored: StoredFeatures, frame_count: int) -> NDArray[np.float32]:
    """Returns the sound for the frames that are tried, [n, 16, 512]. Raises BrokenAvatar."""
    count = min(TRIED_FRAMES, frame_count)
    if not stored.shape:
        return np.maximum(np.random.default_rng(1).normal(0, 1, (count, WINDOW_ROWS, ROW_SIZE)), 0).astype(np.float32)
    places = np.linspace(0, stored.shape[0] - 1, count + 2, dtype=np.int64)[1:-1]
    return stored.windows(places.tolist())
