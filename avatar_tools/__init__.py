"""Making, checking and showing avatars: for people and the command line, used by no service."""
