"""Changes requests and frames at random, from a corpus that is kept. The same seed makes the same changes.

A corpus is a file of lines: a name, then hexadecimal bytes, one word for each message or frame. What a run finds is added as a
line, and is sent by every run from then on, first as it is and then changed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
SEED = int(os.environ.get("FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
# Bytes that parsers stumble over: ends of varints, lengths, tags, text.
_ODD = (b"\xff" * 10, b"\x80" * 10 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x00", b"\x7f", b"\x0a", b"\xc3\x28", b"../")


@dataclass(frozen=True)
class Seed:
    """One line of a corpus."""

    name: str
    parts: tuple[bytes, ...]

    def line(self) -> str:
        """The line."""
        return " ".join([self.name, *(part.hex() or "-" for part in self.parts)])


def corpus(name: str) -> list[Seed]:
    """All seeds of a file of the corpus."""
    lines = (CORPUS / f"{name}.txt").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [Seed(first, tuple(bytes.fromhex("" if part == "-" else part) for part in parts)) for first, *parts in words]


def cases(name: str) -> Iterator[Seed]:
    """Yields each seed as it is, and then changed ones until the time is over."""
    seeds = corpus(name)
    yield from seeds
    chance = random.Random(SEED)
    end_s = time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        yield changed(chance, seeds)


def changed(chance: random.Random, seeds: list[Seed]) -> Seed:
    """One of the seeds with a few changes, some of them from another one."""
    seed = chance.choice(seeds)
    parts = [bytearray(part) for part in seed.parts]
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        match chance.randrange(10):
            case 0 if len(parts) > 1:
                del parts[chance.randrange(len(parts))]
            case 1:
                parts.insert(chance.randrange(len(parts) + 1), bytearray(chance.choice(chance.choice(seeds).parts)))
            case 2:
                chance.shuffle(parts)
            case _:
                _change(chance, chance.choice(parts), chance.choice(chance.choice(seeds).parts))
    return Seed(seed.name, tuple(bytes(part) for part in parts))


def _change(chance: random.Random, data: bytearray, other: bytes) -> None:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((1, 2, 4, 16)))
    match chance.randrange(6):
        case 0:
            del data[at:end]
        case 1:
            data[at:at] = chance.choice(_ODD)
        case 2:
            data[at:end] = chance.randbytes(end - at)
        case 3:
            begin = chance.randrange(len(other) + 1)
            data[at:end] = other[begin : begin + 32]
        case 4:
            data[at:at] = data[at:end]
        case _ if at < len(data):
            data[at] ^= 1 << chance.randrange(8)


def keep(name: str, case: Seed) -> str:
    """Writes what was found where a person can take it from. Returns the words for the failure."""
    place = Path("out") / "fuzz" / f"{name}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as file:
        file.write(f"{case.line()}\n")
    return f"{case.name} with seed {SEED}; the line in {place} belongs into {CORPUS.name}/{name}.txt"
