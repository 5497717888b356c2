"""Callers of the services: who they are, what they may do, and for how long they are known."""
