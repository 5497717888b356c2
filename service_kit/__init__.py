"""What every service needs and none should write twice. Knows nothing of avatars or pictures."""
