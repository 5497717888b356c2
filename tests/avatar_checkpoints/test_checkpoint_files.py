"""Facts about a checkpoint that need no PyTorch, and refusals before PyTorch sees it."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar_kit.errors import BrokenAvatar
from avatar_tools.checkpoints import TorchMissing, checkpoint_kind, convert_checkpoint, files
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.unet import UNET

from .conftest import WriteArchive


class Touching:
    """Unpickled by `pickle`, it makes a file."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def renamed(prefix: str, names: Any) -> dict[str, int]:
    return {prefix + name: 0 for name in names}


@pytest.mark.parametrize(
    "content",
    [
        renamed("", UNET.shapes()),
        renamed("module.", UNET.shapes()),
        {"epoch": 3, "model": {"state_dict": renamed("module.module.", UNET.shapes())}},
    ],
    ids=["plain", "prefixed", "wrapped"],
)
def test_a_network_is_recognised(write_archive: WriteArchive, content: Any) -> None:
    assert checkpoint_kind(write_archive("99.pth", content)) == "network"


@pytest.mark.parametrize("prefix", ["", "module.", "audio_encoder.", "_orig_mod."])
def test_an_encoder_is_recognised(write_archive: WriteArchive, prefix: str) -> None:
    assert checkpoint_kind(write_archive("encoder.pth", renamed(prefix, AUDIO_ENCODER.shapes()))) == "audio_encoder"


def test_an_old_stream_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, renamed("", AUDIO_ENCODER.shapes())]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts) + bytes(1000))

    assert checkpoint_kind(path) == "audio_encoder"


def test_another_network_is_neither(write_archive: WriteArchive) -> None:
    with pytest.raises(BrokenAvatar, match="neither a lip-sync network of this family nor its audio encoder"):
        checkpoint_kind(write_archive("resnet.pth", renamed("", ["conv1.weight", "layer1.0.conv1.weight"])))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_code_in_a_pickle_is_named_and_not_run(
    tmp_path: Path, write_archive: WriteArchive, protocol: int, wrapped: bool, form: str
) -> None:
    mark = tmp_path / "it-ran"
    evil: Any = Touching(os.system, f"touch {mark}")
    data = pickle.dumps({"model": evil} if wrapped else evil, protocol=protocol)
    path = tmp_path / "evil.pth"
    if form == "archive":
        path = write_archive("evil.pth", data)
    else:
        path.write_bytes(data)

    for read in (checkpoint_kind, lambda path: convert_checkpoint(path, kind="network")):
        with pytest.raises(BrokenAvatar, match=r"^evil\.pth: ") as caught:
            read(path)
        if data.startswith(b"\x80") or form == "archive":
            assert "reading it would run code: it asks for 'posix.system'" in str(caught.value)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the file would have done it


@pytest.mark.parametrize("function", [eval, exec, getattr, open], ids=lambda function: function.__name__)
def test_builtins_that_reach_further_are_refused(write_archive: WriteArchive, function: Callable[..., Any]) -> None:
    with pytest.raises(BrokenAvatar, match=rf"it asks for '__builtin__\.{function.__name__}'|it asks for 'io\.open'"):
        convert_checkpoint(write_archive("evil.pth", {"state_dict": Touching(function, "1")}), kind="network")


ARCHIVE_CUT = "is damaged or truncated"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, this is no checkpoint\n", "is not a PyTorch checkpoint"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00mod", "is damaged or truncated"),
        (b"\x80\x02\x8a\xff", "is damaged or truncated"),
        (b"PK\x03\x04" + bytes(200), ARCHIVE_CUT),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "is damaged or truncated"),
    ],
    ids=["empty", "text", "truncated pickle", "damaged pickle", "archive without a directory", "two gigabytes of text declared"],
)
def test_damaged_files(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "99.pth"
    path.write_bytes(data)
    with pytest.raises(BrokenAvatar, match=rf"^99\.pth: {sentence}"):
        convert_checkpoint(path, kind="network")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_archives(write_archive: WriteArchive, share: float) -> None:
    path = write_archive("99.pth", renamed("", UNET.shapes()), members=[("archive/data/0", bytes(10_000))])
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BrokenAvatar, match=rf"^99\.pth: {ARCHIVE_CUT}"):
        convert_checkpoint(path, kind="network")


def test_a_changed_byte_is_noticed(write_archive: WriteArchive) -> None:
    path = write_archive("99.pth", renamed("", UNET.shapes()), members=[("archive/data/0", bytes(10_000))])
    data = path.read_bytes()
    path.write_bytes(data.replace(bytes(5000), bytes(4999) + b"\1", 1))
    with pytest.raises(BrokenAvatar, match=r"99\.pth: is damaged: the checksum of 'archive/data/0' is wrong"):
        convert_checkpoint(path, kind="network")


def test_what_unpacks_to_more_than_it_is(write_archive: WriteArchive) -> None:
    bomb = [(f"archive/data/{number}", bytes(10**7)) for number in range(3)]
    path = write_archive("99.pth", {}, compression=zipfile.ZIP_DEFLATED, members=bomb)
    assert path.stat().st_size < 10**5
    with pytest.raises(BrokenAvatar, match="is a compressed archive"):
        convert_checkpoint(path, kind="network")


def test_members_that_share_their_bytes(write_archive: WriteArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_CHECKPOINT_BYTES", 50_000)
    path = write_archive("99.pth", {}, members=[("archive/data/0", bytes(20_000))])
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist += [archive.filelist[-1]] * 10  # its directory, written at the end, lists the same place again
        archive._didModify = True  # type: ignore[attr-defined]
    assert path.stat().st_size < 50_000
    with pytest.raises(BrokenAvatar, match=r"an archive of 12 members and 220\d\d\d bytes, more than any checkpoint"):
        convert_checkpoint(path, kind="network")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "99.pth"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BrokenAvatar, match=r"99\.pth: has 1099511627776 bytes, more than the"):
        checkpoint_kind(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, sentence in [("pipe.pth", "is not a regular file"), ("none.pth", "is missing"), (".", "is not a regular file")]:
        with pytest.raises(BrokenAvatar, match=sentence):
            convert_checkpoint(tmp_path / name, kind="network")


def test_a_program_is_not_a_checkpoint(write_archive: WriteArchive) -> None:
    with pytest.raises(BrokenAvatar, match="is a TorchScript program"):
        checkpoint_kind(write_archive("script.pth", {}, members=[("archive/constants.pkl", b"")]))


def test_without_torch_the_extra_is_named(write_archive: WriteArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TorchMissing, match=r"^99\.pth: .* needs PyTorch: install the extra \[import\]"):
        convert_checkpoint(write_archive("99.pth", renamed("", UNET.shapes())), kind="network")
