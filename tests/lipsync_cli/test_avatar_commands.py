"""`lipsync avatar`: lists, checks and shows what lies on disk, whole or broken."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter


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
    assert good == ["good", "5", "320x240", "0.2", "s", "bounce", "reference", "good"]
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


def test_verify_tells_everything_and_its_code_is_honest(run, models_root):
    result = run("avatar", "verify", "torn", "--models-root", models_root)
    assert result.exit_code == 1
    assert "problem: " in result.stdout
    assert "torn cannot be served" in result.stdout


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize(
    ("avatar_id", "words"), [("nobody", "nobody"), ("../good", "../good"), ("", "is empty")], ids=["unknown", "path", "empty"]
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
