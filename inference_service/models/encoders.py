"""Opens audio encoders in the engine that the choice allows.

In bfloat16 only where the configuration asks for it: avatars share an encoder, and a network that is sharp enough makes another
mouth of a row that is a hundredth off.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from avatar_kit.onnx_files import load_model
from avatar_kit.onnx_io import encoder_io
from inference_service.audio.encoder import AudioEncoder, RunEncoder, sample_columns
from inference_service.audio.windows import Rows
from inference_service.engines import openvino_models
from inference_service.engines.devices import Device
from inference_service.engines.encoder_runs import encoder_run
from inference_service.engines.openvino_models import Precision
from inference_service.engines.sessions import PRODUCTS, open_session
from inference_service.models.choosing import EngineChoice
from inference_service.settings import OnnxSection

# Of the rows of noise in bfloat16: the power of those in float32 over that of the differences. Less is warned of.
LEAST_SNR_DB = 30.0
# Rows of each run on a GPU: of any other number it would round otherwise, and first take seconds to look for kernels.
GPU_ROWS = 16

log = logging.getLogger(__name__)


def open_encoder(path: Path, device: Device, options: OnnxSection, choice: EngineChoice) -> AudioEncoder:
    """Opens an encoder. Raises BrokenAvatar, DeviceError, and FailedPrecondition for one that cannot encode silence."""
    model = load_model(path)
    io = encoder_io(model)
    multiplies = any(node.op_type in PRODUCTS for node in model.graph.node)

    def by_openvino(precision: Precision) -> AudioEncoder:
        run = openvino_models.encoder_run(load_model(path), io, precision, options, path.name)
        return AudioEncoder(run, rows_per_run=io.batch or (None if _gives_equal_rows(run) else 1))

    if choice.float32_by_openvino:
        exact = by_openvino("float32")
    else:
        run = encoder_run(open_session(model, device, options, name=path.name), io, path.name)
        exact = AudioEncoder(run, rows_per_run=io.batch or (GPU_ROWS if device.is_gpu else None))
    if not (multiplies and choice.bfloat16_always):
        return exact
    quick = by_openvino("bfloat16")
    snr_db = _snr_db(quick.sample_rows, exact.sample_rows)
    level = logging.INFO if snr_db >= LEAST_SNR_DB else logging.WARNING
    log.log(level, "the audio encoder %s runs in bfloat16, as precision says: %.1f dB from float32", path.name, snr_db)
    return quick


def _gives_equal_rows(run: RunEncoder) -> bool:
    """Tells if a row has the same bytes in a run of one as in a run of many, on this processor."""
    windows = sample_columns()[:, np.newaxis]
    return np.array_equal(np.concatenate([run(windows[row : row + 1]) for row in range(len(windows))]), run(windows))


def _snr_db(rows: Rows, reference: Rows) -> float:
    """Returns 10 log10(power of the reference / power of the difference); infinite when there is no difference."""
    noise = float(np.square(rows.astype(np.float64) - reference).sum())
    power = float(np.square(reference.astype(np.float64)).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(power / noise)) if power else float("-inf")
