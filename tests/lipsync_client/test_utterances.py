"""Anything may be shown, and the avatar lost at any time: each sample comes once, and what is held comes at its place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lipsync_client.utterances import Utterance, Utterances

# Sound of so many samples, or a word that is held.
PARTS = st.lists(st.one_of(st.integers(1, 2000), st.text("abc", min_size=1, max_size=3)), max_size=12)


def received(parts: list[int | str]) -> tuple[Utterance[str], np.ndarray, list[tuple[int, str]]]:
    """An utterance, its sound, and the words with their places in it."""
    utterance: Utterance[str] = Utterance()
    sound = np.arange(sum(part for part in parts if isinstance(part, int)), dtype=np.int64).astype(np.int16)
    held = []
    for part in parts:
        if isinstance(part, int):
            utterance.add(sound[utterance.received : utterance.received + part])
        else:
            utterance.hold(part)
            held.append((utterance.received, part))
    return utterance, sound, held


@given(PARTS, st.integers(0, 640))
def test_what_is_shown_and_the_rest_are_all_of_it(parts: list[int | str], frame: int) -> None:
    utterance, sound, held = received(parts)
    told: list[tuple[int, str]] = []
    shown = 0
    for _ in range(5):  # frames, before the avatar is lost
        step = min(frame, utterance.received - utterance.shown)
        utterance.show(step)
        shown += step
        told += [(shown, word) for word in utterance.due()]
    rest = []
    for part in utterance.rest():
        if isinstance(part, str):
            told.append((utterance.shown, part))
        else:
            rest.append(part)
    assert np.array_equal(np.concatenate([np.zeros(0, np.int16), *rest]), sound[shown:])
    assert [word for _, word in told] == [word for _, word in held]
    # A word comes with the frame that reaches its place, never before.
    assert all(place <= came <= place + frame for (place, _), (came, _) in zip(held, told, strict=True))
    assert not list(utterance.rest())


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_what_was_pushed_is_not_pushed_again_unless_it_begins_again(parts: list[int]) -> None:
    utterance: Utterance[str] = Utterance()
    pushed = []
    for size in parts:
        utterance.add(np.full(size, len(pushed), np.int16))
        pushed.append(utterance.to_push())
    assert [len(part) for part in pushed] == parts
    assert [int(part[0]) for part in pushed] == list(range(len(parts)))
    utterance.show(parts[0] // 2)
    utterance.begin_again()
    assert utterance.segment is None
    assert np.array_equal(utterance.to_push(), np.concatenate(pushed)[parts[0] // 2 :])


def test_utterances_are_found_in_their_order() -> None:
    kept: Utterances[Utterance[str]] = Utterances()
    first, second = kept.begin(Utterance(segment=4)), kept.begin(Utterance(segment=5))
    first.add(np.ones(10, np.int16))
    first.ended = True
    assert (kept.open, kept.last, kept.of_segment(4)) == (second, second, first)
    assert kept.next_to_push() is first
    first.to_push()
    assert kept.next_to_push() is first  # its end
    first.end_pushed = True
    assert kept.next_to_push() is None
    assert not first.is_over
    first.show(10)
    assert first.is_over
    kept.forget(first)
    kept.forget(first)
    assert kept.take_all() == [second]
    assert not kept
