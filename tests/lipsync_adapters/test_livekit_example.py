"""The plug-in's example: an agent's own session, with a model and a voice that need nobody, speaks through an avatar."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from livekit.agents import Agent

from ..end_to_end.processes import TREE
from .test_livekit_worker import KEYS, agent_of

SPEECH = TREE / "avatar_tools/demo/speech/speech.wav"


@pytest.fixture
def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("example", TREE / "lipsync_adapters/livekit-plugins-lipsync/example.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_an_agent_is_interrupted_with_its_avatar_and_speaks_again(server: str, example: ModuleType) -> None:
    async with agent_of(server) as (agent, worker, heard):
        agent.session = session = example.make_session(SPEECH)
        await agent.avatar.start(session, agent.room, **KEYS)
        await session.start(agent=Agent(instructions="Say something."), record=False)
        try:
            first: Any = session.generate_reply()
            await heard.until(lambda: np.count_nonzero(heard.sound) > 24_000 * 0.5)
            await session.interrupt()
            await first.wait_for_playout()
            assert first.interrupted
            methods = [method for method, _ in worker.hall.calls]
            # On a busy machine sound that was on its way comes after the clear, and begins another utterance.
            assert methods[:3] == ["lk.playback_started", "lk.clear_buffer", "lk.playback_finished"]
            before = np.count_nonzero(heard.sound)
            second: Any = session.generate_reply()
            await heard.until(lambda: np.count_nonzero(heard.sound) > before + 24_000 * 0.5)
            assert not second.interrupted
            await session.interrupt()
            await second.wait_for_playout()
        finally:
            await session.aclose()
