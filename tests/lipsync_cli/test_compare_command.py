"""`lipsync avatar inspect --compare`: films of two settings, decoded by PyAV and held to the avatar's own pictures."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from lipsync_cli.demo import face_of

FRAMES = 20
BAR = 56
BLOCKED = "import sys; sys.modules['onnxruntime'] = None; from lipsync_cli.main import main; main()"


@pytest.fixture(scope="module")
def models_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def avatar(models_root) -> Avatar:
    """20 frames whose network copies stored mouths and costs nothing; it bounces."""
    return build_benchmark(models_root, "ada", frame_count=FRAMES, network="free")


@pytest.fixture
def sound(tmp_path, wav) -> Path:
    """Half a second of noise."""
    return wav(tmp_path / "half.wav", np.random.default_rng(1).integers(-9000, 9000, (1, 8000)).astype(np.int16), 16_000)


@pytest.fixture
def compared(run, avatar, models_root, sound, tmp_path):
    """compared("paste=direct") -> the command's result, and the film's left and right halves without their labels."""

    def make(*settings: str, audio: Path = sound):
        film = tmp_path / "new" / "film.mp4"
        options = [part for setting in settings for part in ("--compare", setting)]
        result = run("avatar", "inspect", "ada", "--models-root", models_root, "--audio", audio, "--out", film, *options)
        assert result.exit_code == 0, result.output
        return result, *halves(film)

    return make


def halves(film: Path, *, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of the pictures from `first` on: uint8 [pictures, rows, columns, 3], in BGR order."""
    with av.open(str(film)) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        shown = itertools.islice(container.decode(video=0), first, None)
        pictures = np.stack([frame.to_ndarray(format="bgr24") for frame in shown])
    width = (pictures.shape[2] - 8) // 2
    return pictures[:, :, :width], pictures[:, :, -width:]


