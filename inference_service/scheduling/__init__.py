"""Decides whose frames run next and on which worker, and bounds the time of all that runs."""
