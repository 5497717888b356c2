"""The garbage collector of a process that has begun its work, in a process of its own."""

import subprocess
import sys

# As many objects as thirty avatars of 523 frames have.
LOADS = """
import gc
from service_kit.collector import spare_what_stays
spare_what_stays()
before = gc.get_stats()
kept = [[each] for each in range(300_000)]
young, middle, full = (now["collections"] - then["collections"] for now, then in zip(gc.get_stats(), before))
print(young > 0, middle > 0, full)
"""


def test_what_a_process_loads_is_not_looked_through_as_a_whole_again_and_again() -> None:
    run = subprocess.run([sys.executable, "-c", LOADS], stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "0"]
