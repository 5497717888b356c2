"""Frames without sound, from the features stored with an avatar's clip, through both services as processes."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.timeline import Loop
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from ..pickles import Trace
from . import reference
from .avatars import exact_encoder, exact_network, rect, write_avatar
from .conftest import CALL_S, PATIENT, Duo, serving
from .stored_rows import FRAMES, rows, windows

Code = grpc.StatusCode


def write_old_layout(root: Path, avatar_id: str, like: Avatar) -> Path:
    """The frames and the network of another avatar as the earlier servers kept them."""
    folder = root / avatar_id
    shutil.copytree(like.root / "frames", folder / "frames")
    (folder / "checkpoint").mkdir()
    shutil.copyfile(like.network_path, folder / "checkpoint" / "model_best.onnx")
    (folder / "crop_rects.json").write_text(json.dumps([list(dataclasses.astuple(rect(k))) for k in range(FRAMES)]))
    return folder


def write_damaged(root: Path, like: Avatar) -> None:
    """Avatars whose stored features cannot be used, each under the name of what is wrong."""

    def damaged(name: str, content: bytes | np.ndarray, file: str = "aud_ave.npy") -> None:
        path = write_old_layout(root, name, like) / file
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)

    holey = rows()
    holey[11, 9] = np.nan
    whole = root / "whole.npy"
    np.save(whole, rows())
    damaged("float64", rows().astype(np.float64))
    damaged("nan", holey)
    damaged("truncated", whole.read_bytes()[:-999])
    damaged("half-a-row", rows().tobytes()[:-999], "aud_ave.bin")
    damaged("another-clip", rows(FRAMES - 3))
    damaged("objects", np.array([[Trace(root / "unpickled")] * 512], object))
    damaged("pickle", pickle.dumps(Trace(root / "unpickled")))
    damaged("empty", b"")
    (write_old_layout(root, "folder", like) / "aud_ave.npy").mkdir()
    outside = write_old_layout(root, "leads-out", like) / "aud_ave.npy"
    outside.symlink_to(whole)


DAMAGED = {
    "float64": "aud_ave.npy holds float64 of shape (20, 512); expected float32 [rows, 512]",
    "nan": "aud_ave.npy holds values that are not finite numbers",
    "truncated": "aud_ave.npy is not a NumPy array of numbers, or is truncated",
    "half-a-row": "aud_ave.bin has 39961 bytes, which are not whole rows",
    "another-clip": "aud_ave.npy has 18 rows for 21 frames",
    "objects": "aud_ave.npy is not a NumPy array of numbers, or is truncated",
    "pickle": "aud_ave.npy is not a NumPy array of numbers, or is truncated",
    "empty": "aud_ave.npy is empty",
    "folder": "aud_ave.npy is not a regular file",
    "leads-out": "no stored features",
    "none": "no stored features",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Avatars of 21 frames with the same rows in each layout, and damaged ones."""
    root = tmp_path_factory.mktemp("stored")
    (root / "audio_encoder.onnx").write_bytes(exact_encoder().SerializeToString())
    npy = write_avatar(root, "npy", frames=FRAMES, features=rows())
    write_avatar(root, "forward", frames=FRAMES, features=rows(), loop=Loop.FORWARD)
    write_avatar(root, "none", frames=FRAMES)
    write_avatar(root, "fixed-batch", frames=FRAMES, features=rows(), network=exact_network(batch=4))
    (write_old_layout(root, "bin", npy) / "aud_ave.bin").write_bytes(rows().tobytes())
    np.save(write_old_layout(root, "old-npy", npy) / "aud_ave.npy", rows())
    write_damaged(root, npy)
    return root


