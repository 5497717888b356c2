"""The steps of `run.sh` on a machine with a GPU. Each step writes what it has measured at once, as it may be cut off.

`--device cpu` proves the mechanics where there is no GPU, with a small network: its figures mean nothing.
"""
