"""How much callers may use at once and in a while."""
