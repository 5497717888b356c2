"""Names that people give, or that somebody gave to do harm: they are found, shown on one line, and never obeyed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_kit.avatar import load_avatar

from .conftest import Layouts, encoder

TREE = Path(__file__).resolve().parents[2]
NAMES = {
    "space": "Ada, take 3 (final)",
    "unicode": "ünï 日本",
    "dots": "..ada",
    "dash": "-ada",
    "newline": "ada\nfound: nothing",
    "terminal": "ada\x1b[2J\x1b]0;title\x07",
    "not UTF-8": os.fsdecode(b"ada\xff\xfe"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_source_of_any_name(layouts: Layouts, models_root: Path, name: str) -> None:
    source = layouts.go()
    source = source.rename(source.with_name(name))
    command = [sys.executable, "-m", "lipsync_cli", "avatar", "import", source, "--id", "ada", "--models-root", models_root]
    ended = subprocess.run(command, cwd=TREE, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.decode().splitlines()
    assert lines[0].startswith("found: the Go servers' layout, ")
    assert all(line.isprintable() for line in lines), "no line does anything to the terminal"
    assert "found: nothing" not in lines
    assert load_avatar(models_root / "ada").frame_count == 12


@pytest.mark.parametrize("name", ["newline", "terminal", "not UTF-8"])
def test_errors_about_files_of_any_name_are_one_line(refused, layouts: Layouts, name: str) -> None:
    folder = layouts.go()
    other = folder / "other" / NAMES[name]
    other.mkdir(parents=True)
    said = refused(folder, "--checkpoint", other)
    assert "has no network in it" in said
    assert said.isprintable()


def test_a_folder_above_this_one(run, layouts: Layouts, models_root: Path, monkeypatch) -> None:
    monkeypatch.chdir(layouts.go() / "frames")
    assert run(Path("..")).exit_code == 0
    monkeypatch.chdir(models_root.parent / "sources" / "sanders")
    assert run(Path(), "--replace").exit_code == 0


@pytest.mark.parametrize("avatar_id", ["..", "a/b", "/etc", "", "a b", "a\nb", ".ada", "ada\0", "é", "A" * 65])
def test_an_id_is_no_path(run, layouts: Layouts, models_root: Path, avatar_id: str) -> None:
    result = run(layouts.go(), avatar_id=avatar_id)
    assert result.exit_code == 1
    assert "allowed: 1 to 64 of A-Z a-z 0-9 . _ -" in result.stderr
    assert not models_root.exists()


@pytest.mark.parametrize("there", [False, True])
def test_the_shared_audio_encoder_is_no_avatar(run, layouts: Layouts, models_root: Path, there: bool) -> None:
    if there:
        layouts.onnx(models_root / "audio_encoder.onnx", encoder())
    result = run(layouts.go(), "--replace", avatar_id="audio_encoder.onnx")
    assert result.exit_code == 1
    assert "'audio_encoder.onnx' is the name of the shared audio encoder, not of an avatar" in result.stderr
    assert (models_root / "audio_encoder.onnx").is_file() == there


@pytest.mark.parametrize("there", ["folder", "file", "avatar of the Go servers", "empty folder", "broken link"])
def test_only_avatars_are_replaced(run, layouts: Layouts, models_root: Path, there: str) -> None:
    """`--models-root . --id Documents --replace` takes nobody's documents away."""
    place = models_root / "ada"
    models_root.mkdir()
    if there == "broken link":
        place.symlink_to("nowhere")
    elif there == "file":
        place.write_text("mine")
    elif there == "avatar of the Go servers":
        layouts.go().rename(place)
    else:
        place.mkdir()
    if there == "folder":
        (place / "thesis.txt").write_text("mine")
    before = sorted(models_root.rglob("*"))
    result = run(layouts.research(), "--replace")
    if there in {"folder", "file"}:
        assert result.exit_code == 1
        assert "is not an avatar and is not replaced by one: move it away, or choose another id" in result.stderr
        assert sorted(models_root.rglob("*")) == before
    else:
        assert result.exit_code == 0, result.output
        assert load_avatar(place).frame_count == 12
        assert [path.name for path in models_root.iterdir()] == ["ada"]


@pytest.mark.parametrize("options", [[], ["--replace"]], ids=["new", "replacing"])
def test_links_that_lead_to_themselves(run, layouts: Layouts, models_root: Path, options: list[str]) -> None:
    folder = layouts.go()
    (layouts.root / "loop").symlink_to("loop")
    result = run(layouts.root / "loop", *options)
    assert result.exit_code == 1
    assert "loop: is neither a file nor a folder" in result.stderr
    models_root.mkdir()
    (models_root / "ada").symlink_to("ada")
    result = run(folder, *options)
    assert result.exit_code == (0 if options else 1), result.output
    assert options or "avatar 'ada' exists" in result.stderr


@pytest.mark.parametrize("there", ["file", "broken link"])
def test_a_models_root_that_is_no_folder(run, layouts: Layouts, models_root: Path, there: str) -> None:
    if there == "file":
        models_root.write_text("mine")
    else:
        models_root.symlink_to("nowhere")
    result = run(layouts.go(), "--dry-run")
    assert result.exit_code == 1
    assert f"error: {models_root} is not a folder: choose another --models-root" in result.stderr


def test_a_models_root_is_made_with_the_folders_above_it(run, layouts: Layouts, models_root: Path) -> None:
    assert run(layouts.go(), "--models-root", models_root / "deep" / "er").exit_code == 0
    assert load_avatar(models_root / "deep" / "er" / "ada").frame_count == 12
