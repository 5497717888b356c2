"""An import that ends early, for whatever reason, leaves no trace, and the avatar that was there stays as it was."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avatar_kit.writer import AvatarWriter
from avatar_tools.importing import ImportOptions, ImportRefused, plan_import, run_import

from .conftest import Layouts, jpeg, network, square, write_video

TREE = Path(__file__).resolve().parents[2]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def shaken(layouts: Layouts, models_root: Path) -> Callable[[BaseException], None]:
    """Runs an import that is struck by an exception after the fifth frame."""

    def strike(blow: BaseException) -> None:
        plan = plan_import(ImportOptions(layouts.research(), "ada", models_root, replace=True))

        def progress(what: str, done: int, _total: int) -> None:
            if what == "frames" and done == 5:
                assert list(models_root.glob(".ada.*.partial/frames/frame_00000[0-4].jpg"))
                raise blow

        with pytest.raises(type(blow)):
            run_import(plan, progress)

    return strike


@pytest.mark.parametrize("blow", [KeyboardInterrupt(), SystemExit(143), RuntimeError("lights out"), MemoryError()], ids=repr)
def test_nothing_is_left_of_an_interrupted_import(shaken, models_root: Path, blow: BaseException) -> None:
    shaken(blow)
    assert not models_root.exists(), "the models root was made for it"


def test_a_models_root_with_something_in_it_stays(shaken, models_root: Path) -> None:
    models_root.mkdir()
    (models_root / "notes").write_text("mine")
    shaken(KeyboardInterrupt())
    assert [path.name for path in models_root.iterdir()] == ["notes"]


def test_the_avatar_that_was_to_be_replaced_is_as_it_was(run, layouts, shaken, models_root: Path) -> None:
    run(layouts.go())
    before = everything(models_root)
    shaken(KeyboardInterrupt())
    assert everything(models_root) == before


def test_a_taken_id_needs_replace(run, refused, layouts, models_root: Path) -> None:
    assert run(layouts.research()).exit_code == 0
    before = everything(models_root)
    assert "avatar 'ada' exists: replace it (--replace), or choose another id" in refused(layouts.go())
    assert everything(models_root) == before
    assert run(layouts.go(), "--replace").exit_code == 0
    assert everything(models_root) != before
    assert sorted(path.name for path in models_root.iterdir()) == ["ada"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_process_that_is_asked_to_stop_leaves_nothing(layouts, models_root: Path, number: signal.Signals, code: int) -> None:
    """The signal comes when the first frame has been written."""
    source = layouts.research(count=3000)
    command = [sys.executable, "-m", "lipsync_cli", "avatar", "import", source, "--id", "ada", "--models-root", models_root]
    with subprocess.Popen(command, cwd=TREE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not any(models_root.glob(".ada.*.partial/frames/*")):
            os.sched_yield()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert b"Traceback" not in said
    assert process.returncode == code
    assert not models_root.exists()


def test_what_a_killed_import_left_is_cleared_by_the_next(run, layouts, models_root: Path) -> None:
    left = models_root / ".ada.0123456789ab.partial" / "frames"
    left.mkdir(parents=True)
    (left / "frame_000000.jpg").write_bytes(jpeg(0))
    of_another = models_root / ".bea.0123456789ab.partial"
    of_another.mkdir()
    assert run(layouts.go()).exit_code == 0
    assert sorted(path.name for path in models_root.iterdir()) == [of_another.name, "ada"]


def test_an_import_that_is_running_is_not_cleared_by_another(run, layouts, models_root: Path) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96):
        [partial] = models_root.iterdir()
        assert run(layouts.go()).exit_code == 0
        assert partial.is_dir()
    assert [path.name for path in models_root.iterdir()] == ["ada"]


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system that is soon full. Skips where none may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_full_disk(layouts: Layouts) -> None:
    with small_disk("64k") as disk:
        (disk / "notes").write_text("mine")
        plan = plan_import(ImportOptions(layouts.research(count=100), "ada", disk))
        with pytest.raises(ImportRefused, match=r"cannot be written to .*No space left on device; nothing was kept; make room"):
            run_import(plan)
        assert [path.name for path in disk.iterdir()] == ["notes"]


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_video_whose_frames_do_not_fit_is_refused_before_they_are_written(layouts: Layouts, tmp_path: Path) -> None:
    with small_disk("1m") as disk:
        video = write_video(tmp_path / "take.mp4", 100, rate=5)
        rects = tmp_path / "rects.json"
        rects.write_text(json.dumps([square(index) for index in range(100)]))
        net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
        plan = plan_import(ImportOptions(video, "ada", disk, checkpoint=net, rectangles=rects))
        with pytest.raises(ImportRefused, match=r"would take some .* GB in .*, where .* GB are free; nothing was kept"):
            run_import(plan)
        assert list(disk.iterdir()) == []


def test_a_limit_on_the_size_of_files(refused, layouts, models_root: Path) -> None:
    """Fails a write as a full disk or a quota does, where no disk can be filled."""
    folder = layouts.research()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        said = refused(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"the avatar cannot be written to {models_root}: File too large; nothing was kept" in said


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], object]]:
    """A way to give up the rights of root, for which permissions do not count; they come back at the end."""
    if os.geteuid():
        yield lambda: None
        return
    yield lambda: os.seteuid(65534)
    os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that others may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_models_root_that_can_not_be_written_to(open_place: Path, unprivileged) -> None:
    source = Layouts(open_place / "sources").research()
    root = open_place / "models"
    root.mkdir(0o555)
    plan = plan_import(ImportOptions(source, "ada", root))
    unprivileged()
    with pytest.raises(ImportRefused, match=r"cannot be written to .*models: Permission denied; nothing was kept"):
        run_import(plan)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("path", ["full_body_img/5.jpg", "landmarks/5.lms", "full_body_img", "landmarks"])
def test_a_source_that_can_not_be_read(open_place: Path, unprivileged, path: str) -> None:
    source = Layouts(open_place / "sources").research()
    root = open_place / "models"
    root.mkdir(0o777)
    root.chmod(0o777)
    (source / path).chmod(0)
    unprivileged()
    with pytest.raises(ImportRefused, match=r"Permission denied|has no frames"):
        run_import(plan_import(ImportOptions(source, "ada", root)))
    assert list(root.iterdir()) == []
