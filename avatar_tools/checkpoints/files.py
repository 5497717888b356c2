"""Inspects checkpoint files without unpickling them: their size, their kind, and the functions that they would call."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from avatar_kit.errors import BrokenAvatar
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_tools.checkpoints.kinds import Kind, kind_of

MAX_CHECKPOINT_BYTES = 2**30  # that of the larger network has 150 MB with an optimizer's state
_MAX_PICKLE_BYTES = 16 * 2**20  # names and shapes; the numbers are apart
_MAX_MEMBERS = 20_000
_LEGACY_PICKLES = 4  # a magic number, a version, the machine, the content; the numbers follow

_ZIP = b"PK\x03\x04"
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)

# The origins of a checkpoint's parts. PyTorch's restricted reader decides which of their functions may be called.
_KNOWN_PACKAGES = frozenset({"torch", "collections", "numpy", "_codecs"})
_KNOWN_FUNCTIONS = frozenset({"builtins.set", "__builtin__.set"})


def checkpoint_kind(path: Path) -> Kind:
    """The network whose weights a checkpoint holds. Quick, runs none of its code and needs no PyTorch. Raises BrokenAvatar."""
    kind = kind_of(_texts(path.name, _read(path)))
    if kind is None:
        raise BrokenAvatar(f"{path.name}: holds neither a lip-sync network of this family nor its audio encoder")
    return kind


def read_checkpoint(path: Path) -> bytes:
    """The bytes of a file that has the form of a whole checkpoint, a bounded size, and asks for no foreign code.

    Raises BrokenAvatar.
    """
    data = _read(path)
    _texts(path.name, data)
    _check_sums(path.name, data)
    return data


def foreign_code(name: str, function: str) -> str:
    """The problem of a checkpoint that asks for a call of a function that no checkpoint needs."""
    return (
        f"{name}: refused, because reading it would run code: it asks for {function[:80]!r}. "
        "A checkpoint must hold weights alone, as saved by torch.save(network.state_dict(), ...)"
    )


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_CHECKPOINT_BYTES)
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(f"{path.name}:")) from None


def _texts(name: str, data: bytes) -> frozenset[str]:
    """All texts in the pickles, among them the weights' names. Raises BrokenAvatar, also for the first foreign function."""
    texts: set[str] = set()
    try:
        for pickle in _pickles(data):
            for kind, text in _mentioned(pickle):
                if kind == "text":
                    texts.add(text)
                elif text.partition(".")[0] not in _KNOWN_PACKAGES and text not in _KNOWN_FUNCTIONS:
                    raise BrokenAvatar(foreign_code(name, text))
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(f"{name}:")) from None
    return frozenset(texts)


def _check_sums(name: str, data: bytes) -> None:
    """Compares the members' checksums, which PyTorch writes and ignores."""
    if not data.startswith(_ZIP):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
    except _ZIP_ERRORS:
        damaged = "a member"
    if damaged is not None:
        raise BrokenAvatar(f"{name}: is damaged: the checksum of {damaged[:80]!r} is wrong")


def _pickles(data: bytes) -> Iterator[io.BytesIO]:
    """Yields the pickled parts of a zip archive, or of the one stream that PyTorch wrote before 1.6. Raises FileProblem."""
    if not data:
        raise FileProblem("is empty")
    if data.startswith(_ZIP):
        yield from _zipped(data)
    elif data.startswith(b"\x80"):
        stream = io.BytesIO(data)
        for _ in range(_LEGACY_PICKLES):
            yield stream
    else:
        raise FileProblem("is not a PyTorch checkpoint")


def _zipped(data: bytes) -> Iterator[io.BytesIO]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members)
            pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
            if not pickles:
                raise FileProblem("is a zip archive, but not a PyTorch checkpoint")
            for member in pickles:
                yield io.BytesIO(archive.read(member))
    except _ZIP_ERRORS:
        raise FileProblem("is damaged or truncated") from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """PyTorch does not compress, so a member's size in the archive is its size in memory. Raises FileProblem."""
    if any(member.filename.endswith("constants.pkl") for member in members):
        raise FileProblem("is a TorchScript program, not a checkpoint: save the network's state_dict() instead")
    if any(member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size for member in members):
        raise FileProblem("is a compressed archive, which PyTorch does not write")
    unpacked = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS or unpacked > MAX_CHECKPOINT_BYTES:
        raise FileProblem(f"is an archive of {len(members)} members and {unpacked} bytes, more than any checkpoint")
    if any(member.file_size > _MAX_PICKLE_BYTES for member in members if member.filename.endswith("data.pkl")):
        raise FileProblem(f"has names and shapes of more than {_MAX_PICKLE_BYTES} bytes")


def _mentioned(pickle: io.BytesIO) -> Iterator[tuple[str, str]]:
    """Yields ("text", ...) and ("function", "module.name") of one pickle, up to its end. Raises FileProblem."""
    recent: list[str] = []
    end = pickle.tell() + _MAX_PICKLE_BYTES
    try:
        for code, argument, position in pickletools.genops(pickle):
            if code.name in {"GLOBAL", "INST"} and isinstance(argument, str):
                yield "function", argument.replace(" ", ".", 1)
            elif code.name == "STACK_GLOBAL" and len(recent) > 1:
                yield "function", ".".join(recent[-2:])
            elif isinstance(argument, str):
                yield "text", argument
            if position is not None and position > end:
                raise FileProblem(f"has names and shapes of more than {_MAX_PICKLE_BYTES} bytes")
            if "UNICODE" in code.name and isinstance(argument, str):
                recent.append(argument)
            elif code.name != "MEMOIZE":
                recent.clear()
    except (ValueError, OverflowError, UnicodeDecodeError, MemoryError):
        raise FileProblem("is damaged or truncated, or not a PyTorch checkpoint") from None
