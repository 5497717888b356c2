"""Both services and the command line beside avatars whose files do what they can: they start, list all, and serve the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from lipsync_cli.main import app
from shared_proto import compositing_pb2, inference_pb2

from ..hostile import HOSTILE
from .avatars import write_avatar
from .conftest import CALL_S, Duo, serving

IDS = {f"h{number:02d}": name for number, name in enumerate(HOSTILE)}
# What shows only when a network or a frame is read; each service reads its own part.
UNSEEN_BY_LISTS = {name for name in HOSTILE if name.startswith("network of ")} - {"network of 11 GB"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_avatar(folder, "good")
    for avatar_id, name in IDS.items():
        HOSTILE[name](write_avatar(folder, avatar_id).root)
    return folder


@pytest.fixture(scope="module")
def duo(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Started with half of them to be preloaded."""
    named = ["good", *list(IDS)[::2]]
    network = [f"models.{avatar_id}.preload=true" for avatar_id in named]
    pictures = [f"models.{avatar_id}.preload_backgrounds=true" for avatar_id in named]
    with serving(root, tmp_path_factory.mktemp("logs"), inference=network, compositing=pictures) as both:
        yield both


def test_both_list_every_avatar_and_what_is_wrong_with_it(duo: Duo) -> None:
    here = {info.model_id: info for info in duo.pictures.ListModels(compositing_pb2.ListModelsRequest(), timeout=CALL_S).models}
    there = {info.model_id: info for info in duo.mouths.ListModels(inference_pb2.ListModelsRequest(), timeout=CALL_S).models}
    assert set(here) == set(there) == {"good", *IDS}
    assert here["good"].loaded
    assert there["good"].loaded
    assert not here["good"].error
    assert not there["good"].error
    for avatar_id, name in IDS.items():
        if name not in UNSEEN_BY_LISTS:
            assert here[avatar_id].error, name
            assert there[avatar_id].error, name


@pytest.mark.parametrize("avatar_id", IDS, ids=IDS.values())
def test_loading_one_is_refused_by_name_and_harms_no_other(duo: Duo, avatar_id: str) -> None:
    for stub, module in ((duo.mouths, inference_pb2), (duo.pictures, compositing_pb2)):
        with pytest.raises(grpc.RpcError) as caught:
            stub.LoadModel(module.LoadModelRequest(model_id=avatar_id), timeout=CALL_S)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            stub.LoadModel(module.LoadModelRequest(model_id=avatar_id, force_reload=True), timeout=CALL_S)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value.details()
    request = compositing_pb2.CompositeBatchRequest(model_id="good", batch_size=2, raw_audio=bytes(4 * 2 * 640))
    assert len(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames) == 2


def test_the_runtime_s_reason_is_passed_on(duo: Duo, root: Path) -> None:
    avatar_id = next(avatar_id for avatar_id, name in IDS.items() if name == "network of a later format")
    reason = "network.onnx: ONNX Runtime refuses it: Unsupported model IR version: 99, max supported IR version: "
    with pytest.raises(grpc.RpcError) as caught:
        duo.pictures.LoadModel(compositing_pb2.LoadModelRequest(model_id=avatar_id), timeout=CALL_S)
    assert (caught.value.details() or "").startswith(reason)
    verified = CliRunner().invoke(app, ["avatar", "verify", avatar_id, "--models-root", str(root)])
    assert "ONNX Runtime cannot load it: Unsupported model IR version: 99, max supported IR version: " in verified.stdout


def test_the_command_line_lists_them(root: Path) -> None:
    result = CliRunner().invoke(app, ["avatar", "list", "--models-root", str(root)])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert lines["good"].split()[-1] == "good"
    assert set(IDS) <= set(lines)


@pytest.mark.parametrize("avatar_id", list(IDS)[::8], ids=list(IDS.values())[::8])
def test_the_command_line_says_what_is_wrong(root: Path, avatar_id: str) -> None:
    result = CliRunner().invoke(app, ["avatar", "verify", avatar_id, "--models-root", str(root)])
    assert result.exit_code == 1, result.output
    assert "problem: " in result.stdout
    assert "unexpected" not in result.stderr
    assert f"{avatar_id} cannot be served" in result.stdout
