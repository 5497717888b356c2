"""Opens, indexes and decodes a video that holds an avatar's pictures."""
