"""The pictures of loaded avatars: read, prepared, kept and dropped."""
