"""Brings live sessions into other systems."""
