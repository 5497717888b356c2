"""Single frames and pictures of an avatar's clip, for clients of the earlier direct server."""
