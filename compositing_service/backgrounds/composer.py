"""Makes the finished pictures of one loaded avatar from mouths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.border import BorderPixels
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Picture
from compositing_service.backgrounds.avatar_frames import AvatarFrames, EncodedFrame
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.backgrounds.single_flight import SingleFlight
from compositing_service.outputs import JpegOutput, Output, RawOutput
from compositing_service.picture.jpeg.encoder import encode
from compositing_service.picture.jpeg.interval import choose_restart_interval
from compositing_service.picture.jpeg.splicing import encode_spliceable, region_around
from compositing_service.picture.paste import (
    Mouth,
    always_needs_ring,
    check_mouth,
    needs_ring,
    paste_mouth,
    place_in,
    refit_mouth,
    ring_around,
)
from compositing_service.picture.patch import Patch, Place, scratch

Pieces: TypeAlias = Sequence[bytes | memoryview]
"""A file, one piece after the other."""

__all__ = ["AvatarComposer", "Mouth", "Pieces", "open_composer"]

# An avatar's first frames may be damaged. When this many in a row are, the avatar is broken.
_SAMPLES_TRIED = 10


class AvatarComposer:
    """Thread-safe. Every method blocks (decoding, encoding): call them in a thread pool.

    `BackgroundStore` makes these; hold one only inside `async with store.acquire(...)`. A frame is read and encoded at its first
    request, once for all callers, and kept in `frames`.

    Methods with an index (0 .. frame_count - 1) raise IndexError for one that the avatar does not have, and BrokenAvatar for a
    frame that cannot be read; ValueError for a mouth that `check_mouth` refuses and for a quality outside 1-100.
    """

    def __init__(self, avatar: Avatar, *, cache: FrameCache, frames: AvatarFrames, restart_interval: int) -> None:
        self.avatar = avatar
        self.restart_interval = restart_interval
        """MCUs between restart markers; 0: every picture is encoded whole."""
        self._cache = cache
        self._frames = frames
        self._encodings: SingleFlight[tuple[int, int], EncodedFrame] = SingleFlight()
        self._readings: SingleFlight[int, Picture] = SingleFlight()
        self._rings: SingleFlight[int, BorderPixels] = SingleFlight()

    def composite(self, index: int, mouth: Mouth, output: Output) -> bytes:
        """Returns the frame with the mouth pasted in; a JPEG has the same bytes as encoding the whole composited picture."""
        return b"".join(self.composite_pieces(index, mouth, output))

    def composite_pieces(self, index: int, mouth: Mouth, output: Output) -> Pieces:
        """Returns what `composite` does in pieces: those of a JPEG take little memory beside the background's."""
        return self._composite(index, mouth, output)[0]

    def repeated_pieces(self, index: int, mouth: Mouth, output: Output) -> Pieces:
        """Returns what `composite_pieces` does, with a mouth that may have been made for another picture."""
        return self.composite_pieces(index, refit_mouth(mouth, self.avatar.rects[index]), output)

    def keep_resting(self, index: int, mouth: Mouth, output: Output) -> bytes:
        """Returns the frame as `composite` does, and keeps its part with the mouth, the one of silence, for `resting`.

        It is not kept where that would drop frames of avatars in use.
        """
        pieces, part = self._composite(index, mouth, output)
        self._cache.offer_resting(self._frames, index, output, part)
        return b"".join(pieces)

    def resting(self, index: int, output: Output) -> bytes | None:
        """Returns the frame with the mouth of silence, the bytes that `keep_resting` returned; None if it is not kept."""
        part = self._cache.find_resting(self._frames, index, output)
        if part is None:
            return None
        match output:
            case JpegOutput(quality):
                return self._encoded(index, quality).jpeg.splice(part)
            case RawOutput():
                pixels, rect = self._copied(self._whole(index)), self.avatar.rects[index]
                target = pixels[rect.y1 : rect.y2, rect.x1 : rect.x2]
                target[...] = np.frombuffer(part, np.uint8).reshape(target.shape)
                return pixels.tobytes()

    def at_hand(self, index: int, output: Output, *, resting: bool) -> Pieces | None:
        """Returns the pieces of what `resting` or `stored` would, if it takes no time: all is in memory. Does not block."""
        if not isinstance(output, JpegOutput):
            return None
        frame, part = self._cache.at_hand(self._frames, index, output)
        if frame is None or not resting:
            return None if frame is None else [frame.jpeg.data]
        return None if part is None else frame.jpeg.pieces(part)

    def unrested(self, indices: Iterable[int], output: Output) -> list[int]:
        """Returns the frames whose mouth of silence is not kept. Does not block."""
        return self._cache.unrested(self._frames, indices, output)

    def stored(self, index: int, output: Output) -> bytes:
        """Returns the stored frame, without a mouth."""
        match output:
            case JpegOutput(quality):
                return self._encoded(index, quality).jpeg.data
            case RawOutput():
                return self._whole(index).tobytes()

    def prepare(self, index: int, *, quality: int, read: Callable[[], Picture] | None = None) -> bool:
        """Reads and encodes the frame ahead of need. Returns False if only frames in use could make room for it.

        `read`: a cheaper way to read the frame than by its index.
        """
        if self._is_prepared(index, quality):
            return True
        if not self._cache.has_room(self._frames, index, self._mean_frame_bytes()):
            return False
        self._encode_once(index, quality, self._cache.offer, read)
        return self._is_prepared(index, quality)

    def _composite(self, index: int, mouth: Mouth, output: Output) -> tuple[Pieces, bytes]:
        """Returns the frame with the mouth, and the part that tells it from the stored one: a JPEG's scan, or pixels."""
        rect = self.avatar.rects[index]
        check_mouth(mouth, rect)
        ringed = needs_ring(mouth, rect, self.avatar.paste)
        match output:
            case JpegOutput(quality):
                frame = self._encoded(index, quality, ringed=ringed)
                ring = (frame.patch.ring or self._ring(index)) if ringed else None
                region = frame.patch.restore()
                paste_mouth(region, frame.patch.place, mouth, ring)
                scan = frame.jpeg.scan(encode(region, quality=quality, restart_interval=self.restart_interval))
                return frame.jpeg.pieces(scan), scan
            case RawOutput():
                whole = self._whole(index)
                pixels = self._copied(whole)
                paste_mouth(pixels, self._place(index), mouth, ring_around(whole, rect) if ringed else None)
                return [pixels.tobytes()], pixels[rect.y1 : rect.y2, rect.x1 : rect.x2].tobytes()

    def _place(self, index: int) -> Place:
        avatar = self.avatar
        return place_in(avatar.rects[index], avatar.paste, width=avatar.width, height=avatar.height)

    def _copied(self, picture: Picture) -> Picture:
        """Copies a picture into the thread's working memory."""
        pixels = scratch.pixels(self.avatar.height, self.avatar.width)
        pixels[...] = picture
        return pixels

    def _is_prepared(self, index: int, quality: int) -> bool:
        return self._cache.peek(self._frames, index, quality) is not None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Protects its frames during the block: frames of unused avatars are dropped first."""
        self._cache.pin(self._frames)
        try:
            yield
        finally:
            self._cache.unpin(self._frames)

    def close(self) -> None:
        """Drops its frames, and keeps no more."""
        self._cache.close(self._frames)

    def memory_bytes(self) -> int:
        """Counts the bytes of pictures and pixels held for this avatar now."""
        return self._frames.nbytes

    def cached_frames(self) -> int:
        """Counts the frames held now."""
        return len(self._frames.encoded)

    def resting_frames(self) -> int:
        """Counts the mouths of silence held now."""
        return self._frames.resting_count

    def _mean_frame_bytes(self) -> int:
        return self._frames.encoded_bytes // max(1, len(self._frames.encoded))

    def _encoded(self, index: int, quality: int, *, ringed: bool = False) -> EncodedFrame:
        """Returns the frame; `ringed`: one that is made now is to have the crop's border."""
        found = self._cache.use(self._frames, index, quality)
        return found or self._encode_once(index, quality, self._cache.put, ringed=ringed)

    def _encode_once(
        self,
        index: int,
        quality: int,
        keep: Callable[[AvatarFrames, int, int, EncodedFrame], None],
        read: Callable[[], Picture] | None = None,
        *,
        ringed: bool = False,
    ) -> EncodedFrame:
        def make() -> EncodedFrame:
            encoded = self._cache.peek(self._frames, index, quality)
            if encoded is None:
                encoded = self._encode(index, quality, read, ringed=ringed)
                keep(self._frames, index, quality, encoded)
            return encoded

        return self._encodings.run((index, quality), make)

    def _encode(self, index: int, quality: int, read: Callable[[], Picture] | None, *, ringed: bool) -> EncodedFrame:
        picture = self._read(index, read)
        rect = self.avatar.rects[index]
        region = region_around(rect, width=self.avatar.width, height=self.avatar.height, restart_interval=self.restart_interval)
        patch = self._cache.peek_patch(self._frames, index)
        if patch is None:
            ring = ring_around(picture, rect) if ringed or always_needs_ring(rect, self.avatar.paste) else None
            patch = Patch.cut(picture, region.pixels, self._place(index), ring)
        return EncodedFrame(patch, encode_spliceable(picture, region, quality=quality, restart_interval=self.restart_interval))

    def _ring(self, index: int) -> BorderPixels:
        """Returns the border of a frame's crop, and keeps it: where one mouth came whole, more will."""

        def make() -> BorderPixels:
            patch = self._cache.peek_patch(self._frames, index)
            if patch and patch.ring:
                return patch.ring
            ring = ring_around(self._read(index), self.avatar.rects[index])
            self._cache.put_ring(self._frames, index, ring)
            return ring

        return self._rings.run(index, make)

    def _whole(self, index: int) -> Picture:
        def make() -> Picture:
            picture = self._read(index)
            self._cache.put_picture(self._frames, index, picture)
            return picture

        found = self._cache.use_picture(self._frames, index)
        return self._readings.run(index, make) if found is None else found

    def _read(self, index: int, read: Callable[[], Picture] | None = None) -> Picture:
        """Returns the frame, `read` by its caller in a cheaper way than by its index if it is not in memory."""
        kept = self._cache.peek_picture(self._frames, index)
        if kept is not None:
            return kept
        return read() if read else self.avatar.read_frame(index)


def open_composer(avatar: Avatar, *, cache: FrameCache, frames: AvatarFrames) -> AvatarComposer:
    """Opens a composer with the restart interval that suits the avatar, measured on its first whole frame. Blocks.

    Raises BrokenAvatar when none of the first ten frames can be read.
    """
    interval = choose_restart_interval(_sample(avatar), avatar.rects)
    return AvatarComposer(avatar, cache=cache, frames=frames, restart_interval=interval)


def _sample(avatar: Avatar) -> Picture:
    problems: list[str] = []
    for index in range(min(avatar.frame_count, _SAMPLES_TRIED)):
        try:
            return avatar.read_frame(index)
        except BrokenAvatar as error:
            problems += error.problems
    raise BrokenAvatar(problems)
