"""Keeps Python's garbage collector from looking again and again at what a process keeps.

A full collection looks at every object that could be part of a ring: modules, classes and settings are a hundred thousand of them
in a service. Meanwhile nothing else runs, for a good part of a frame's time.
"""

from __future__ import annotations

import gc


def collect_nothing_yet() -> None:
    """Switches the collector off until `spare_what_stays`. Nearly all that a process makes while it starts stays."""
    gc.disable()


def spare_what_stays() -> None:
    """Collects once, and leaves all objects that exist out of later collections. Call it when a process begins its work."""
    gc.collect()
    gc.freeze()
    gc.enable()
