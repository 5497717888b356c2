"""Checks everything about an avatar that serving relies on, and names all problems at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.cores import usable_cores
from avatar_kit.errors import AvatarError, BrokenAvatar, as_broken_avatar, shortened
from avatar_kit.features import MISSING_ROWS, map_features
from avatar_kit.frames import PictureFrames
from avatar_kit.legacy import NETWORK_PLACE, is_legacy, load_legacy
from avatar_kit.limits import max_picture_bytes
from avatar_kit.manifest import FRAMES_FOLDER, MANIFEST_NAME, Manifest, read_manifest
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_kit.pictures import decode_picture
from avatar_kit.safe_files import FileProblem, check_regular, contained, read_bounded
from avatar_kit.upright import decode_upright
from avatar_tools.checksums import checksum_problems
from avatar_tools.facts import avatar_facts, memory_bytes
from avatar_tools.network_trial import try_encoder, try_network
from avatar_tools.onnx_sessions import OnnxRuntimeMissing
from avatar_tools.progress import Progress, silent
from avatar_tools.rect_motion import motion_warnings
from avatar_tools.reference_videos import compare_videos
from avatar_tools.video_check import check_video


@dataclass(frozen=True, slots=True)
class Report:
    """The findings. `problems` keep the avatar, or part of it, from being served; `warnings` name faults that may be seen."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: dict[str, str]
    memory_bytes: dict[str, int]
    """An estimate of each service's memory for the avatar; empty when it cannot be loaded."""

    @property
    def ok(self) -> bool:
        """The avatar can be served."""
        return not self.problems


def verify_avatar(
    avatar: Avatar | Path, *, audio_encoder: Path | None = None, run_networks: bool = True, progress: Progress = silent
) -> Report:
    """Checks an avatar, or the folder of one, completely. Never raises for a fault of the avatar.

    `audio_encoder`: the shared one, by default audio_encoder.onnx beside the avatar's folder; an avatar's own takes precedence.
    `run_networks`: also runs the networks on a few frames, where onnxruntime is installed. Takes about 10 ms a frame on one core.
    """
    return _Verification(audio_encoder, run_networks, progress).of(avatar)


