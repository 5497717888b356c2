"""A proxy for the way out, as companies and docker put it into the environment of every process, is not one between our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipsync_client import Client

from .conftest import CALL_S, serving


def test_services_and_client_find_each_other_where_a_proxy_is_in_the_environment(
    models_root: Path, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # "discard": nothing listens there
    own_encoder = f"audio_encoder_path={models_root / 'none.onnx'}"
    with serving(models_root, tmp_path, inference=[own_encoder]) as both, Client(both.compositing.address) as client:
        batch = client.composite("small", audio=speech[: 4 * 640], batch_size=4, timeout=CALL_S)
        assert len(batch.frames) == 4
        assert client.health().healthy
