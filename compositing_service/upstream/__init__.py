"""The inference services: their addresses, their health, and the mouths that they send."""
