"""Runs networks on devices: the `Engine` protocol, its implementations, and the crops that they read."""
