"""What holds for all tests."""

from __future__ import annotations

import importlib.util
import signal

import pytest

# A shell that runs the tests in the background has them ignore SIGINT, `nohup` SIGHUP, and every process that they start would
# inherit that: none could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are compared with PyTorch are skipped without it, unless it is just these that are asked for."""
    if config.option.markexpr == "torch" and importlib.util.find_spec("torch") is None:
        raise pytest.UsageError("the tests marked torch need PyTorch, which is not installed here: run `make test-torch`")
