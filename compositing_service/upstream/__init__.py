"""The inference services: where they are, whether they answer, and the mouths that they send."""
