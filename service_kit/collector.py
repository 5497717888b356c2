"""Keeps Python's garbage collector from looking again and again at what a process keeps.

A full collection looks at every object that could be part of a ring: modules, classes and settings are a hundred thousand of them
in a service, and each frame of a loaded avatar adds ten. Meanwhile nothing else runs, for a good part of a frame's time or more.
"""

from __future__ import annotations

import gc

# A full collection comes after so many of the middle generation: after 700,000 new objects, some seventy megabytes, were they all
# rings of references. Python's own number is 10.
FULL_EVERY = 100


def collect_nothing_yet() -> None:
    """Switches the collector off until `spare_what_stays`. Nearly all that a process makes while it starts stays."""
    gc.disable()


def spare_what_stays() -> None:
    """Collects once, leaves all objects that exist out of later collections, and makes full ones rare.

    Call it when a process begins its work.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_EVERY)
    gc.enable()
