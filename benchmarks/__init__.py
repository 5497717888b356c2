"""What the system achieves, measured against other ways of doing the same in the same run. `lipsync bench` runs them."""
