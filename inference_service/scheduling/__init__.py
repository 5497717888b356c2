"""Decides whose frames run next and on which worker."""
