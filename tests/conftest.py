"""What holds for all tests."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

# A shell that runs the tests in the background has them ignore SIGINT, `nohup` SIGHUP, and every process that they start would
# inherit that: none could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Start processes, or compute for long: `make check` leaves them out.
THOROUGH = (
    "avatar_demo",
    "avatar_import/test_import_names.py",
    "avatar_import/test_import_whole_or_nothing.py",
    "avatar_kit/test_video_frames.py",
    "avatar_networks",
    "deploy/test_kubernetes_manifests.py",
    "docs/test_doc_examples.py",
    "end_to_end",
    "inference_service/test_filmed_crops.py",
    "lipsync_cli/test_compare_command.py",
    "packaging",
    "repository/test_generated_code.py",
    "service_kit/test_service_process.py",
    "tls/test_tls_services.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are compared with PyTorch are skipped without it, unless it is just these that are asked for."""
    if config.option.markexpr == "torch" and importlib.util.find_spec("torch") is None:
        raise pytest.UsageError("the tests marked torch need PyTorch, which is not installed here: run `make test-torch`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make check` leaves out."""
    places = [Path(__file__).parent / place for place in THOROUGH]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.thorough)
