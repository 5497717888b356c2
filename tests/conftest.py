"""Signals, options and settings of all tests."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .secret_shapes import secrets_in

# A shell that runs the tests in the background has them ignore SIGINT, `nohup` SIGHUP, and every process that they start would
# inherit that: none could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# They start processes, compute for long, are marked slow, or are of commands and of making avatars: --quick leaves them out.
NOT_QUICK = {
    Path(__file__).parent / place
    for place in (
        "avatar_demo",
        "avatar_import",
        "avatar_kit/test_damaged_videos.py",
        "avatar_kit/test_hostile_avatars.py",
        "avatar_kit/test_inspect.py",
        "avatar_kit/test_verify.py",
        "avatar_kit/test_verify_pictures.py",
        "avatar_kit/test_video_frames.py",
        "avatar_networks",
        "callers/test_go_client.py",
        "callers/test_shared_quotas.py",
        "callers/test_token_services.py",
        "compositing_core/test_filmed_avatars.py",
        "compositing_service/test_compositing_process.py",
        "compositing_service/test_mouth_sources.py",
        "compositing_service/test_session_streams.py",
        "deploy/test_balancer_browsers.py",
        "deploy/test_balancer_examples.py",
        "deploy/test_balancer_sessions.py",
        "deploy/test_docker_compose.py",
        "deploy/test_image_requirements.py",
        "deploy/test_haproxy_start.py",
        "deploy/test_kubernetes_balancers.py",
        "deploy/test_kubernetes_manifests.py",
        "deploy/test_kubernetes_network.py",
        "deploy/test_kubernetes_scaling.py",
        "deploy/test_kubernetes_settings.py",
        "deploy/test_monitoring.py",
        "docker",
        "docs/test_client_programs.py",
        "docs/test_doc_examples.py",
        "end_to_end",
        "faults",
        "gateway_earlier",
        "gateway_http/test_attacks.py",
        "gateway_http/test_busy_services.py",
        "gateway_http/test_documented_http.py",
        "gateway_http/test_openapi.py",
        "gateway_http/test_pictures.py",
        "gateway_http/test_polling.py",
        "gateway_page/test_keys.py",
        "gateway_page/test_lost_services.py",
        "gateway_page/test_other_browsers.py",
        "gateway_page/test_problems.py",
        "gateway_page/test_screens.py",
        "gateway_page/test_speaking.py",
        "gateway_page/test_webrtc.py",
        "gateway_service",
        "gateway_webrtc",
        "inference_audio/test_audio_features.py",
        "inference_audio/test_audio_mel.py",
        "inference_engines/test_engine_conformance.py",
        "inference_engines/test_full_size_network.py",
        "inference_service/test_filmed_crops.py",
        "inference_service/test_live_requests.py",
        "inference_service/test_session_orders.py",
        "lipsync_cli",
        "packaging",
        "repository/test_generated_code.py",
        "service_kit/test_service_process.py",
        "service_kit/test_settings_text.py",
        "service_kit/test_limit_stores.py",
        "service_kit/test_redis_store.py",
        "tls/test_certificate_files.py",
        "tls/test_making_test_certificates.py",
        "tls/test_openssl_clients.py",
        "tls/test_tls_callers.py",
        "tls/test_tls_gateway.py",
        "tls/test_tls_gateway_upstream.py",
        "tls/test_tls_one_process.py",
        "tls/test_tls_services.py",
    )
}
# `make test-adapters` runs these, where Pipecat and LiveKit are.
OF_ADAPTERS = set() if importlib.util.find_spec("pipecat") else {Path(__file__).parent / "lipsync_adapters"}
# No test judges the time that it takes.
settings.register_profile("patient", deadline=None)
settings.register_profile("quick", settings.get_profile("patient"), max_examples=20)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start keep nothing for later runs, and find nothing of earlier ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """For `make check`."""
    parser.addoption(
        "--quick", action="store_true", help="leave out what starts processes or computes for long, and try few examples"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not even imports what --quick leaves out, and what has an environment of its own."""
    left_out = NOT_QUICK if config.getoption("quick") else set()
    return True if collection_path in left_out | OF_ADAPTERS else None


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are compared with PyTorch are skipped without it, unless it is just these that are asked for."""
    if config.option.quick:
        settings.load_profile("quick")
    if config.option.markexpr == "torch" and importlib.util.find_spec("torch") is None:
        raise pytest.UsageError("the tests marked torch need PyTorch, which is not installed here: run `make test-torch`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No test's log or stderr holds a key, a token, a ticket or a password, as no log of a service's own process does: those are
    searched when the processes end."""
    report = yield
    for name, text in report.sections:
        if ("log" in name or "stderr" in name) and report.passed and (found := secrets_in(text)):
            report.outcome = "failed"
            report.longrepr = f"{name} holds {found}"
    return report