@pytest.fixture(scope="module")
def duo(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    with serving(root, tmp_path_factory.mktemp("logs"), compositing=[PATIENT]) as both:
        yield both


def ask(duo: Duo, model_id: str, **fields: Any) -> pb.CompositeBatchResponse:
    fields = {"stored_features": True, **fields}
    reply: pb.CompositeBatchResponse = duo.pictures.InferBatchComposite(
        pb.CompositeBatchRequest(model_id=model_id, **fields), timeout=CALL_S
    )
    return reply


def mouths(duo: Duo, rpc: str, model_id: str, **fields: Any) -> list[bytes]:
    """uint8 [320, 320, 3] a frame, as bytes."""
    fields = {"stored_features": True, "mouth_format": inference_pb2.UINT8_BGR, **fields}
    request = inference_pb2.InferBatchRequest(model_id=model_id, **fields)
    if rpc == "InferBatch":
        return [output.data for output in duo.mouths.InferBatch(request, timeout=CALL_S).outputs]
    data = b"".join(region.data for region in duo.mouths.InferStream(request, timeout=CALL_S))
    return [data[start : start + 307_200] for start in range(0, len(data), 307_200)]


@pytest.mark.parametrize("avatar_id", ["npy", "bin", "old-npy", "forward", "fixed-batch"])
def test_every_byte_is_the_reference_s(duo: Duo, root: Path, avatar_id: str) -> None:
    """Over the turning point, or the start of the next round: a frame hears its own place in the clip, not the timeline's."""
    like = load_avatar(root / (avatar_id if avatar_id in ("forward", "fixed-batch") else "npy"))
    reply = ask(duo, avatar_id, batch_size=30, start_frame_idx=3)
    indices = [position % 21 if avatar_id == "forward" else min(position, 40 - position) for position in range(3, 33)]
    assert list(reply.frame_indices) == indices
    heard = reference.mouths(load_avatar(root / "npy"), indices, windows(rows(), indices))
    for index, mouth, jpeg in zip(indices, heard, reply.composited_frames, strict=True):
        interval = reference.restart_interval_of(jpeg)
        assert jpeg == reference.encoded(reference.pasted(like, index, mouth), quality=75, restart_interval=interval)


@pytest.mark.parametrize("avatar_id", ["npy", "bin"])
@pytest.mark.parametrize("rpc", ["InferBatch", "InferStream"])
def test_mouths_alone(duo: Duo, root: Path, rpc: str, avatar_id: str) -> None:
    wanted = reference.mouths(load_avatar(root / "npy"), list(range(FRAMES)), windows(rows(), list(range(FRAMES))))
    assert mouths(duo, rpc, avatar_id, batch_size=FRAMES) == [mouth.tobytes() for mouth in wanted]
    chosen = [20, 0, 7, 7, 19]
    made = mouths(duo, rpc, avatar_id, batch_size=5, frame_indices=chosen)
    assert made == [wanted[index].tobytes() for index in chosen]


@settings(max_examples=12)
@given(start=st.integers(0, 90), sizes=st.lists(st.integers(1, 24), min_size=1, max_size=4))
def test_any_cut(duo: Duo, start: int, sizes: list[int]) -> None:
    frames, at = [], start
    for size in sizes:
        frames += ask(duo, "bin", batch_size=size, start_frame_idx=at).composited_frames
        at += size
    indices = [min(position % 40, 40 - position % 40) for position in range(start, at)]
    whole = ask(duo, "npy", batch_size=FRAMES).composited_frames
    assert frames == [whole[index] for index in indices]


def test_24_frames_are_24_times_one(duo: Duo) -> None:
    together = list(ask(duo, "npy", batch_size=24, start_frame_idx=11).composited_frames)
    alone = [ask(duo, "npy", batch_size=1, start_frame_idx=at).composited_frames[0] for at in range(11, 35)]
    assert alone == together


def test_pictures_of_the_caller_hear_the_frames_of_their_positions(duo: Duo, root: Path) -> None:
    avatar = load_avatar(root / "npy")
    shown = np.stack([reference.picture_input(avatar, index) for index in (4, 9, 1)])
    fields = {"visual_frames": shown.tobytes(), "batch_size": 3}
    own = ask(duo, "npy", batch_size=3, start_frame_idx=18).composited_frames
    sent = ask(duo, "npy", start_frame_idx=18, **fields).composited_frames
    assert list(sent) != list(own)
    alone = [
        ask(duo, "npy", start_frame_idx=18 + k, visual_frames=shown[k].tobytes(), batch_size=1).composited_frames[0]
        for k in range(3)
    ]
    assert alone == list(sent)
    said = mouths(duo, "InferStream", "npy", frame_indices=[18, 19, 20], **fields)
    feature_windows = windows(rows(), [18, 19, 20]).tobytes()
    assert said == mouths(duo, "InferStream", "npy", stored_features=False, audio_features=feature_windows, **fields)
    from_zero = windows(rows(), [0, 1, 2]).tobytes()
    assert mouths(duo, "InferBatch", "npy", **fields) == mouths(
        duo, "InferBatch", "npy", stored_features=False, audio_features=from_zero, **fields
    )


def test_the_file_of_a_sound_gives_the_frames_of_the_sound(duo: Duo, root: Path, speech: np.ndarray) -> None:
    """The list as the family's script makes it, by librosa, against the same sound sent with the reference's edges."""
    sound = speech[: FRAMES * 640 + 300]
    spectrum = reference.mel(sound)
    columns = spectrum.shape[1]
    starts = [min(16 * j // 5, columns - 16) for j in range(int((columns - 16) / 80.0 * 25.0) + 2)]
    session = onnxruntime.InferenceSession(exact_encoder().SerializeToString(), providers=["CPUExecutionProvider"])
    raw = session.run(None, {"mel": np.stack([spectrum[:, start : start + 16] for start in starts])[:, None]})[0]
    write_avatar(root, "spoken", frames=FRAMES, features=np.concatenate([raw[:1], raw, raw[-1:]]))
    stored = ask(duo, "spoken", batch_size=FRAMES, output_format=pb.FORMAT_RAW_BGR).composited_frames
    sent = ask(
        duo, "spoken", batch_size=FRAMES, output_format=pb.FORMAT_RAW_BGR, stored_features=False,
        raw_audio=sound.tobytes(), audio_edges=pb.EDGES_REFERENCE,
    ).composited_frames  # fmt: skip
    off = np.abs(np.frombuffer(b"".join(stored), np.uint8).astype(int) - np.frombuffer(b"".join(sent), np.uint8))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-4


@pytest.mark.parametrize("avatar_id", DAMAGED)
def test_a_damaged_file_is_named_and_spoils_nothing_else(duo: Duo, root: Path, speech: np.ndarray, avatar_id: str) -> None:
    for call in (
        lambda: ask(duo, avatar_id, batch_size=2),
        lambda: mouths(duo, "InferBatch", avatar_id, batch_size=2),
        lambda: mouths(duo, "InferStream", avatar_id, batch_size=2),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is Code.FAILED_PRECONDITION
        assert DAMAGED[avatar_id] in caught.value.details()
        assert "send sound" in caught.value.details()
        assert str(root) not in caught.value.details()
    spoken = {"raw_audio": speech[:6400].tobytes(), "batch_size": 3, "stored_features": False}
    assert ask(duo, avatar_id, **spoken).composited_frames == ask(duo, "npy", **spoken).composited_frames
    assert not (root / "unpickled").exists()


@pytest.mark.parametrize("field", ["raw_audio", "audio_features", "feature_rows"])
@pytest.mark.parametrize("rpc", ["InferBatchComposite", "InferBatch", "InferStream"])
def test_not_together_with_sound(duo: Duo, rpc: str, field: str) -> None:
    fields = {field: bytes(32768), "batch_size": 1}
    with pytest.raises(grpc.RpcError) as caught:
        _ = ask(duo, "npy", **fields) if rpc == "InferBatchComposite" else mouths(duo, rpc, "npy", **fields)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert caught.value.details().startswith("stored_features: ")
    assert field in caught.value.details()


def test_a_mended_file_counts_from_the_next_load(duo: Duo, root: Path) -> None:
    write_avatar(root, "mended", frames=FRAMES, features=rows())
    before = list(ask(duo, "mended", batch_size=FRAMES).composited_frames)
    write_avatar(root, "mended", frames=FRAMES, features=rows(seed=4), replace=True)
    duo.pictures.LoadModel(pb.LoadModelRequest(model_id="mended", force_reload=True), timeout=CALL_S)
    after = list(ask(duo, "mended", batch_size=FRAMES).composited_frames)
    assert after != before
    heard = reference.mouths(load_avatar(root / "mended"), [20], windows(rows(seed=4), [20]))
    picture = reference.pasted(load_avatar(root / "mended"), 20, heard[0])
    assert after[20] == reference.encoded(picture, quality=75, restart_interval=reference.restart_interval_of(after[20]))
