"""Limits of use by callers, at once and in a while."""
