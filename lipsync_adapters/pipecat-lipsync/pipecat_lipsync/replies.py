"""The replies of a bot."""

from __future__ import annotations

from dataclasses import dataclass

from pipecat.frames.frames import Frame

from lipsync_client.utterances import Utterance


@dataclass(eq=False, slots=True, kw_only=True)
class Reply(Utterance[Frame]):
    """An utterance of the bot. Between its words there are frames."""

    context_id: str | None
    destination: str | None
    interruptible: bool
