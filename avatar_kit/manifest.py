"""Reads `avatar.yaml`, the manifest of format version 1, from untrusted sources, and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator

from avatar_kit.errors import BrokenAvatar, as_broken_avatar, cut, shortened, shown
from avatar_kit.geometry import Mask, Paste
from avatar_kit.ids import AvatarId
from avatar_kit.limits import MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, max_rects_bytes, max_sums_bytes, max_video_bytes
from avatar_kit.number_lists import whole_numbers
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.pictures import size_problem
from avatar_kit.reference_frame import Reference
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_kit.timeline import FrameRange, IdleMouth, Loop

MANIFEST_NAME = "avatar.yaml"
FRAMES_FOLDER = "frames"
FORMAT_VERSION = 1
FPS = 25.0
_LARGEST_NUMBER = 2**53
_DEEPEST = 8  # lists in lists

_HEADING = "# A lip-sync avatar. `lipsync avatar verify` compares the folder with this file, `lipsync avatar inspect` shows it.\n"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class FileEntry(_Part):
    """One file of the avatar."""

    path: str = Field(min_length=1, max_length=200)
    """Relative to the avatar's folder; must be inside it."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its content, in hexadecimal. Compared by verifying, not at every load."""


class FileEntries(_Part):
    """The files of the avatar other than the pictures themselves."""

    network: FileEntry
    """The lip-sync network, ONNX."""

    crop_rects: FileEntry
    """JSON array of [x1, y1, x2, y2], one a frame, half open."""

    frame_checksums: FileEntry | None = None
    """The SHA-256 of every picture, in the format of the sha256sum tool. For pictures in files."""

    background_video: FileEntry | None = None
    """The video that holds the pictures instead of files, at a constant 25 a second."""

    audio_encoder: FileEntry | None = None
    """The avatar's own audio encoder, ONNX. Without it the shared one is used."""

    features: FileEntry | None = None
    """The clip's own audio features, NumPy float32 [rows, 512]."""

    @model_validator(mode="after")
    def _frames_once(self) -> Self:
        if self.frame_checksums is None and self.background_video is None:
            raise ValueError("frame_checksums is missing, or background_video: the frames are pictures or in a video")
        if self.frame_checksums and self.background_video:
            raise ValueError("frame_checksums and background_video: the frames are pictures or in a video, not both")
        return self


def mask_from_list(value: object) -> object:
    """Parses a mask from YAML or a command line; for pydantic, which reports the ValueError."""
    if isinstance(value, Mask):
        return value
    if numbers := whole_numbers(value, 4):
        return Mask(*numbers)
    raise ValueError("expected four whole numbers: x, y, width, height")


class Manifest(_Part):
    """The content of `avatar.yaml`."""

    format_version: Literal[1]
    """Version of this format."""

    id: AvatarId
    """The id that the avatar was built under. Its folder's name is the id in use."""

    fps: float
    """Frames a second. Only 25 can be served: the networks of this family take one row of audio a frame, 25 a second."""

    frame_count: StrictInt = Field(ge=1, le=MAX_FRAMES)
    """Number of pictures frames/frame_000000.jpg (or .png), frame_000001.jpg and so on, or of those in the video."""

    width: StrictInt
    """Width of every frame, in pixels."""

    height: StrictInt
    """Height of every frame, in pixels."""

    network_kind: Literal["ave"]
    """The audio features that the network was trained with."""

    loop: Loop
    """bounce: after the last frame the clip runs backwards; forward: it starts again at the first."""

    paste: Paste
    """reference: as in training, hard edge; feather: the same with a soft edge; direct: as the older servers."""

    mask: Annotated[Mask, BeforeValidator(mask_from_list)] = Mask()
    """x, y, width, height of the part of the 320 x 320 picture that was blackened in training."""

    reference: Annotated[Reference, BeforeValidator(Reference.parse)] = Reference()
    """current: the network sees each frame's own crop. fixed:INDEX: it always sees that one's, with the mouth closed."""

    idle: Annotated[FrameRange, BeforeValidator(FrameRange.parse)] | None = None
    """First and last frame of the part of the clip shown without speech. Without it: the whole clip."""

    idle_mouth: IdleMouth = IdleMouth.REST
    """rest: without speech, the network's mouth for silence; stored: the pictures as they are, in which the mouth is shut."""

    files: FileEntries
    """The other files, with checksums."""

    def most_bytes(self, role: str) -> int | None:
        """Returns the limit of the file of that role; None if its reader reads only a part of it."""
        return {
            "network": MAX_MODEL_BYTES,
            "audio_encoder": MAX_MODEL_BYTES,
            "crop_rects": max_rects_bytes(self.frame_count),
            "frame_checksums": max_sums_bytes(self.frame_count),
            "background_video": max_video_bytes(self.frame_count, self.width, self.height),
        }.get(role)

    @field_validator("fps")
    @classmethod
    def _only_25(cls, value: float) -> float:
        if value != FPS:
            raise ValueError("only 25 can be served: the networks of this family take one row of audio a frame, 25 a second")
        return value


@as_broken_avatar(MANIFEST_NAME)
def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of the avatar in `folder`. Raises BrokenAvatar with every problem found."""
    content = _load_yaml(read_bounded(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES))
    version = content.get("format_version")
    if type(version) is int and version != FORMAT_VERSION:
        raise BrokenAvatar(f"{MANIFEST_NAME}: format_version is {version}, only {FORMAT_VERSION} can be read")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BrokenAvatar(_sentences(error)) from None
    if too := size_problem(manifest.width, manifest.height):
        raise BrokenAvatar(f"{MANIFEST_NAME}: the size {too}")
    return manifest


def manifest_text(manifest: Manifest) -> str:
    """Returns the text of an `avatar.yaml`."""
    content = manifest.model_dump(mode="json", exclude_none=True)
    mask = manifest.mask
    content["mask"] = [mask.x, mask.y, mask.width, mask.height]
    content["reference"] = str(manifest.reference)
    if manifest.idle:
        content["idle"] = [manifest.idle.first, manifest.idle.last]
    return _HEADING + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml takes an eighth of the time
    """Safe loader that also refuses huge numbers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if abs(number) > _LARGEST_NUMBER:  # Python refuses to print numbers of thousands of digits, in messages too
            raise yaml.constructor.ConstructorError(None, None, "a number is too large", node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _load_yaml(data: bytes) -> dict[str, Any]:
    try:
        _refuse_costly_yaml(data)
        content = yaml.load(data, _Loader)  # noqa: S506  # a safe loader
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise FileProblem(f"is not valid YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise FileProblem(f"is not valid YAML: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise FileProblem("is not a list of keys and values")
    return content


def _refuse_costly_yaml(data: bytes) -> None:
    """Raises YAMLError for aliases, which can stand for a page without end, and for deep nesting, which can exhaust the stack."""
    depth = 0
    for event in yaml.parse(data, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError("nested too deeply")


def _sentences(error: ValidationError) -> list[str]:
    problems = []
    for detail in error.errors(include_url=False, include_context=False):
        where = ".".join(cut(part, 40) if isinstance(part, str) else shown(part, 40) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(f"{MANIFEST_NAME}: {where} is not a key of this format")
        elif detail["type"] == "missing":
            problems.append(f"{MANIFEST_NAME}: {where} is missing")
        else:
            told = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{MANIFEST_NAME}: {where}: {told} (given: {shown(detail['input'])})")
    return shortened(problems)
