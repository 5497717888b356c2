"""Makes, checks and shows avatars, for people and the command line. No service uses it."""
