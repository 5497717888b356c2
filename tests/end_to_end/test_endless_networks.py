"""Networks and encoders that never return, against a running service: their avatars fail, and nobody waits behind them."""

from __future__ import annotations

import signal
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import looping_encoder, looping_network, stuck_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import END_S, Service, running, until

FRAMES = 3
FAILED = grpc.StatusCode.FAILED_PRECONDITION
LOUD = 100.0
SECOND = "limits.run_seconds=1", "limits.load_seconds=1"


@contextmanager
def serving(root: Path, *overrides: str) -> Iterator[tuple[Service, InferenceServiceStub]]:
    write_avatar(root / "models", "small")
    with (
        running("inference", f"models_root={root / 'models'}", *overrides, log=root / "log") as service,
        grpc.insecure_channel(service.address, CHANNEL_OPTIONS) as channel,
    ):
        yield service, InferenceServiceStub(channel)


def ask(stub: InferenceServiceStub, model_id: str, *, loudest: float = 6.0, **fields: object) -> grpc.Future:
    """Asks for a batch with features whose largest value is `loudest`, or with other sound."""
    features = np.full(FRAMES * 8192, loudest, "<f4")
    sound = fields or {"audio_features": features.tobytes()}
    return stub.InferBatch.future(pb.InferBatchRequest(model_id=model_id, batch_size=FRAMES, **sound), timeout=CALL_S)


def assert_served(stub: InferenceServiceStub, model_id: str, **sound: object) -> None:
    assert len(ask(stub, model_id, **sound).result().outputs) == FRAMES


def assert_failed(call: grpc.Future, model_id: str) -> None:
    error = call.exception()
    assert error.code() is FAILED, error
    assert model_id in error.details()
    assert "longer than 1 s" in error.details()


def load(stub: InferenceServiceStub, model_id: str, *, force_reload: bool = False) -> grpc.Future:
    return stub.LoadModel.future(pb.LoadModelRequest(model_id=model_id, force_reload=force_reload), timeout=CALL_S)


def liveness(service: Service) -> tuple[int, str]:
    try:
        return 200, service.get("/health/live")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def error_lines(service: Service, about: str) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if "ERROR" in line and about in line]


def assert_logged_once(service: Service, about: str) -> None:
    until(lambda: error_lines(service, about) != [])  # the log has a thread of its own
    assert len(error_lines(service, about)) == 1


def assert_ends(service: Service) -> None:
    service.signal(signal.SIGTERM)
    assert service.process.wait(END_S) == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, InferenceServiceStub, Path]]:
    """One service for all tests, each with avatars of its own."""
    root = tmp_path_factory.mktemp("endless")
    with serving(root, *SECOND) as (service, stub):
        yield service, stub, root / "models"
        assert liveness(service)[0] == 200


Shared = tuple[Service, InferenceServiceStub, Path]


def test_others_are_loaded_and_served_while_a_warm_up_never_ends(tmp_path: Path) -> None:
    write_avatar(tmp_path / "models", "endless", network=looping_network(0))
    with serving(tmp_path, "server.grace_seconds=0.2") as (service, stub):
        loads = [load(stub, "endless") for _ in range(3)]
        assert_served(stub, "small")
        write_avatar(tmp_path / "models", "newcomer")
        assert_served(stub, "newcomer")
        assert not any(each.done() for each in loads)
        assert_ends(service)


def test_a_load_that_takes_too_long_fails_until_it_is_forced_again(shared: Shared) -> None:
    service, stub, models = shared
    write_avatar(models, "endless", network=looping_network(0))
    assert_failed(load(stub, "endless"), "endless")
    assert_failed(ask(stub, "endless"), "endless")
    assert_failed(load(stub, "endless"), "endless")
    assert_logged_once(service, "avatar endless")
    told = {model.model_id: model.error for model in stub.ListModels(pb.ListModelsRequest(), timeout=CALL_S).models}
    assert told["small"] == ""
    assert "longer than 1 s" in told["endless"]
    write_avatar(models, "endless", replace=True)
    assert load(stub, "endless", force_reload=True).result().success
    assert_served(stub, "endless")


def test_a_reload_that_takes_too_long_keeps_what_is_loaded(shared: Shared) -> None:
    service, stub, models = shared
    write_avatar(models, "good")
    assert_served(stub, "good")
    write_avatar(models, "good", network=looping_network(0), replace=True)
    assert_failed(load(stub, "good", force_reload=True), "good")
    assert_served(stub, "good")
    assert_logged_once(service, "avatar good")


def test_a_run_that_takes_too_long_puts_its_avatar_out(shared: Shared) -> None:
    service, stub, models = shared
    write_avatar(models, "loops", network=looping_network(LOUD))
    assert_served(stub, "loops")
    looping = ask(stub, "loops", loudest=LOUD)
    neighbours = [ask(stub, "small") for _ in range(8)]
    assert_failed(looping, "loops")
    assert [len(each.result().outputs) for each in neighbours] == [FRAMES] * 8
    assert_failed(ask(stub, "loops"), "loops")
    assert_logged_once(service, "avatar loops")
    assert load(stub, "loops", force_reload=True).result().success
    assert_served(stub, "loops")


def test_an_encoder_that_takes_too_long_encodes_no_more(shared: Shared) -> None:
    service, stub, models = shared
    write_avatar(models, "hears", encoder=looping_encoder(3.5))
    noise = np.random.default_rng(1).standard_normal(FRAMES * 640).astype("<f4")
    quiet, loud = (1e-4 * noise).tobytes(), (100 * noise).tobytes()
    assert_served(stub, "hears", raw_audio=quiet)
    assert_failed(ask(stub, "hears", raw_audio=loud), "hears")
    assert_failed(ask(stub, "hears", raw_audio=quiet), "hears")
    assert_served(stub, "hears")  # with features of the caller's own
    assert_served(stub, "small", raw_audio=loud)
    assert_logged_once(service, "avatar hears")
    assert load(stub, "hears", force_reload=True).result().success
    assert_served(stub, "hears", raw_audio=quiet)


def test_an_encoder_that_never_ends_its_silence_fails_the_load(shared: Shared) -> None:
    service, stub, models = shared
    write_avatar(models, "deaf", encoder=looping_encoder(-5))
    assert_failed(load(stub, "deaf"), "deaf")
    (models / "audio_encoder.onnx").write_bytes(looping_encoder(-5).SerializeToString())
    for _ in range(2):
        encoding = stub.EncodeAudio.future(pb.EncodeAudioRequest(raw_audio=bytes(2560), row_count=1), timeout=CALL_S)
        assert_failed(encoding, "audio_encoder.onnx")
    assert_logged_once(service, "the shared audio encoder")
    assert_served(stub, "small", raw_audio=bytes(FRAMES * 640 * 4))


def test_a_thread_that_does_not_come_back_asks_for_a_restart(tmp_path: Path) -> None:
    write_avatar(tmp_path / "models", "never-warm", network=stuck_network(0))
    write_avatar(tmp_path / "models", "stuck", network=stuck_network(LOUD))
    with serving(tmp_path, *SECOND) as (service, stub):
        failing = [ask(stub, "never-warm"), ask(stub, "stuck", loudest=LOUD)]
        for call, avatar_id in zip(failing, ("never-warm", "stuck"), strict=True):
            assert_failed(call, avatar_id)
            assert_logged_once(service, f"avatar {avatar_id}")
        until(lambda: liveness(service)[0] == 503)
        assert "does not end" in liveness(service)[1]
        assert_served(stub, "small")
        until(lambda: error_lines(service, "needs a restart") != [])
        assert_ends(service)
