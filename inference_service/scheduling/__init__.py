"""Whose frames run next, and on which worker."""
