"""The face of the earlier direct server: one frame a request, with the sound of the avatar's own clip."""
