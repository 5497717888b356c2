"""Live sessions over WebSocket."""
