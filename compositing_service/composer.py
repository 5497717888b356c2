"""One loaded avatar: mouths in, finished pictures out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar

Mouth = NDArray[np.uint8]  # [320, 320, 3] BGR; may be read-only


class AvatarComposer:
    """Thread-safe. Every method blocks (decoding, encoding): call them in a thread pool.

    `BackgroundStore` makes these; hold one only inside `async with store.acquire(...)`.
    """

    avatar: Avatar

    def composite(self, index: int, mouth: Mouth, *, quality: int) -> bytes:
        """The JPEG of frame `index` (0 .. frame_count - 1) with the mouth pasted in.

        Byte-identical to encoding the whole composited picture with the same settings. Raises BrokenAvatar when the frame cannot be read,
        ValueError for a mouth that is not uint8 [320, 320, 3] or a quality outside 1-100, IndexError for an index the avatar does not have.
        """
        raise NotImplementedError

    def composite_raw(self, index: int, mouth: Mouth) -> bytes:
        """The same picture before encoding: height x width x 3 bytes, BGR."""
        raise NotImplementedError

    def idle(self, index: int, *, quality: int) -> bytes:
        """The JPEG of the frame as it is, without a mouth: the stored bytes."""
        raise NotImplementedError

    def idle_raw(self, index: int) -> bytes:
        """The pixels of the frame as it is: height x width x 3 bytes, BGR."""
        raise NotImplementedError

    def memory_bytes(self) -> int:
        """Bytes of pictures and pixels held for this avatar now."""
        raise NotImplementedError
