"""The `lipsync` command: serve, render, avatar, bench, doctor, demo."""
