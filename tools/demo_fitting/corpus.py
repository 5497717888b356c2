"""The speech that the encoder learns from, of many voices, languages, levels and noises, as windows with their movements."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import librosa
import numpy as np
from numpy.typing import NDArray

from tools.demo_fitting.encoder import COLUMNS, MELS
from tools.demo_fitting.sounds import movements_at
from tools.demo_fitting.speakers import SAMPLE_RATE, Espeak, Spoken, flite
from tools.demo_fitting.vowels import sung

Windows = NDArray[np.float32]  # [windows, 80, 16]
Movements = NDArray[np.float32]  # [windows, POSE_SIZE]

_LEAD_S = 0.3  # silence around each text, to be learned too
_COLUMN_S = 0.0125

_VARIANTS = (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Annie anika linda steph klatt klatt2 klatt3 Andrea Alicia belinda adam max michael"
)
_LANGUAGES = ("en", "de", "es", "it", "pl")
_FLITE_VOICES = ("slt", "rms", "awb", "kal16")
_SUNG = 120
_CONSONANTS = ["p", "b", "m", "f", "v", "t", "d", "n", "s", "z", "sh", "th", "l", "r", "w", "k", "g", "h", "y"]
_VOWELS = ["a", "ee", "oo", "oh", "ay", "i", "uh", "aw", "er", "ah", "eye"]
_SENTENCES = (
    "The morning bus was full of people going to the market.",
    "My brother bought a pair of brown boots and a purple umbrella.",
    "We moved the piano from the living room to the hall.",
    "Five very fine violins were found behind the old farm.",
    "Fresh fish is sold beside the sea on Saturday and Sunday.",
    "Please put the paper in the box by the back door.",
    "How far away is the airport from your new house?",
    "Who would choose blue shoes to go with a yellow suit?",
    "The weather is warm, the water is cool, and the wind is low.",
    "Thank you for thinking of this thing on Thursday.",
    "You may keep the key, but leave the others to me.",
    "A large black cat sat calmly on the garden path.",
    "Bob made a map of the mountain, and Pam put it up.",
    "Oh no, do not go over the open road alone.",
    "Look at the good book that he took from the hook.",
    "I believe these three green trees need to be seen in spring.",
    "Hello and welcome, it is lovely to meet you all.",
    "Can you hear me well, or should I speak up a little?",
    "Everybody wants a bigger bubble, but maybe not a problem.",
    "Ask father to park the car after the party starts.",
    "Judge the large orange jar before you jump over it.",
    "Many men mumble in the museum, mostly about money.",
    "What a wonderful world we would want to wake up in.",
    "Try to treat the tired traveller with a cup of tea.",
    "The little yellow ball rolled slowly along the wall.",
    "Few people knew the truth about the view from the roof.",
    "He laughed, coughed and left before half past five.",
    "Voices rise and fall, pause, and then begin again.",
    "Sixty six sisters sat on the steps and sang softly.",
    "We are ready when you are, so just say the word.",
    "Big plans begin with small, simple, patient steps.",
    "Are all of our arms as long as our legs?",
)


def windows_and_movements(seed: int = 1) -> tuple[Windows, Movements]:
    """All windows and their movements."""
    chance = np.random.default_rng(seed)
    windows, movements = [], []
    sung_parts = (sung(chance) for _ in range(_SUNG))
    texts = Random(seed)  # noqa: S311 - no secrets here
    for spoken in (*_speeches(texts), *sung_parts):
        for step in (1, 2):
            heard, done = _windows(spoken, step, chance)
            windows.append(heard)
            movements.append(done)
    return np.concatenate(windows), np.concatenate(movements)


def _speeches(chance: Random) -> Iterator[Spoken]:
    espeak = Espeak()
    for variant in _VARIANTS.split():
        texts = [" ".join(chance.sample(_SENTENCES, 3)), " ".join(chance.sample(_SENTENCES, 3)), _nonsense(chance)]
        for text in texts:
            yield espeak.say(text, f"en-us+{variant}", speed=chance.randint(125, 195), pitch=chance.randint(30, 70))
    for language in _LANGUAGES:
        for variant in ("f2", "f4", "m3", "m1"):
            yield espeak.say(_nonsense(chance), f"{language}+{variant}", speed=chance.randint(120, 180), pitch=50)
    for voice in _FLITE_VOICES:
        for text in [" ".join(_SENTENCES[i : i + 2]) for i in range(0, len(_SENTENCES), 2)]:
            yield flite(text, voice)
        for _ in range(6):
            yield flite(_nonsense(chance), voice)


def _nonsense(chance: Random) -> str:
    """Ten made-up words: every sound beside every other."""
    words = [
        "".join(chance.choice(_CONSONANTS) + chance.choice(_VOWELS) for _ in range(chance.choice((1, 2, 2, 3))))
        for _ in range(10)
    ]
    return " ".join(word + ("." if chance.random() < 0.15 else "") for word in words)


def _windows(spoken: Spoken, step: int, chance: np.random.Generator) -> tuple[Windows, Movements]:
    sound, sounds = spoken
    mel = normalised_mel(_recorded(sound / np.abs(sound).max(), chance))
    starts = np.arange(0, mel.shape[1] - COLUMNS, step)
    middles_s = (starts + (COLUMNS - 1) / 2) * _COLUMN_S - _LEAD_S
    return np.stack([mel[:, start : start + COLUMNS] for start in starts]), movements_at(sounds, middles_s)


def _recorded(sound: NDArray[np.float64], chance: np.random.Generator) -> NDArray[np.float64]:
    """The sound of another microphone: dull or bright, loud or faint, with hiss or rumble, in silence or noise."""
    if chance.random() < 0.6:
        tilted = np.append(sound[0], sound[1:] + chance.uniform(-0.5, 0.5) * sound[:-1])
        sound = tilted / np.abs(tilted).max()
    gain = 10 ** (chance.uniform(-30, -1) / 20)
    lead = np.zeros(int(_LEAD_S * SAMPLE_RATE))
    whole = np.concatenate([lead, sound * gain, lead])
    noise = chance.standard_normal(len(whole))
    if chance.random() < 0.5:
        noise = np.cumsum(noise)
        noise -= np.convolve(noise, np.ones(400) / 400, "same")
    loudness = min(1.0, 6 * gain) * 10 ** (chance.uniform(-85, -42) / 20) if chance.random() < 0.8 else 0.0
    return np.asarray(whole + noise / noise.std() * loudness)


def normalised_mel(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    """[80, columns] of -4..4: the spectrum that the encoder will be given."""
    basis = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=800, n_mels=MELS, fmin=55, fmax=7600)
    emphasised = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    magnitude = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode="constant"))
    decibels = 20 * np.log10(np.maximum(1e-5, basis @ magnitude)) - 20
    return np.asarray(np.clip(8 * (decibels + 100) / 100 - 4, -4, 4), np.float32)
