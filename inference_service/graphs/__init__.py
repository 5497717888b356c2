"""An avatar's network as the service runs it: wrapped with what surrounds it, and rewritten for a CPU."""
