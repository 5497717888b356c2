"""Benchmarks: each measures the system against another way to do the same in the same run. `lipsync bench` runs them."""
