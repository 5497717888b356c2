"""Callers of the gateway: what each address needs, and tickets for WebSockets."""