@dataclass(slots=True)
class _Verification:
    """One run of checks, each of which adds to the findings."""

    audio_encoder: Path | None
    run_networks: bool
    progress: Progress
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)

    def of(self, subject: Avatar | Path) -> Report:
        folder = subject if isinstance(subject, Path) else subject.root
        avatar = self._loaded(folder) if isinstance(subject, Path) else subject
        manifest = self._manifest(folder)
        checks: list[Callable[[], object]] = []
        if avatar is not None:
            steps = (
                self._check_frames,
                self._check_networks,
                self._check_features,
                self._check_motion,
                self._check_videos,
                self._collect_facts,
            )
            checks += [partial(step, avatar) for step in steps]
        elif manifest is not None:
            checks.append(partial(self._check_remains, folder, manifest))
        if manifest is not None:
            checks.append(partial(self._check_checksums, folder, manifest))
        for check in checks:
            self._run(check)
        return Report(tuple(dict.fromkeys(self.problems)), tuple(self.warnings), self.facts, self.memory_bytes)

    def _run(self, check: Callable[[], object]) -> None:
        """Adds the problems that a check raises, also unforeseen ones, so that the other checks still run."""
        try:
            with as_broken_avatar():
                check()
        except AvatarError as error:
            self.problems += error.problems

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Adds the problem that a file of that name has."""
        try:
            yield
        except FileProblem as problem:
            self.problems += problem.of(name)

    def _loaded(self, folder: Path) -> Avatar | None:
        try:
            if os.path.lexists(folder / MANIFEST_NAME):
                return load_avatar(folder)
            if not is_legacy(folder):
                raise BrokenAvatar(f"{folder.name} is no avatar: it has neither {MANIFEST_NAME} nor {NETWORK_PLACE.as_posix()}")
            return load_legacy(folder.parent, folder.name, None)
        except AvatarError as error:
            self.problems += error.problems
            return None

    def _manifest(self, folder: Path) -> Manifest | None:
        """None for an avatar without one, and for a broken one, which loading has reported."""
        if not os.path.lexists(folder / MANIFEST_NAME):
            return None
        try:
            manifest = read_manifest(folder)
        except BrokenAvatar:
            return None
        if manifest.id != folder.name:
            self.warnings.append(f"{MANIFEST_NAME} says id {manifest.id!r}; the folder's name {folder.name!r} is what counts")
        return manifest

    def _check_frames(self, avatar: Avatar) -> None:
        if avatar.video:
            self._check_video(avatar.video.place, avatar.width, avatar.height, avatar.video.count)
        else:
            upright = isinstance(avatar.frames, PictureFrames) and avatar.frames.upright
            decode = decode_upright if upright else decode_picture
            self._check_pictures(avatar.frame_paths, avatar.width, avatar.height, decode)

    def _check_video(self, path: Path, width: int, height: int, frame_count: int) -> None:
        with self._naming(path.name):
            count = check_video(path, width=width, height=height, progress=partial(self.progress, "frames"))
            if count != frame_count:
                self.problems.append(f"{path.name} has {count} frames, the avatar has {frame_count}")

    def _check_pictures(
        self, paths: Sequence[Path], width: int, height: int, decode: Callable[..., object] = decode_picture
    ) -> None:
        """Decodes every frame. OpenCV and the second decoder release the interpreter's lock, so threads help."""
        found: list[str] = []
        with ThreadPoolExecutor(usable_cores()) as pool:
            checks = pool.map(lambda path: _picture_problems(path, width, height, decode), paths)
            for done, problems in enumerate(checks, start=1):
                found += problems
                self.progress("frames", done, len(paths))
        self.problems += shortened(found)

    def _check_networks(self, avatar: Avatar) -> None:
        encoder = avatar.audio_encoder_path or self.audio_encoder or avatar.root.parent / AUDIO_ENCODER_NAME
        if not encoder.is_file():
            self.warnings.append(f"no audio encoder: the avatar has none of its own and {encoder.name} is not there")
        self._run(partial(network_io, avatar.network_path))
        if encoder.is_file():
            self._run(partial(encoder_io, encoder))
        if not self.run_networks or self.problems:
            return
        last = avatar.frame_count - 1
        try:
            self._add(*try_network(avatar, tuple(sorted({0, last // 2, last}))))
            if encoder.is_file():
                self._add(*try_encoder(encoder))
        except OnnxRuntimeMissing:
            self.warnings.append("the networks were not run: onnxruntime is not installed")

    def _add(self, problems: list[str], warnings: list[str]) -> None:
        self.problems += problems
        self.warnings += warnings

    def _check_features(self, avatar: Avatar) -> None:
        if avatar.features_path is None:
            return
        name = avatar.features_path.name
        with self._naming(name):
            rows = len(map_features(avatar.features_path, frame_count=avatar.frame_count))
            self.facts["audio features"] = f"{name}, {rows} rows"
            if abs(rows - avatar.frame_count) > MISSING_ROWS:
                self.warnings.append(f"{name} has {rows} rows for {avatar.frame_count} frames: it may belong to another clip")

    def _check_motion(self, avatar: Avatar) -> None:
        self.warnings += motion_warnings(avatar.rects, loop=avatar.loop, width=avatar.width, height=avatar.height)

    def _check_videos(self, avatar: Avatar) -> None:
        with suppress(BrokenAvatar):  # of a frame, which has been reported
            warnings, facts = compare_videos(avatar)
            self.warnings += warnings
            self.facts |= facts

    def _collect_facts(self, avatar: Avatar) -> None:
        self.facts |= avatar_facts(avatar)
        with suppress(BrokenAvatar):  # of the network, which has been reported
            self.memory_bytes = memory_bytes(avatar)

    def _check_remains(self, folder: Path, manifest: Manifest) -> None:
        """Checks the files of an avatar that cannot be loaded: it may have other faults than the one that stopped the loading."""
        if manifest.files.background_video is None:
            pictures = sorted(path for path in (folder / FRAMES_FOLDER).glob("frame_*") if path.is_file())
            self._check_pictures(pictures, manifest.width, manifest.height)
        elif video := _present(folder, manifest, "background_video"):
            self._check_video(video, manifest.width, manifest.height, manifest.frame_count)
        if network := _present(folder, manifest, "network"):
            self._run(partial(network_io, network))

    def _check_checksums(self, folder: Path, manifest: Manifest) -> None:
        """Leaves out the files that other checks found bad: they have changed too, which need not be said."""
        bad = {problem.partition(" ")[0].rstrip(":") for problem in self.problems}
        self.problems += [problem for problem in checksum_problems(folder, manifest) if problem.partition(" ")[0] not in bad]


def _present(folder: Path, manifest: Manifest, role: str) -> Path | None:
    """The file of that role; None when it is missing, outside the folder or too large, which loading has reported."""
    try:
        path = contained(folder, getattr(manifest.files, role).path)
        check_regular(path, manifest.most_bytes(role))
    except FileProblem:
        return None
    return path


def _picture_problems(path: Path, width: int, height: int, decode: Callable[..., object]) -> list[str]:
    try:
        decode(read_bounded(path, max_picture_bytes(width, height)), width=width, height=height, thorough=True)
    except FileProblem as problem:
        return problem.of(f"{path.parent.name}/{path.name}")
    return []
