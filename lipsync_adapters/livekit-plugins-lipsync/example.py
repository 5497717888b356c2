"""An agent with an avatar that needs no providers: its model and its voice are made up here.

It needs a LiveKit server, whose address and keys are in LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, a lip-sync server,
and its LiveKit worker (`lipsync serve all`, `lipsync livekit serve`). SPEECH names a WAV file, mono, 16 bits:

    SPEECH=speech.wav python example.py dev

In an agent of yours, models of LiveKit's plug-ins take the places of `MadeUpModel` and `RecordedVoice`.
"""

from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Any

from livekit.agents import (
    DEFAULT_API_CONNECT_OPTIONS,
    Agent,
    AgentServer,
    AgentSession,
    APIConnectOptions,
    JobContext,
    cli,
    llm,
    tts,
    utils,
)
from livekit.plugins import lipsync

server = AgentServer()


class MadeUpModel(llm.LLM):
    """Answers anything with the same sentence."""

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: Any,
    ) -> llm.LLMStream:
        """Begins an answer."""
        return _Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _Answer(llm.LLMStream):
    async def _run(self) -> None:
        delta = llm.ChoiceDelta(role="assistant", content="This is what I have to say.")
        self._event_ch.send_nowait(llm.ChatChunk(id=utils.shortuuid(), delta=delta))


class RecordedVoice(tts.TTS):
    """Says a recording, whatever the text."""

    def __init__(self, speech: Path) -> None:
        with wave.open(str(speech)) as recording:
            self.speech = recording.readframes(recording.getnframes())
            super().__init__(
                capabilities=tts.TTSCapabilities(streaming=False), sample_rate=recording.getframerate(), num_channels=1
            )

    def synthesize(self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> tts.ChunkedStream:
        """Begins to speak."""
        return _Recording(tts=self, input_text=text, conn_options=conn_options)


class _Recording(tts.ChunkedStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        voice = self._tts
        assert isinstance(voice, RecordedVoice)
        output_emitter.initialize(
            request_id=utils.shortuuid(), sample_rate=voice.sample_rate, num_channels=1, mime_type="audio/pcm"
        )
        output_emitter.push(voice.speech)
        output_emitter.flush()


def make_session(speech: Path) -> AgentSession[None]:
    """Makes the agent's session."""
    return AgentSession(llm=MadeUpModel(), tts=RecordedVoice(speech))


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """Talks in a room."""
    session = make_session(Path(os.environ["SPEECH"]))
    avatar = lipsync.AvatarSession()
    await avatar.start(session, room=ctx.room)
    await session.start(agent=Agent(instructions="Say something."), room=ctx.room)
    session.generate_reply()


if __name__ == "__main__":
    cli.run_app(server)
