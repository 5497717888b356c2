"""`lipsync render --stored-features`: a film of the avatar's own clip, without a sound track."""

from __future__ import annotations

import av
import cv2
import pytest


def test_the_whole_clip_once(run, film_service, tmp_path):
    film_service.flashes = {3}
    film, strip = tmp_path / "film.mp4", tmp_path / "film.png"
    result = run(
        "render", "--avatar", "demo", "--stored-features", "--out", film, "--server", film_service.target, "--strip", strip
    )
    assert result.exit_code == 0, result.output
    with av.open(str(film)) as container:
        assert not container.streams.audio
        brightness = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert [k for k, value in enumerate(brightness) if value > 128] == [3]
    assert len(brightness) == film_service.clip_frames
    assert cv2.imread(str(strip)) is not None
    assert "1.08 s, 27 frames" in result.stdout
    assert all(request.stored_features and not request.raw_audio for request in film_service.requests)


def test_as_many_frames_as_asked_for(run, film_service, tmp_path):
    arguments = ("--avatar", "demo", "--out", tmp_path / "film.mp4", "--server", film_service.target, "--quality", "low")
    result = run("render", "--stored-features", "--frames", 31, *arguments)
    assert result.exit_code == 0, result.output
    assert sum(request.batch_size for request in film_service.requests) == 31
    assert "1.24 s, 31 frames" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--avatar", "demo"), 2, "give it, or --stored-features, and not both"),
        (("--avatar", "demo", "--audio", "speech.wav", "--stored-features"), 2, "give it, or --stored-features, and not both"),
        (("--avatar", "demo", "--audio", "speech.wav", "--frames", 3), 2, "goes with --stored-features alone"),
        (("--avatar", "demo", "--stored-features", "--frames", 0), 2, "greater than or equal to 1"),
        (("--avatar", "nobody", "--stored-features"), 1, "has no avatar 'nobody'; there are torn, demo, old"),
        (("--avatar", "torn", "--stored-features"), 1, "cannot serve 'torn': frame 3 is missing"),
        (("--avatar", "old", "--stored-features"), 1, "does not say how many frames 'old' has; give --frames"),
        (("--avatar", "none", "--stored-features", "--frames", 2), 1, "NOT_FOUND: no avatar has the id 'none'"),
    ],
    ids=str,
)
def test_errors_are_one_sentence_and_leave_nothing(run, film_service, tmp_path, arguments, code, words):
    result = run("render", *arguments, "--out", tmp_path / "film.mp4", "--server", film_service.target)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
