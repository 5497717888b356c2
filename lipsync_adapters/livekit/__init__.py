"""Joins LiveKit rooms as an avatar, at the request of agents."""
