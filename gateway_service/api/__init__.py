"""The HTTP part of the gateway: avatars, stills, moving pictures, health, and its own description."""
