"""The avatar package: its format on disk, its geometry, writing, loading, verifying, looking at it. Imports nothing of ours."""
