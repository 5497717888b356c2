"""The parts that every service needs. Knows nothing of avatars or pictures."""
