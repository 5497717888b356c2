"""The demo avatar: a drawn person with a network that draws the mouth, and a recording of synthetic speech to try it with."""

from avatar_tools.demo.build import SPEECH_PATH, build_demo

__all__ = ["SPEECH_PATH", "build_demo"]
