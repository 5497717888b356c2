"""The configuration: what the keys accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compositing_service.settings import CompositingSettings, parse_endpoints
from service_kit.settings import SettingsError, load_settings


def load(text: str, tmp_path: Path) -> CompositingSettings:
    path = tmp_path / "compositing.yaml"
    path.write_text(text)
    return load_settings(CompositingSettings, config=path, environ={})


def test_a_file_of_the_earlier_servers_loads(tmp_path: Path) -> None:
    settings = load(
        """
        server: {port: ":50052", max_message_size_mb: 100}
        inference_server: {url: "localhost:50051", timeout_seconds: 10, max_retries: 3}
        capacity: {max_models: 11000, background_cache_frames: 600, eviction_policy: "lfu", idle_timeout_minutes: 30}
        output: {format: "jpeg", jpeg_quality: 75}
        models_root: "/srv/models"
        models:
          sanders: {model_path: "sanders/checkpoint/model_best.onnx", background_dir: "sanders/frames",
                    crop_rects_path: "sanders/crop_rects.json", num_frames: 523, preload_backgrounds: true}
        logging: {log_level: "INFO", log_inference_times: true, log_compositing_times: true, buffered_logging: true}
        """,
        tmp_path,
    )
    assert settings.capacity.max_models == 11000
    assert settings.models["sanders"].preload_backgrounds


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("inference_server.url=nonsense", "inference_server.url"),
        ("inference_server.timeout_seconds=0", "inference_server.timeout_seconds"),
        ("inference_server.max_retries=-1", "inference_server.max_retries"),
        ("output.jpeg_quality=0", "output.jpeg_quality"),
        ("output.jpeg_quality=101", "output.jpeg_quality"),
        ("output.format=png", "output.format"),
        ("capacity.max_models=0", "capacity.max_models"),
        ("capacity.eviction_policy=fifo", "capacity.eviction_policy"),
        ("limits.max_batch_size=0", "limits.max_batch_size"),
        ("workers.threads=-1", "workers.threads"),
        ("inference_server.uri=localhost:1", "inference_server.url"),
        ("models.../x.num_frames=5", "models"),
    ],
)
def test_a_wrong_value_is_named(override: str, named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)):
        load_settings(CompositingSettings, config=None, overrides=[override], environ={})


@pytest.mark.parametrize(
    ("url", "targets"),
    [
        ("localhost:50051", ("localhost:50051",)),
        (" localhost:50051 ", ("localhost:50051",)),
        ("[::1]:50051", ("[::1]:50051",)),
        ("gpu-a:50051, gpu_b:50052", ("gpu-a:50051", "gpu_b:50052")),
        ("dns:///inference:50051", ("dns:///inference:50051",)),
        ("dns://8.8.8.8:53/inference.internal:50051", ("dns://8.8.8.8:53/inference.internal:50051",)),
    ],
)
def test_endpoints(url: str, targets: tuple[str, ...]) -> None:
    assert parse_endpoints(url) == targets


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "http://localhost:50051",
        "a:1,",
        "a:1,a:1",
        "dns:///a",
        "a b:1",
    ],
)
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|twice"):
        parse_endpoints(url)


def test_zero_threads_are_as_many_as_cores() -> None:
    assert CompositingSettings().workers.thread_count >= 1