def shown_frames(avatar: Avatar, half: np.ndarray) -> list[int]:
    """Index of the avatar's frame that each picture shows, judged by the parts around the mouth.

    It is the frame whose differences from the mean of all are most alike. The film's compression leaves little in a pixel.
    """
    x1, y1, x2, y2 = face_of(avatar)
    height, width = half.shape[1] - BAR, half.shape[2]
    part = np.s_[: height // 3]  # the mouth lies in the lower part
    faces = [
        cv2.resize(avatar.read_frame(index)[y1:y2, x1:x2], (width, height), interpolation=cv2.INTER_CUBIC)
        for index in range(FRAMES)
    ]
    known = np.stack([face[part].astype(np.float32).ravel() for face in faces])
    mean = known.mean(axis=0)
    own = known - mean
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return [int((own @ (one[BAR:][part].ravel() - mean)).argmax()) for one in half]


def test_both_halves_show_the_same_frames_and_pastes_that_differ(compared, avatar) -> None:
    result, left, right = compared("paste=direct")
    assert len(left) == 13
    assert "film.mp4: 13 frames" in result.stdout
    assert shown_frames(avatar, left) == shown_frames(avatar, right) == list(range(13))
    difference = np.abs(left[:, BAR:].astype(int) - right[:, BAR:]).max(axis=(0, 3))
    height = difference.shape[0]
    assert difference[: height // 3].max() < 40, "around the mouth there is but the film's compression"
    assert difference[height // 2 :].max() > 60


def test_each_half_says_what_it_shows(compared) -> None:
    _, left, right = compared("paste=feather", "mask=5,5,310,315")
    labels = [half[0, :BAR].astype(int) for half in (left, right)]
    assert all((label.max(axis=2) > 200).mean() > 0.02 for label in labels)
    assert np.abs(labels[0] - labels[1]).max() > 150
    assert np.abs(left[0, :BAR].astype(int) - left[-1, :BAR]).max() < 60, "all along the film"


def test_a_comparison_of_loops_has_the_clips_end_in_its_middle(compared, avatar) -> None:
    result, left, right = compared("loop=forward")
    forth = list(range(13, 20))
    assert shown_frames(avatar, left) == [*forth, 18, 17, 16, 15, 14, 13]
    assert shown_frames(avatar, right) == [*forth, 0, 1, 2, 3, 4, 5]
    assert "starts at frame 13" in result.stdout


@pytest.mark.slow
def test_a_comparison_of_idling_says_the_shipped_speech_and_goes_on_without(
    run, avatar, models_root, sound, tmp_path, monkeypatch
) -> None:
    """The shipped speech is a short one here: what follows it is looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("avatar_tools.demo.SPEECH_PATH", sound)
    result = run("avatar", "inspect", "ada", "--models-root", models_root, "--compare", "idle=10,12")
    assert result.exit_code == 0, result.output
    left, right = halves(tmp_path / "ada-compared.mp4", first=13 + 150)
    assert len(left) == 50
    assert "ends with 8 s without speech" in result.stdout
    assert set(shown_frames(avatar, right)) == {10, 11, 12}
    assert set(shown_frames(avatar, left)) == set(range(FRAMES))


@pytest.mark.slow
def test_a_comparison_of_idle_mouths_differs_after_the_speech_and_at_the_mouth_alone(compared, avatar) -> None:
    result, left, right = compared("idle_mouth=stored")
    assert len(left) == 13 + 200
    assert "ends with 8 s without speech" in result.stdout
    assert shown_frames(avatar, left) == shown_frames(avatar, right)
    differences = [cv2.absdiff(one[BAR:], other[BAR:]) for one, other in zip(left, right, strict=True)]
    height = len(differences[0])
    assert max(each[: height // 3].max() for each in differences) < 40, "around the mouth there is but the film's compression"
    mouths = [each[height // 2 :].mean() for each in differences]
    assert max(mouths[:13]) * 3 < min(mouths[-50:])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["paste"], ["'paste': expected SETTING=VALUE"]),
        (["network=other.onnx"], ["one of loop, paste, mask, reference, idle, idle_mouth"]),
        (["model_path=/etc/passwd"], ["expected SETTING=VALUE"]),
        (["paste=soft"], ["paste=soft: Input should be 'reference', 'feather' or 'direct'"]),
        (["mask=1,2,3"], ["expected four whole numbers"]),
        (["mask=0,0,900,900"], ["must cover something and lie inside 320x320"]),
        (["reference=fixed:"], ["expected current, or fixed:"]),
        (["reference=fixed:20"], ["the avatar has frames 0 to 19"]),
        (["idle=5,40"], ["the avatar has frames 0 to 19"]),
        (["paste=reference"], ["nothing to compare: the avatar has paste reference already"]),
        (["paste=feather", "paste=direct"], ["paste is given twice"]),
        (["paste=soft", "loop=round", "speed"], ["paste=soft", "loop=round", "'speed'"]),
    ],
)
def test_what_can_not_be_compared_is_said_at_once(run, avatar, models_root, tmp_path, settings, says) -> None:
    film = tmp_path / "film.mp4"
    options = [part for setting in settings for part in ("--compare", setting)]
    result = run("avatar", "inspect", "ada", "--models-root", models_root, "--out", film, *options)
    assert result.exit_code == 1
    assert result.stderr.lstrip().startswith("error: ")
    assert all(part in result.stderr for part in says), result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--compare", "paste=feather", "--out", "film.png"], 2, "does not end in .mp4"),
        (["--audio", "a.wav"], 2, "goes with --compare"),
        (["--compare", "paste=feather", "--audio", "missing.wav"], 1, "missing.wav"),
    ],
)
def test_options_that_do_not_go_together(run, avatar, models_root, tmp_path, monkeypatch, options, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("avatar", "inspect", "ada", "--models-root", models_root, *options)
    assert result.exit_code == code
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_avatar_that_is_not_there(run, tmp_path) -> None:
    result = run("avatar", "inspect", "nobody", "--models-root", tmp_path, "--compare", "paste=feather")
    assert (result.exit_code, "nobody" in result.stderr) == (1, True)


def test_without_onnxruntime_the_extra_is_named(start, avatar, models_root) -> None:
    asked = ["avatar", "inspect", "ada", "--models-root", models_root]
    process = start(*asked, "--compare", "paste=feather", command=(sys.executable, "-c", BLOCKED))
    assert process.wait(60) == 1
    assert process.stderr.read().rstrip().endswith("pip install 'lipsync-serving[cpu]', on a machine with a GPU [gpu]")


def test_the_sheet_says_so_too(start, avatar, models_root, tmp_path) -> None:
    sheets = []
    for command in ((sys.executable, "-c", BLOCKED), (sys.executable, "-m", "lipsync_cli")):
        process = start("avatar", "inspect", "ada", "--models-root", models_root, command=command)
        assert process.wait(60) == 0, process.stderr.read()
        sheets.append(cv2.imread(str(tmp_path / "ada.png")))
    refused, whole = sheets
    assert whole.shape[0] > refused.shape[0] + 500, "the border takes its place when it can be shown"
    red = (np.abs(refused[-80:].astype(int) - (80, 80, 235)).max(axis=2) < 12).mean()
    assert red > 0.002
