"""`lipsync avatar`: lists, checks and shows what lies on disk, whole or broken."""

from __future__ import annotations

import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest

from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter
from avatar_tools.benchmark_avatar import build_benchmark


@pytest.fixture
def models_root(tmp_path):
    """One avatar that loads, though its network is none, and one that does not."""
    jpeg = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes()
    for name in ("good", "torn"):
        with AvatarWriter(tmp_path, name, width=320, height=240) as writer:
            for _ in range(5):
                writer.add_frame(jpeg, Rect(100, 80, 180, 160))
            writer.set_network(b"no network")
            writer.finish()
    (tmp_path / "torn" / "frames" / "frame_000002.jpg").unlink()
    return tmp_path


def test_list_for_people(run, models_root):
    result = run("avatar", "list", "--models-root", models_root)
    assert result.exit_code == 0
    good, torn = [line.split() for line in result.stdout.splitlines() if line.strip().startswith(("good", "torn"))]
    assert good == ["good", "5", "320x240", "0.2", "s", "bounce", "reference", "rest", "good"]
    assert torn[-3:] == ["2", "is", "missing"]


def test_list_for_programs(run, models_root):
    result = run("avatar", "list", "--models-root", models_root, "--json")
    good, torn = json.loads(result.stdout)
    assert good == {
        "id": "good",
        "frames": 5,
        "width": 320,
        "height": 240,
        "fps": 25.0,
        "loop": "bounce",
        "paste": "reference",
        "idle_mouth": "rest",
        "error": "",
    }
    assert torn["id"] == "torn"
    assert "frame 2 is missing" in torn["error"]


def test_an_empty_folder_is_no_error_and_a_missing_one_is(run, tmp_path):
    (tmp_path / "empty").mkdir()
    empty = run("avatar", "list", "--models-root", tmp_path / "empty")
    assert (empty.exit_code, "there are no avatars" in empty.stdout) == (0, True)
    assert json.loads(run("avatar", "list", "--models-root", tmp_path / "empty", "--json").stdout) == []
    missing = run("avatar", "list", "--models-root", tmp_path / "missing")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "missing is not a folder" in missing.stderr


def test_the_demo_is_built_into_an_empty_folder_alone_where_that_is_asked(run, tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".demo.0123456789ab.partial").mkdir()
    assert run("avatar", "demo", "--if-empty", "--models-root", tmp_path).exit_code == 0
    shutil.move(tmp_path / "demo", tmp_path / "ada")
    again = run("avatar", "demo", "--if-empty", "--models-root", tmp_path)
    assert (again.exit_code, "nothing was built" in again.stdout) == (0, True)
    assert not (tmp_path / "demo").exists()


def test_verify_tells_everything_and_its_code_is_honest(run, models_root):
    result = run("avatar", "verify", "torn", "--models-root", models_root)
    assert result.exit_code == 1
    assert "problem: " in result.stdout
    assert "torn cannot be served" in result.stdout


@pytest.fixture
def whole(tmp_path):
    """An avatar that can be served, of six frames."""
    return build_benchmark(tmp_path / "whole", "ada", frame_count=6, network="free")


def verified(run, avatar):
    result = run("avatar", "verify", "ada", "--models-root", avatar.root.parent, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_verify_for_programs(run, whole):
    code, told = verified(run, whole)
    assert code == 0
    assert list(told) == ["id", "ok", "problems", "warnings", "facts", "memory_bytes"]
    assert (told["id"], told["ok"], told["problems"], told["warnings"]) == ("ada", True, [], [])
    assert told["facts"]["clip"].startswith("6 frames")
    assert set(told["memory_bytes"]) == {"compositing", "inference_crops"}
    assert min(told["memory_bytes"].values()) > 6 * 180 * 180 * 3, "what lies around the mouths, and the pictures"


def change_a_frame(avatar):
    path = avatar.frame_paths[3]
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xff\xd9") - 40] ^= 1
    path.write_bytes(data)


def take_a_frame_away(avatar):
    avatar.frame_paths[5].unlink()


def put_a_smaller_frame_in(avatar):
    avatar.frame_paths[2].write_bytes(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())


def cut_the_network_off(avatar):
    avatar.network_path.write_bytes(avatar.network_path.read_bytes()[:1000])


def move_a_rectangle(avatar, *, rect):
    rects = json.loads(avatar.rects_path.read_text())
    avatar.rects_path.write_text(json.dumps([*rects[:4], rect, *rects[5:]]))


def leave_only_the_manifest(avatar):
    shutil.rmtree(avatar.root / "frames")
    avatar.network_path.unlink()


@pytest.mark.parametrize(
    ("harm", "problems"),
    [
        (change_a_frame, ["frames/frame_000003.jpg has changed"]),
        (take_a_frame_away, ["5 pictures, but avatar.yaml says frame_count 6"]),
        (put_a_smaller_frame_in, ["frames/frame_000002.jpg is 64x64"]),
        (cut_the_network_off, ["network.onnx is not an ONNX file"]),
        (partial(move_a_rectangle, rect=[1200, 300, 1300, 400]), ["frame 4: [1200, 300, 1300, 400] is not inside"]),
        (partial(move_a_rectangle, rect=[20, 20, 200, 200]), ["crop_rects.json has changed"]),
        (leave_only_the_manifest, ["frames", "network.onnx"]),
    ],
)
def test_what_keeps_an_avatar_from_being_served_is_named(run, whole, harm, problems):
    harm(whole)
    code, told = verified(run, whole)
    assert (code, told["ok"]) == (1, False)
    assert all(any(part in problem for problem in told["problems"]) for part in problems), told["problems"]
    assert str(whole.root) not in json.dumps(told)


def test_rectangles_that_jump_are_warned_of(run, whole):
    move_a_rectangle(whole, rect=[20, 20, 200, 200])
    _, told = verified(run, whole)
    assert [warning.partition(" by ")[0] for warning in told["warnings"]] == [
        "frame 4: the rectangle jumps",
        "frame 5: the rectangle jumps",
    ]


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize(
    ("avatar_id", "words"),
    [("nobody", "no avatar 'nobody' in "), ("goood", "did you mean 'good'?"), ("../good", "../good"), ("", "is empty")],
    ids=["unknown", "misspelt", "path", "empty"],
)
def test_ids_that_no_avatar_has(run, models_root, command, avatar_id, words):
    result = run("avatar", command, avatar_id, "--models-root", models_root)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert words in result.stderr


def test_inspect_writes_a_contact_sheet(run, models_root, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = run("avatar", "inspect", "good", "--models-root", models_root, "--out", sheet)
    assert result.exit_code == 0, result.output
    assert cv2.imread(str(sheet)).shape[1] > 1000
    assert "320x240" in result.stdout


def test_an_id_that_is_taken_is_refused(run, models_root):
    result = run("avatar", "demo", "--id", "good", "--models-root", models_root)
    assert result.exit_code == 1
    assert "good" in result.stderr
    assert "Traceback" not in result.stderr
