# ruff: noqa: RUF001 - the phonetic alphabet looks like that
"""Speech synthesis with the time of each sound: espeak-ng through its library, flite through its command."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soxr
from numpy.typing import NDArray

from tools.demo_fitting.sounds import Sound

SAMPLE_RATE = 16000

Spoken = tuple[NDArray[np.float64], list[Sound]]

_SYNCHRONOUS, _PHONEME_EVENTS_AS_IPA = 2, 1 | 2
_PHONEME, _LIST_END = 7, 0
_SPEED, _PITCH = 1, 3

# flite names sounds as American dictionaries do.
_IPA = {
    "aa": "ɑ",
    "ae": "æ",
    "ah": "ʌ",
    "ao": "ɔ",
    "aw": "aʊ",
    "ax": "ə",
    "ay": "aɪ",
    "b": "b",
    "ch": "tʃ",
    "d": "d",
    "dh": "ð",
    "eh": "ɛ",
    "er": "ɝ",
    "ey": "eɪ",
    "f": "f",
    "g": "g",
    "hh": "h",
    "ih": "ɪ",
    "iy": "i",
    "jh": "dʒ",
    "k": "k",
    "l": "l",
    "m": "m",
    "n": "n",
    "ng": "ŋ",
    "ow": "oʊ",
    "oy": "ɔɪ",
    "p": "p",
    "r": "ɹ",
    "s": "s",
    "sh": "ʃ",
    "t": "t",
    "th": "θ",
    "uh": "ʊ",
    "uw": "u",
    "v": "v",
    "w": "w",
    "y": "j",
    "z": "z",
    "zh": "ʒ",
    "pau": "",
    "ssil": "",
}


class _Id(ctypes.Union):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library has one state, so there can be one instance in a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_AS_IPA))
        self._heard: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, *, speed: int, pitch: int) -> Spoken:
        """16 kHz sound of -1..1 and its sounds. Raises ValueError for a voice that is not installed."""
        self._heard.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_SPEED, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        sound = np.concatenate(self._heard).astype(np.float64) / 32768
        ends = [sample for sample, _ in self._events[1:]] + [len(sound)]
        spoken = [
            Sound(start / self._rate, end / self._rate, name) for (start, name), end in zip(self._events, ends, strict=True)
        ]
        return soxr.resample(sound, self._rate, SAMPLE_RATE), spoken

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != _LIST_END:
            if events[i].type == _PHONEME:
                self._events.append((events[i].sample, events[i].id.string.decode("utf-8", "replace")))
            i += 1
        return 0


def flite(text: str, voice: str) -> Spoken:
    """16 kHz sound of -1..1 and its sounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - fixed words and our own texts
        with wave.open(str(path)) as file:
            rate, data = file.getframerate(), file.readframes(file.getnframes())
    ends = [(_IPA[name], float(end)) for name, end in (token.rsplit(":", 1) for token in told.split())]
    starts = [0.0, *(end for _, end in ends[:-1])]
    spoken = [Sound(start, end, symbols) for start, (symbols, end) in zip(starts, ends, strict=True)]
    return soxr.resample(np.frombuffer(data, np.int16).astype(np.float64) / 32768, rate, SAMPLE_RATE), spoken
